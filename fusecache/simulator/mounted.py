"""Replay a trace as a mount would play it: misses fill blocks, writes are absorbed, neighbours are written together."""

from __future__ import annotations

from fusecache.simulator.mount import REQUESTS_PER_LOOK, Mount
from fusecache.simulator.player import ITEMS, REQUESTS_PER_TICK, Player
from fusecache.simulator.requests import WRITES, Portion, Progress, split
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import Trace
from fusecache.units import SECTOR
from policies import DEMOTE, PROMOTE, Policy, Work


class MountPlayer(Player):
    """Plays :attr:`DataPath.FILL` and :attr:`DataPath.ABSORB`."""

    def __init__(
        self, trace: Trace, policy: Policy, block_size: int, data_path: DataPath, rules: Rules, report: Progress
    ) -> None:
        self._mount = Mount(trace, block_size, data_path, rules, policy.clear_dirty)
        super().__init__(trace, policy, block_size, report, self._mount.counts)
        self._previous_us = trace.times_us[0]
        self._is_run = False  # of misses, at the end of the last portion

    def play(self) -> None:
        """Replay the trace."""
        for portion in split(self._trace, self._block_size):
            self._play_portion(portion)
            self._report(portion.done, len(self._trace.writes))

    def _play_portion(self, portion: Portion) -> None:
        """Replay a part of the trace; the loop is written for speed."""
        policy, mount, misses = self._policy, self._mount, self._mount.misses
        lookup, lookup_with_work, get_background_work = (
            policy.lookup,
            policy.lookup_with_work,
            policy.get_background_work,
        )
        carry_out = self._carry_out
        at_once, partial = mount.at_once, mount.blocks.partial
        observes = policy.observes_bios
        period = 1 if observes else REQUESTS_PER_TICK
        due_us, previous_us, is_run = self._due_us, self._previous_us, self._is_run
        hits = 0
        for index, time_us, kind, oblock, offset, length in zip(self._enter(portion), *portion[1:], strict=True):
            if time_us >= due_us or not index % period:
                due_us = self._let_time_pass(index, previous_us, time_us)
            previous_us = time_us
            if observes:
                self._show(index, time_us, offset, length)
            if kind & at_once == at_once:
                cblock, promotion = lookup_with_work(oblock, True, True)
            else:
                cblock, promotion = lookup(oblock, kind & WRITES == WRITES, False), None
            if cblock < 0 and promotion is None:
                is_run = misses.add(kind, oblock, offset, length)
            else:
                if is_run:
                    misses.end(kind)
                    is_run = False
                if promotion is not None:
                    policy.complete_background_work(promotion, True)
                    policy.set_dirty(promotion.cblock)
                    mount.absorb(index, time_us, kind, oblock, promotion.cblock, offset, length)
                else:
                    hits += 1
                    if (kind & WRITES or oblock in partial) and mount.hit(index, time_us, kind, oblock, offset, length):
                        policy.set_dirty(cblock)
            work = get_background_work(False)
            left = ITEMS
            while work is not None:
                carry_out(work, oblock, kind)
                left -= 1
                work = get_background_work(False) if left else None
        self.counts.hits += hits
        self._previous_us, self._is_run = previous_us, is_run

    def _let_time_pass(self, index: int, previous_us: int, time_us: int) -> float:
        if not self._policy.observes_bios:
            super()._let_time_pass(index, previous_us, time_us)
        elif index:
            self._tick_in_gap(previous_us, time_us)
            self._policy.tick(self._now_ms(index, time_us))
        if not index % REQUESTS_PER_LOOK:
            self._mount.blocks.write_back_old(index, time_us)
        return self._due_us

    def _show(self, index: int, time_us: int, offset: int, length: int) -> None:
        """Let the policy observe a block request."""
        begin, whole = offset - offset % SECTOR, length - length % SECTOR
        self._policy.observe_bio(begin, whole, False, self._now_ms(index, time_us))

    def _carry_out(self, work: Work, oblock: int, kind: int) -> None:
        policy, mount = self._policy, self._mount
        if work.op is PROMOTE:
            mount.promote(work.oblock, work.cblock, fills=work.oblock == oblock and not kind & WRITES)
            policy.complete_background_work(work, True)
            policy.clear_dirty(work.cblock)
            return
        if work.op is DEMOTE:
            mount.blocks.demote(work.oblock)
        else:
            mount.blocks.write_back(work.oblock)
        policy.complete_background_work(work, True)

    def check(self) -> None:
        """Assert that what was counted fits what is cached, and that the policy knows of it."""
        self._mount.check()
        self._policy.check()
        assert self._policy.residency() >= len(self._mount.blocks.cblocks)
