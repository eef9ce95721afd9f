"""How many bytes a second may be copied between cache and origin.

Theory of operation
-------------------
Whoever copies on the cache's own account waits for its bytes first (:meth:`CopyRate.wait_for`), in the order of
arrival, and *before* it locks any block.  So a limit makes copies rare, and never keeps a writer waiting.  One stretch
of neighbours, or one block that is larger, is granted at once.

The limit holds for everything that is copied: promotions, writebacks, demotions of dirty blocks, healing, and also a
flush or a decommission that a user asked for.  It is a promise to others on the same network or disk, and a user who
wants the flush to end sooner can raise it while the flush runs.  Two things are exempt: what a user's request waits
for, and what is brought to safety from a cache that is failing.
"""

from __future__ import annotations

import trio

from fusecache.migration.token_bucket import TokenBucket


class CopyRate:
    """The copy rate of one volume.

    :param burst: bytes of the largest copy that is granted at once.
    """

    __slots__ = ("_bucket", "_changed", "_queue")

    def __init__(self, *, burst: int) -> None:
        self._bucket = TokenBucket(0, burst)
        self._queue = trio.Lock()
        self._changed = trio.Event()

    @property
    def rate(self) -> int:
        """Bytes a second; 0 for no limit."""
        return self._bucket.rate

    def set_rate(self, rate: int) -> None:
        """Change the rate from now on, for those who wait already as well."""
        self._bucket.set_rate(rate, trio.current_time())
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def wait_for(self, amount: int) -> None:
        """Wait until so many bytes may be copied."""
        if not (amount and self._bucket.rate):
            return
        async with self._queue:
            while pause := self._bucket.take(amount, trio.current_time()):
                with trio.move_on_after(pause):
                    await self._changed.wait()

    def takes(self, amount: int) -> bool:
        """Tell whether so many bytes may be copied at once, and count them if so."""
        return not (self._bucket.rate and (self._queue.locked() or self._bucket.take(amount, trio.current_time())))

    def check(self) -> None:
        """Assert that nobody was granted too much."""
        self._bucket.check()
