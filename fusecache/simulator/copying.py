"""Replay a trace as dm-cache would play it: misses go to the origin, and promotions copy blocks by themselves."""

from __future__ import annotations

from typing import Final

from fusecache.simulator.counts import Counts
from fusecache.simulator.player import ITEMS, REQUESTS_PER_TICK, Player
from fusecache.simulator.requests import WHOLE, WRITES, Portion, Progress, split
from fusecache.simulator.trace import Trace
from fusecache.units import SECTOR
from policies import DEMOTE, MISS, MISS_QUEUED, PROMOTE, Policy, Work

_WHOLE_WRITE: Final = WRITES + WHOLE


class CopyPlayer(Player):
    """Plays :attr:`DataPath.COPY`."""

    def __init__(self, trace: Trace, policy: Policy, block_size: int, report: Progress) -> None:
        super().__init__(trace, policy, block_size, report, Counts())

    def play(self) -> None:
        """Replay the trace."""
        if self._policy.observes_bios:
            self._play_observed()
        else:
            self._play()

    def _play(self) -> None:
        previous_us = self._trace.times_us[0]
        for portion in split(self._trace, self._block_size):
            self._play_portion(portion, previous_us)
            previous_us = portion.times_us[-1]
            self._report(portion.done, len(self._trace.writes))

    def _play_portion(self, portion: Portion, previous_us: int) -> None:
        """Replay a part of the trace; the loop is written for speed, and so counts what the disk does itself."""
        policy, counts, disk = self._policy, self.counts, self.counts.disk
        lookup, get_background_work, set_dirty = policy.lookup, policy.get_background_work, policy.set_dirty
        due_us, position = self._due_us, disk.position
        misses = missed_writes = written = seeks = moved = 0
        for index, time_us, kind, oblock, offset, length in zip(self._enter(portion), *portion[1:], strict=True):
            if time_us >= due_us or not index % REQUESTS_PER_TICK:
                disk.position = position
                due_us = self._let_time_pass(index, previous_us, time_us)
                position = disk.position
            previous_us = time_us
            if kind & WRITES:
                cblock = self._refer_whole_write(oblock) if kind & WHOLE else lookup(oblock, True, False)
                if cblock < 0:
                    missed_writes += 1
                else:
                    set_dirty(cblock)
                    written += length
            else:
                cblock = lookup(oblock, False, False)
            if cblock < 0:
                misses += 1
                seeks += offset != position
                position = offset + length
                moved += length
            work = get_background_work(False)
            if work is not None:
                disk.position = position
                self._carry_out(work, oblock, kind)
                self._take(ITEMS - 1, oblock, kind)
                position = disk.position
        counts.hits += len(portion.oblocks) - misses
        counts.written += written
        disk.reads += misses - missed_writes
        disk.writes += missed_writes
        disk.seeks += seeks
        disk.moved += moved
        disk.position = position

    def _play_observed(self) -> None:
        """Replay the trace through a policy that observes bios."""
        policy, counts = self._policy, self.counts
        read, write = counts.disk.read, counts.disk.write
        previous_us = self._trace.times_us[0]
        for portion in split(self._trace, self._block_size):
            columns = zip(*portion[1:], strict=True)
            for index, (time_us, kind, oblock, offset, length) in zip(self._enter(portion), columns, strict=True):
                now_ms = self._now_ms(index, time_us)
                if index:
                    self._tick_in_gap(previous_us, time_us)
                    policy.tick(now_ms)
                previous_us = time_us
                policy.observe_bio(offset - offset % SECTOR, length - length % SECTOR, False, now_ms)
                cblock = policy.lookup(oblock, kind & WRITES == WRITES, False)
                if cblock >= 0:
                    counts.hits += 1
                    if kind & WRITES:
                        counts.written += length
                else:
                    (write if kind & WRITES else read)(offset, length)
                    if cblock == MISS_QUEUED:
                        cblock = self._promote(oblock, kind)
                        if cblock >= 0 and kind & _WHOLE_WRITE == WRITES:
                            counts.written += length
                if cblock >= 0 and kind & WRITES:
                    policy.set_dirty(cblock)
                self._take(ITEMS, oblock, kind)
            self._report(portion.done, len(self._trace.writes))

    def _refer_whole_write(self, oblock: int) -> int:
        """Refer a write of a whole block; carry out what comes with it."""
        cblock, work = self._policy.lookup_with_work(oblock, True, True)
        if work is not None:
            self.counts.promotions += 1
            self.counts.overwrite_promotions += 1
            self.counts.fills += 1
            self._policy.complete_background_work(work, True)
            self._policy.set_dirty(work.cblock)
        return cblock

    def _promote(self, oblock: int, kind: int) -> int:
        """Take items until a block is promoted; return its cblock, or MISS if it is not."""
        for _ in range(ITEMS):
            work = self._policy.get_background_work(False)
            if work is None:
                break
            self._carry_out(work, oblock, kind)
            if work.op is PROMOTE and work.oblock == oblock:
                return work.cblock
        return MISS

    def _carry_out(self, work: Work, oblock: int, kind: int) -> None:
        policy, counts = self._policy, self.counts
        if work.op is PROMOTE:
            counts.promotions += 1
            if kind & WHOLE and work.oblock == oblock:
                counts.fills += 1
            else:
                counts.disk.read(work.oblock * self._block_size, self._block_size)
            policy.complete_background_work(work, True)
            policy.clear_dirty(work.cblock)
            return
        if work.op is DEMOTE:
            counts.demotions += 1
        else:
            counts.writebacks += 1
            counts.disk.write(work.oblock * self._block_size, self._block_size)
        policy.clear_dirty(work.cblock)
        policy.complete_background_work(work, True)
