"""What others do to a disk between two mounts, and what the next mount makes of it.

Each way of tampering is tried by itself, and judged as a mount would judge it: refused, or accepted, perhaps without
the clean blocks.  What is accepted has to show what promises 1 and 2 allow; or, where it was the origin that others
replaced or changed, what that one has, and nothing else.

Left out is what nobody could tell: all three parts put back together; parts copied during a mount that did not end
cleanly, as the crash left the others of the same generation; an origin that can keep no claim, put back, or changed
where no clean block is; what others wrote after a crash to blocks that are not in the cache, or are dirty there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from crc32c import crc32c

from fusecache.attach.claim import Claim
from fusecache.attach.inspection import _require_no_claim
from fusecache.errors import RefusedError
from tests.crash.parts import Face, RestingRecord, SimOrigin
from tests.crash.rig import BLOCK, SimDisk
from tests.fakes import SECTOR, StoreState
from tests.model import judge_crash, shown

Allowed = Sequence[tuple[int, ...]]

_OTHERS: Final = b"\xdd"
"""What others write: no cell looks like that."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A disk as it was at one moment, and what it could show then."""

    disk: SimDisk
    allowed: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Tamperer:
    """Tampers with one disk; raises AssertionError if a mount would make the wrong thing of it.

    :ivar tried: how often.
    :ivar accepted: disks that a mount takes, though they are not what they were, with what they show.
    """

    disk: SimDisk
    allowed: Allowed
    cell_bytes: int
    rng: random.Random
    tried: int = 0
    accepted: list[tuple[SimDisk, list[int]]] = field(default_factory=list)

    def try_all(self, copies: Sequence[Copy]) -> None:
        """Try everything once, with some of the copies that were made of the disk before."""
        for copy in self.rng.sample(copies, min(2, len(copies))):
            self._put_back(copy)
        self._replace_origin()
        self._write_beside_us()
        self._rename_origin()
        if self.disk.face.keeps_claims:
            for is_left_dirty, empty in ((True, False), (False, False), (False, True)):
                self._let_another_in(is_left_dirty=is_left_dirty, empty=empty)

    # Stale parts

    def _put_back(self, copy: Copy) -> None:
        """Put parts back that were copied at another moment."""
        now, then = self.disk, copy.disk
        old_cache = replace(now, cache=then.cache, stamp=then.stamp)
        old_record = replace(now, record=then.record)
        self._expect(old_cache, "the cache of another moment")
        self._expect(old_record, "the record of another moment")
        if now.face.keeps_claims and len(now.origin.durable) == len(then.origin.durable):
            self._expect(replace(then, origin=now.origin, face=now.face), "cache and record of another moment")
            old_origin = replace(now, origin=then.origin, face=then.face)
            self._expect(old_origin, "the origin of another moment", takes_origin=True)
            both = [self.allowed, copy.allowed]
            self._expect(replace(then, record=now.record), "origin and cache of another moment", *both)
            self._expect(replace(then, cache=now.cache, stamp=now.stamp), "origin and record of another moment", *both)

    # Other origins

    def _replace_origin(self) -> None:
        """Put another origin in the place of ours, which never was ours, or is a fresh one."""
        content = StoreState(bytearray(_OTHERS * len(self.disk.origin.durable)))
        face = replace(self.disk.face, claim=None, changes=self.disk.face.changes + 1)
        if face.signs:
            other = replace(self.disk, origin=content, face=replace(face, signs=dict.fromkeys(face.signs, "another")))
            assert self._shown(other) is None, "another origin was accepted"
        if face.keeps_claims:
            self._expect(replace(self.disk, origin=content, face=face), "an origin of the same name", takes_origin=True)

    def _write_beside_us(self) -> None:
        """Write to the origin, where a clean block is; the claim stays."""
        record = RestingRecord(self.disk.record)
        zeros = crc32c(bytes(BLOCK))  # of which a mount thinks nothing
        clean = [oblock for oblock, _ in record.sums(len(self.disk.record.rows) or 1, leave_out=zeros)]
        if clean:
            changed = self._overwritten(self.disk, self.rng.choice(clean))
            self._expect(changed, "an origin that others wrote to", takes_origin=True)

    def _rename_origin(self) -> None:
        """Call it otherwise; it stays the same by its signs."""
        face = replace(self.disk.face, address="/elsewhere", place="another")
        shows = self._expect(replace(self.disk, face=face), "an origin by another name")
        assert (shows is not None) == bool(face.signs), "an origin has to be known by its signs, and by them alone"

    # Another cache

    def _let_another_in(self, *, is_left_dirty: bool, empty: bool) -> None:
        """Mount another cache in front of the same origin, by force if need be; then ours again."""
        origin = SimOrigin.at_rest(self.disk.face, self.disk.origin)
        try:
            _require_no_claim(origin.claims, None)
        except RefusedError:
            pass  # it takes --format twice
        else:
            judge_crash(self.disk.origin.newest(), self.allowed, self.cell_bytes)  # else it is not all there
        if empty:
            origin.claims.remove()
        else:
            origin.claims.write(Claim("theirs", "/nowhere/metadata", "2-beef", clean=not is_left_dirty))
        ours = replace(self.disk, face=origin.face)
        if not is_left_dirty:
            ours = self._overwritten(ours, self.rng.randrange(-(-len(ours.origin.durable) // BLOCK)))
        shows = self._expect(ours, "an origin that another cache was in front of", takes_origin=True)
        assert shows is None or not is_left_dirty, "accepted though another cache has newer data"

    # What comes of it

    def _expect(self, disk: SimDisk, what: str, *allowed: Allowed, takes_origin: bool = False) -> list[int] | None:
        """Hold what a mount would show against what it may; returns it, None if the mount is refused.

        :param allowed: what it may show: all of one of them.
        :param takes_origin: whether it may show what the origin has instead.
        """
        image = self._shown(disk)
        if image is None:
            return None
        shows = shown(image, self.cell_bytes)
        self.accepted.append((disk.resized()[-1].settled(), shows))
        if takes_origin and image == disk.origin.newest():
            return shows
        wrong: list[AssertionError] = []
        for those in allowed or (self.allowed,):
            try:
                return judge_crash(image, those, self.cell_bytes)
            except AssertionError as exc:
                wrong.append(exc)
        msg = f"{what} was accepted: {wrong[0]}"
        raise AssertionError(msg)

    def _shown(self, disk: SimDisk) -> bytearray | None:
        """Return the image that a mount would show; None if the mount is refused."""
        self.tried += 1
        try:
            return disk.resized()[-1].image()
        except RefusedError:
            return None

    def _overwritten(self, disk: SimDisk, oblock: int) -> SimDisk:
        """Let others write to a block of the origin."""
        pending = {sector: list(versions) for sector, versions in disk.origin.pending.items()}
        first = oblock * BLOCK // SECTOR
        length = min(BLOCK, len(disk.origin.durable) - oblock * BLOCK)
        for sector in range(first, first + -(-length // SECTOR)):
            size = len(disk.origin.durable[sector * SECTOR : (sector + 1) * SECTOR])
            pending.setdefault(sector, []).append(_OTHERS * size)
        return replace(disk, origin=StoreState(disk.origin.durable, pending), face=disk.face.changed())


def choose_face(rng: random.Random) -> Face:
    """Choose what kind of origin it is."""
    signs = {"inode": "17"} if rng.random() < 0.8 else {}
    return Face(signs=signs, keeps_claims=rng.random() < 0.8, shows_changes=rng.random() < 0.7)
