"""The data path: every read and write of the image.

Theory of operation
-------------------
The disk cuts a request at block boundaries into *bios*.  It asks the policy once about each of them and decides where
the bio goes (:mod:`fusecache.datapath.reading`, :mod:`fusecache.datapath.writing`).  Neighbouring bios that lie
contiguously in one store become one I/O again, an *extent*.  Deciding never waits; the I/O comes after it.

Two kinds of bios are served at once, without a lock, a task switch or new memory: a read whose bytes are in the page
cache, and a write to a block with write intent.  Every other bio holds its block shared during its I/O.  Nothing else
runs between deciding and taking the hold.  If a migration keeps a block locked, the bio parks *before* the policy is
asked, and starts again when the lock is gone (dm-cache 2.3).

======================  ==============  =======================================  ======================
mode                    read hit        write hit, clean                         write hit, dirty
======================  ==============  =======================================  ======================
writeback               cache           cache; turns dirty                       cache
writethrough            cache           origin and cache; stays clean            cache; stays dirty
passthrough             origin          mapping dropped durably, then origin     cannot be
======================  ==============  =======================================  ======================

A discard is a write of zeros for which space is given back where that can be done
(:mod:`fusecache.datapath.discarding`).

A miss goes to the origin.  A read that misses may fill its block.  A write that misses may be absorbed, and in
writeback mode a write of a whole block may promote the block with its own data.  The tail of the image, which is less
than a block, is served from the origin and not counted.

If nothing is to be written to the origin, every write is refused, also in writeback mode: what would be dirty could
never be written back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.datapath.discarding import Discarder
from fusecache.datapath.reading import Reader
from fusecache.datapath.seeking import Seeker
from fusecache.datapath.writing import Writer
from fusecache.errors import FusecacheError, ReadOnlyError
from fusecache.volume import OriginIO

if TYPE_CHECKING:
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume


class Disk:
    """Serves the image of one volume: what a disk does.

    :ivar size: of the image, in bytes.
    """

    __slots__ = ("_volume", "discard", "read", "seek", "size", "write")

    def __init__(self, volume: Volume, worker: MigrationWorker) -> None:
        origin = OriginIO(volume)
        self._volume = volume
        self.read = Reader(volume, worker, origin).read
        writer = Writer(volume, worker, origin)
        self.size = volume.geometry.image_bytes
        self.seek = Seeker(volume).seek
        refused = bool(volume.health.origin_read_only)
        self.write = self._refuse_write if refused else writer.write
        self.discard = self._refuse_discard if refused else Discarder(volume, worker, origin, writer).discard

    async def flush(self) -> None:
        """Make everything durable that was written before; raises FusecacheError if it is not."""
        health = self._volume.health
        try:
            await self._volume.durability.fsync()
        except FusecacheError:
            health.unreported = ""
            raise
        health.report()

    async def _refuse_write(self, offset: int, data: bytes | memoryview) -> int:
        """Take the place of writes where nothing is written."""
        del offset, data
        raise ReadOnlyError(str(self._volume.health))

    async def _refuse_discard(self, offset: int, length: int) -> None:
        """Take the place of discards there."""
        del offset, length
        raise ReadOnlyError(str(self._volume.health))
