"""The three parts of one mount, open and held: origin, cache and metadata, and what is recorded of them.

The metadata carries a uuid, the sizes, and the origin's identity; the cache begins with a *stamp* with the same uuid
(:mod:`fusecache.attach.stamp`); the origin has a claim (:mod:`fusecache.attach.claim`).  That the three are of one
moment, their generation says (:mod:`fusecache.attach.bond`).  Of an origin to which nothing is written nothing
changes, its claim included: nothing turns dirty, and what was dirty stays so.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusecache.attach.names import Name
from fusecache.errors import StoreError
from fusecache.linux import size_of
from fusecache.metadata import Transaction, packed, side_files

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.attach.bond import Bond
    from fusecache.attach.origin import Origin, Space, Strengths
    from fusecache.block import Geometry
    from fusecache.metadata import Database, ImageTimes
    from fusecache.stores import Store


@dataclass(slots=True, kw_only=True)
class Binding:
    """Origin, cache and metadata of one mount, open and locked."""

    origin: Store
    cache: Store
    database: Database
    geometry: Geometry
    engine: str
    """What does the I/O that waits."""
    strengths: Strengths
    """Of the origin."""
    region_blocks: int
    was_clean: bool
    """Whether the last mount ended cleanly."""
    read_only: str = ""
    """Why nothing is written to the origin; empty if it is."""
    notes: list[str]
    """What the user should hear."""
    cache_path: Path
    metadata_path: Path
    image_times: ImageTimes
    """The times that the image has by now, for the record of a clean end."""
    _origin: Origin
    _cache_fd: int
    _created: ExitStack
    """What would remove the files made for this mount."""
    _bond: Bond
    _names: dict[str, Name] = field(default_factory=dict)
    """Of its files but the origin's."""

    @property
    def uuid(self) -> str:
        """By which the three know each other."""
        return self._bond.uuid

    @property
    def is_new(self) -> bool:
        """Whether no mount has begun with this metadata yet."""
        return not self._bond.generation

    @property
    def origin_address(self) -> str:
        """What the user knows the origin by."""
        return self._origin.address

    def allocated(self) -> int | None:
        """Return how many bytes of room the origin takes; None where nothing tells.  May wait; raises OSError."""
        return self._origin.allocated()

    def space(self) -> Space | None:
        """Return how full the origin's file system is; None if it lies on none.  May wait; raises OSError."""
        return self._origin.space()

    def begin(self) -> None:
        """Record, durably, that a mount has begun: until it ends cleanly, it counts as crashed.  New files stay.

        :raises FusecacheError: it cannot be recorded everywhere; no block may turn dirty.
        """
        is_first = self.is_new
        self.database.set_values(
            packed(
                clean_shutdown=False,
                image_bytes=self.geometry.image_bytes,
                cache_bytes=size_of(self._cache_fd),
                cache_path=str(self.cache_path),
                origin=self._origin.identity(),
            )
            | self._bond.renewed()
        )
        self._created.pop_all()
        self._bond.settle()
        if is_first and not self.read_only and self._bond.claimed_at != self._origin.address:
            self.notes.append(_where(self._bond.claimed_at))

    def make_rows(self, notes: list[tuple[int, int, int | None]]) -> None:
        """Make rows of what a process that was killed had noted, after the data that they name is durable.

        :param notes: cblocks, oblocks, and the sectors that the cache has, or None for all.
        :raises FusecacheError: that is not possible; there are none of them then.
        """
        try:
            os.fdatasync(self._cache_fd)
        except OSError as exc:
            msg = f"cannot flush {self.cache_path}: {exc.strerror}"
            raise StoreError(msg) from exc
        rows = Transaction()
        rows.mapped.extend((cblock, oblock, True, None, valid) for cblock, oblock, valid in notes)
        self.database.apply(rows)

    def remember_names(self) -> None:
        """Note what the names of the files mean, for :meth:`gone`."""
        self._names = {
            "cache": Name(self.cache_path, os.fstat(self._cache_fd)),
            "metadata": Name(self.metadata_path, self.metadata_path.stat()),
        }
        log, *_ = side_files(self.metadata_path)
        if log.exists():
            self._names["metadata-log"] = Name(log, log.stat())

    def gone(self) -> dict[str, str]:
        """Return which parts are not what their names mean any more, and those names; may wait for a disk."""
        gone = {part: str(name.path) for part, name in self._names.items() if not name.is_in_place()}
        return gone if self._origin.is_in_place() else gone | {"origin": self.origin_address}

    def end_values(self) -> dict[str, str]:
        """Return what to record at a clean end; raises StoreError."""
        if not self.read_only:
            self._origin.make_identity_durable()
        values = packed(clean_shutdown=True, origin=self._origin.identity()) | self._bond.renewed()
        return values | packed(image_times=self.image_times.pack(self._bond.generation))

    def end(self, *, dirty: int, cached: int) -> None:
        """Follow a clean end that is recorded: stamp and claim become those of the new generation.

        :param dirty: blocks that only the cache has.
        :param cached: blocks in the cache.
        :raises MetadataError: the last of it cannot be recorded.
        """
        self._bond.settle_at_end(clean=not dirty, empty=not cached)


def _where(claimed_at: str) -> str:
    """Tell that an origin cannot keep notes, and what that means."""
    kept = f"it is in {claimed_at}, and other hosts and users do not see it" if claimed_at else "it is kept nowhere"
    return f"the origin has no extended attributes for the note that its newest data may be in this cache: {kept}"
