"""By which an origin is known again: what it is, not where it is.

Theory of operation
-------------------
A path says little: another disk may be behind ``/dev/sdb`` today, another file may have been moved to the old one's
name.  So an origin tells several *signs* of itself, each with a name: a file its inode, the inode's generation and the
time of its birth; a device its serial number, the number of its partition.  What a kind of origin cannot tell it leaves
out, and which signs can be had may change from mount to mount.  So those are compared that both have, and each
disagreement counts.

The signs say *which* origin it is.  Whether its content is still the same, :attr:`Identity.version` and
:attr:`Identity.marks` say, and the sums of cached blocks (:mod:`fusecache.attach.agreement`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

TOUCHED: Final = "origin_ctime_ns"
_MOST_BYTES: Final = 1 << 16
"""Of the text that signs are read from."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What an origin tells of itself; the text in it is compared, and nothing else."""

    address: str
    """What the user knows it by, written in one way only: of a file, its absolute path without links."""
    place: str
    """Where it is in this system: of a file, file system and inode; of a device, its number.  Others may be there
    tomorrow."""
    version: str
    """Another one after each change: of a file, its time of modification; ``0`` where changes do not show.  Its last
    word counts, and means something as long as the words before it are the same: of a device, the sectors written since
    the system was started, and for how long it has been this disk."""
    size: int | None
    """In bytes; None where the metadata does not say."""
    signs: Mapping[str, str] = field(default_factory=dict)
    """What it is, wherever it is; by the name of the sign, in the user's words."""
    marks: str = ""
    """A sum of those parts of the content where file systems and partition tables have what they are known by, which
    any use of them changes; empty where that is not known."""
    label: str = ""
    """What the content calls itself, such as ``ext4 1b4e28ba-...``; empty if it says nothing."""
    touched: str = ""
    """Another one after each change of it or of what is said of it, even if its version was set back: of a file, its
    time of change of status.  Our own notes change it, too; empty where it is not known."""

    def other_signs_than(self, recorded: Identity) -> list[str]:
        """Say in which signs this is not the origin that was recorded, in words."""
        return [
            f"its {name} is {self.signs[name]}, not {then}"
            for name, then in recorded.signs.items()
            if name in self.signs and self.signs[name] != then
        ]

    def is_known_by_signs(self, recorded: Identity) -> bool:
        """Tell whether this is surely the origin that was recorded, wherever it is now."""
        shared = recorded.signs.keys() & self.signs.keys()
        return bool(shared) and all(self.signs[name] == recorded.signs[name] for name in shared)

    def can_tell_since(self, recorded: Identity) -> bool:
        """Tell whether its version would be another one if it had been written meanwhile."""
        (epoch, _, count), (before, _, _) = self.version.rpartition(" "), recorded.version.rpartition(" ")
        return epoch == before and count != "0"

    def is_where_it_was(self, recorded: Identity) -> bool:
        """Tell whether it has the same address, or is in the same place.

        What has no signs is in a place that may be another one's tomorrow.
        """
        return self.address == recorded.address or (bool(self.signs) and self.place == recorded.place)

    def has_changed_since(self, recorded: Identity) -> bool:
        """Tell whether others have changed it since a clean end at which that was recorded.

        After any other end it tells nothing: the last writes may have been ours.
        """
        marks_differ = bool(self.marks and recorded.marks) and self.marks != recorded.marks
        (epoch, _, count), (before, _, then) = self.version.rpartition(" "), recorded.version.rpartition(" ")
        return (epoch == before and count != then) or marks_differ

    def was_touched_since(self, recorded: Identity) -> bool:
        """Tell whether others may have changed it since a clean end, and set its version back.

        Another name explains that it was touched.
        """
        differs = bool(self.touched and recorded.touched) and self.touched != recorded.touched
        return differs and self.address == recorded.address

    def has_grown_since(self, recorded: Identity) -> bool:
        """Tell whether it is the same thing, and longer."""
        is_longer = self.size is not None and recorded.size is not None and self.size > recorded.size
        is_same = self.is_known_by_signs(recorded) or self.is_where_it_was(recorded)
        return is_same and is_longer and not self.other_signs_than(recorded)

    def pack(self) -> dict[str, str]:
        """Return it as names and values of the metadata."""
        values = {
            "origin_path": self.address,
            "origin_inode": self.place,
            "origin_mtime_ns": self.version,
            "origin_signs": json.dumps(dict(self.signs)),
            "origin_marks": self.marks,
            "origin_label": self.label,
            TOUCHED: self.touched,
        }
        return values if self.size is None else values | {"origin_bytes": str(self.size)}

    @classmethod
    def unpack(cls, values: Mapping[str, str]) -> Identity:
        """Read what :meth:`pack` wrote; what older versions did not write is not known."""
        return cls(
            address=values["origin_path"],
            place=values["origin_inode"],
            version=values["origin_mtime_ns"],
            size=int(values["origin_bytes"]) if "origin_bytes" in values else None,
            signs=_signs(values.get("origin_signs", "")),
            marks=values.get("origin_marks", ""),
            label=values.get("origin_label", ""),
            touched=values.get(TOUCHED, ""),
        )


def _signs(text: str) -> dict[str, str]:
    """Read signs; none of what cannot be such."""
    try:
        found = json.loads(text) if len(text) <= _MOST_BYTES else {}
        return {name: sign for name, sign in found.items() if isinstance(sign, str)}
    except (ValueError, AttributeError, RecursionError):
        return {}
