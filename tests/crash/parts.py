"""What ties the parts of a simulated disk together: what its origin tells of itself, and the real bond over it.

Claim, stamp and identity are small, and each change of them is durable or was not made.  So a crash during a beginning
or an end finds what was there after one of its steps.  The time at which the origin was last changed is another matter:
it is durable only once somebody has made it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final, cast

from fusecache.attach.binding import Binding
from fusecache.attach.bond import Bond
from fusecache.attach.claim import Claim
from fusecache.attach.claims import Claims
from fusecache.attach.origin import Origin, Strengths
from fusecache.attach.stamp import Stamp
from fusecache.block.geometry import Geometry
from fusecache.metadata import Database, Identity, ImageTimes, Superblock
from fusecache.stores.base import Store
from tests.fakes import RecordState, SimRecord, SimStore, StoreState

UUID: Final = "ours"
CACHE: Final = Path("/cache")
METADATA: Final = Path("/metadata")
"""Names of what is only simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """What an origin tells of itself, and what is noted on it."""

    address: str = "/origin"
    place: str = "place"
    signs: Mapping[str, str] = field(default_factory=lambda: {"inode": "17"})
    claim: Claim | None = None
    keeps_claims: bool = True
    shows_changes: bool = True
    """Whether it has a time of modification, or the like."""
    changes: int = 0
    """How often it was changed: its time of modification."""
    lasting: int = 0
    """The same, as a power cut may leave it."""

    def changed(self, times: int = 1) -> Face:
        """Return it as it is after some changes of the content."""
        return replace(self, changes=self.changes + times) if times else self

    def after_power_cut(self) -> Face:
        """Forget changes, but not those of the content, that nobody made durable."""
        return self if self.changes == self.lasting else replace(self, changes=self.lasting)


class SimOrigin:
    """An open origin, as far as it is asked before a mount and after it; see :class:`fusecache.attach.origin.Origin`.

    :param changes: how often it was changed since ``face`` was true.
    :param on_step: called after each change of what is noted on it.
    """

    def __init__(
        self,
        face: Face,
        size: int,
        *,
        read: Callable[[int, int], bytes],
        changes: Callable[[], int] = lambda: 0,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._face = face
        self.size = size
        self.read_now = read
        self._changes = changes
        self._on_step = on_step

    @classmethod
    def at_rest(cls, face: Face, content: StoreState) -> SimOrigin:
        """Open one that nobody writes to."""
        return cls(face, len(content.durable), read=content.read)

    @property
    def address(self) -> str:
        return self._face.address

    @property
    def face(self) -> Face:
        """What it tells at this moment."""
        return self._face.changed(self._changes())

    @property
    def claims(self) -> Claims:
        """What is claimed of it; there is no other place for claims."""
        return Claims(cast("Origin", self), None)

    def identity(self) -> Identity:
        face = self.face
        version = str(face.changes) if face.shows_changes else "0"
        return Identity(address=face.address, place=face.place, version=version, size=self.size, signs=face.signs)

    def claim(self) -> Claim | None:
        return self._face.claim

    def write_claim(self, claim: Claim) -> bool:
        if self._face.keeps_claims:
            self._face = replace(self._face, claim=claim)
            self._on_step()
        return self._face.keeps_claims

    def remove_claim(self) -> None:
        self._face = replace(self._face, claim=None)
        self._on_step()

    def make_identity_durable(self) -> None:
        self._face = replace(self._face, lasting=self.face.changes)


class RestingRecord:
    """The record between mounts, as far as it is asked before one; see :class:`fusecache.metadata.Database`."""

    def __init__(self, state: RecordState) -> None:
        self._state = state
        self._superblock = _superblock(tuple(state.values.items()))
        blocks = self._superblock.region_blocks
        self._newer = {cblock for cblock, row in state.rows.items() if row[1] or cblock // blocks in state.regions}

    def superblock(self) -> Superblock:
        return self._superblock

    def count_newer(self) -> int:
        return len(self._newer)

    def sums(self, most: int, *, turn: int = 0, leave_out: int = -1) -> Iterator[tuple[int, int]]:
        found = [
            (oblock, crc)
            for cblock, (oblock, _, _, crc, _) in sorted(self._state.rows.items())
            if crc is not None and crc != leave_out and cblock not in self._newer
        ]
        step = max(1, len(found) // most)
        yield from found[turn % step :: step]


@lru_cache(maxsize=8)
def _superblock(values: tuple[tuple[str, str], ...]) -> Superblock:
    """Read it once for all crashes between two changes."""
    return Superblock.unpack(dict(values))


class Ties:
    """What holds the parts of a mounted disk together, and the real :class:`Binding` that changes it.

    :ivar on_step: called after each step of a beginning or an end, and while a commit of the latter is under way.
    """

    def __init__(
        self,
        face: Face,
        stamp: Stamp,
        *,
        origin: SimStore,
        cache: SimStore,
        record: SimRecord,
        geometry: Geometry,
    ) -> None:
        self.stamp = stamp
        self.on_step: Callable[[], None] = lambda: None
        self._origin = SimOrigin(
            face, origin.size, read=origin.read_now, changes=lambda: origin.writes, on_step=self._step
        )
        superblock = Superblock.unpack(record.values())
        self.binding = Binding(
            origin=cast("Store", origin),
            cache=cast("Store", cache),
            database=cast("Database", record),
            geometry=geometry,
            engine="simulated",
            strengths=Strengths(request_bytes=4096, parallelism=1, reads_ahead=False, can_discard=False),
            region_blocks=superblock.region_blocks,
            was_clean=superblock.clean_shutdown,
            notes=[],
            cache_path=CACHE,
            metadata_path=METADATA,
            image_times=ImageTimes(0, 0),
            _origin=cast("Origin", self._origin),
            _cache_fd=cast("int", cache),  # its size is asked for, and nothing else; see `simulated`
            _created=ExitStack(),
            _bond=Bond(
                uuid=superblock.uuid,
                generation=superblock.generation,
                previous=superblock.previous_generation,
                metadata=str(METADATA),
                ledger=record,
                write_stamp=self._write_stamp,
                claims=self._origin.claims,
            ),
        )
        record.on_change = self._step

    @property
    def face(self) -> Face:
        """What the origin tells at this moment."""
        return self._origin.face

    def _write_stamp(self, stamp: Stamp) -> None:
        self.stamp = stamp
        self._step()

    def _step(self) -> None:
        self.on_step()
