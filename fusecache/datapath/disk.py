"""The data path: every read and write of the image.

Theory of operation
-------------------
A request is cut at block boundaries into *bios*.  Each is referred to the policy once, which decides where it goes
(:mod:`fusecache.datapath.reading`, :mod:`fusecache.datapath.writing`); neighbours that lie contiguously in one store
become one I/O again.  Deciding never waits; then comes the I/O.

What is in the page cache (read) or goes to a covered block (write) is served right then: no lock, no task switch, no
memory to allocate.  Everything else takes its block shared first; between deciding and locking nothing else runs.  A
block that a migration keeps locked parks the bio, *before* the policy is asked, and it starts again when the lock is
gone (dm-cache 2.3).

======================  ==============  =======================================  ======================
mode                    read hit        write hit, clean                         write hit, dirty
======================  ==============  =======================================  ======================
writeback               cache           cache; turns dirty                       cache
writethrough            cache           origin and cache; stays clean            cache; stays dirty
passthrough             origin          mapping dropped durably, then origin     cannot be
======================  ==============  =======================================  ======================

A miss goes to the origin.  In writeback mode a write of a whole block may be promoted by its own data.  The tail of the
image, less than a block, goes to the origin without being counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.datapath.origin_io import OriginIO
from fusecache.datapath.reading import Reader
from fusecache.datapath.writing import Writer
from fusecache.errors import FusecacheError

if TYPE_CHECKING:
    from fusecache.migration import MigrationWorker
    from fusecache.volume import Volume


class Disk:
    """Serves the image of one volume: the three things that a disk does."""

    __slots__ = ("_volume", "read", "write")

    def __init__(self, volume: Volume, worker: MigrationWorker) -> None:
        origin = OriginIO(volume)
        self._volume = volume
        self.read = Reader(volume, worker, origin).read
        self.write = Writer(volume, worker, origin).write

    async def flush(self) -> None:
        """Make everything durable that was written before; raises FusecacheError if it is not."""
        health = self._volume.health
        try:
            await self._volume.durability.fsync()
        except FusecacheError:
            health.unreported = ""
            raise
        health.report()
