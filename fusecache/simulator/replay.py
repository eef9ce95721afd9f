"""Replay a trace through a policy and count what happens.

Theory of operation
-------------------
The policy is the one that mounts use; data, disks and waiting are left out, and every item of work completes at once.
What follows are the rules, fixed so that figures can be compared to the last hit; *i* counts block requests from 0.

The clock
    In a trace with real time, ``t_us`` of the request; else ``(i + 1) // 1000`` seconds.  The policy sees whole
    milliseconds, rounded down, and is created at 0.  The origin ends with the last block that the trace touches.
Ticks
    Before block request *i*, if *i* > 0: one tick if *i* is a multiple of 32, or if a second has passed since the last
    timed tick.  A timed tick is one for which a second has passed, whether *i* is a multiple or not; there is none
    without real time.
Gaps
    Between two requests more than a second apart, each whole second, at most 300, is a tick, and after each of these
    up to 64 items of work are taken, idle.  The last timed tick is then at the later request.
Requests
    A write of a whole block goes through ``lookup_with_work``, which may hand out the promotion of the block: then the
    write fills the block, which is dirty.  All others go through ``lookup``.  A write that hits makes the block dirty.
    A request that leads to a promotion still is a miss.
Work
    After each block request up to 8 items are taken, not idle.  A promoted block is set clean after its promotion is
    complete; the block of a writeback or a demotion is set clean before that is.

A policy that wants to see bios (``observes_bios``) is driven as policies were when they decided with the request at
hand, not in the background (Linux before 4.12):

* Every block request with *i* > 0 comes after a tick, and after ``observe_bio`` with its place and length in whole
  sectors, rounded down, never as discarded.  Gaps are ticks too, but no work is taken in them.
* There is no ``lookup_with_work``.
* After the answer ``MISS_QUEUED`` the request waits for its promotion: items are taken, at most 8, until the block is
  promoted.  A write then goes to the cache, and the block is dirty.  The 8 items that follow each request are
  taken after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from typing import Final

from fusecache.simulator.counts import Counts
from fusecache.simulator.limits import replay_lru, replay_opt
from fusecache.simulator.requests import WHOLE, WRITES, Portion, Progress, count_origin, count_unique, split
from fusecache.simulator.trace import Trace
from policies import MISS, MISS_QUEUED, BadTunableError, Op, Policy, PolicyError, Work, create_policy
from policies.sizes import check_sizes

__all__ = ["LIMITS", "Result", "count_unique", "simulate"]

LIMITS: Final = {"opt": replay_opt, "lru": replay_lru}
"""What policies are compared with: no policies themselves, but simulated by these names."""

_SECOND_US: Final = 1_000_000
_REQUESTS_PER_TICK: Final = 32
_MAX_GAP_TICKS: Final = 300
_IDLE_ITEMS: Final = 64
_ITEMS: Final = 8
_SECTOR: Final = 512
_WHOLE_WRITE: Final = WRITES + WHOLE
_NO_BLOCK: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The outcome of one replay."""

    trace: str
    policy: str
    block_size: int
    """Bytes."""
    cache_blocks: int
    requests: int
    """Block requests: requests cut at block boundaries."""
    hits: int
    hit_ratio: float
    promotions: int
    """All of them, those by overwriting included."""
    demotions: int
    writebacks: int
    overwrite_promotions: int
    """Promotions by a write of the whole block, which the policy handed out together with that write."""
    cache_bytes_written: int
    """Whole blocks by promotions, and what was written to blocks in the cache."""
    slow_ops: int
    """Operations of the slow disk: one for each miss, one for each writeback, and one for each promotion that reads the
    block by itself, which is not needed if the request that missed covers the whole block."""
    slow_ops_per_1000: float
    """The same for 1000 block requests."""
    seconds: float
    """How long the replay took."""
    unique_blocks: int
    """Different blocks that the trace touches."""


def simulate(
    trace: Trace,
    policy: str,
    *,
    tunables: Sequence[tuple[str, str]],
    block_size: int,
    cache_blocks: int,
    progress: Progress | None = None,
) -> Result:
    """Replay a trace through a policy, from an empty cache.

    :param policy: a name that :func:`policies.create_policy` knows, or one of ``LIMITS``.
    :param tunables: keys and values, set in this order before the first request.
    :param progress: called now and then, the last time at the end.
    :raises policies.PolicyError: there is no such policy, a size is out of range, or a tunable is refused.
    """
    if block_size < 1:
        msg = f"block_size must be at least 1, not {block_size}"
        raise PolicyError(msg)
    origin_blocks = count_origin(trace, block_size)
    begin = perf_counter()
    if policy in LIMITS:
        check_sizes(cache_blocks, origin_blocks, block_size)
        for key, _ in tunables:
            msg = f"{policy} has no tunable {key!r}"
            raise BadTunableError(msg)
        counts = LIMITS[policy](trace, block_size, cache_blocks, progress or _ignore)
    else:
        played = create_policy(policy, cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size)
        for key, value in tunables:
            played.set_config_value(key, value)
        counts = replay(trace, played, block_size, progress or _ignore)
    seconds = perf_counter() - begin
    return Result(
        trace=trace.name,
        policy=policy,
        block_size=block_size,
        cache_blocks=cache_blocks,
        requests=counts.requests,
        hits=counts.hits,
        hit_ratio=counts.hits / counts.requests,
        promotions=counts.promotions,
        demotions=counts.demotions,
        writebacks=counts.writebacks,
        overwrite_promotions=counts.overwrite_promotions,
        cache_bytes_written=counts.cache_bytes_written(block_size),
        slow_ops=counts.slow_ops(),
        slow_ops_per_1000=1000 * counts.slow_ops() / counts.requests,
        seconds=seconds,
        unique_blocks=count_unique(trace, block_size),
    )


def replay(trace: Trace, policy: Policy, block_size: int, report: Progress) -> Counts:
    """Replay a trace through a policy that has seen nothing yet."""
    player = _Player(trace, policy, block_size, report)
    if policy.observes_bios:
        player.play_observed()
    else:
        player.play()
    return player.counts


def _ignore(_done: int, _total: int) -> None:
    """Report to nobody."""


class _Player:
    """A policy at work on a trace; plays it once."""

    def __init__(self, trace: Trace, policy: Policy, block_size: int, report: Progress) -> None:
        self.counts = Counts()
        self._trace = trace
        self._policy = policy
        self._block_size = block_size
        self._report = report
        self._due_us = _SECOND_US if trace.timed else inf

    def play(self) -> None:
        """Replay the trace; the loop is written for speed."""
        policy, counts = self._policy, self.counts
        lookup, get_background_work, set_dirty = policy.lookup, policy.get_background_work, policy.set_dirty
        due_us = self._due_us
        previous_us = self._trace.times_us[0]
        for portion in split(self._trace, self._block_size):
            indices = self._enter(portion)
            hits = written = 0
            for index, time_us, kind, oblock, length in zip(
                indices, portion.times_us, portion.kinds, portion.oblocks, portion.lengths, strict=True
            ):
                if time_us >= due_us or not index % _REQUESTS_PER_TICK:
                    due_us = self._let_time_pass(index, previous_us, time_us)
                previous_us = time_us
                if kind == _WHOLE_WRITE:
                    cblock = self._refer_whole_write(oblock)
                else:
                    cblock = lookup(oblock, kind & WRITES == WRITES, False)
                if cblock >= 0:
                    hits += 1
                    if kind & WRITES:
                        set_dirty(cblock)
                        written += length
                work = get_background_work(False)
                if work is not None:
                    self._carry_out(work, oblock, kind)
                    self._take(_ITEMS - 1, oblock, kind)
            counts.hits += hits
            counts.written += written
            self._report(portion.done, len(self._trace.writes))

    def play_observed(self) -> None:
        """Replay the trace through a policy that observes bios."""
        policy, counts = self._policy, self.counts
        previous_us = self._trace.times_us[0]
        for portion in split(self._trace, self._block_size):
            columns = zip(*portion[1:], strict=True)
            for index, (time_us, kind, oblock, offset, length) in zip(self._enter(portion), columns, strict=True):
                now_ms = self._now_ms(index, time_us)
                if index:
                    self._tick_in_gap(previous_us, time_us)
                    policy.tick(now_ms)
                previous_us = time_us
                policy.observe_bio(offset - offset % _SECTOR, length - length % _SECTOR, False, now_ms)
                cblock = policy.lookup(oblock, kind & WRITES == WRITES, False)
                if cblock >= 0:
                    counts.hits += 1
                    if kind & WRITES:
                        counts.written += length
                elif cblock == MISS_QUEUED:
                    cblock = self._promote(oblock, kind)
                    if cblock >= 0 and kind == WRITES:
                        counts.written += length
                if cblock >= 0 and kind & WRITES:
                    policy.set_dirty(cblock)
                self._take(_ITEMS, oblock, kind)
            self._report(portion.done, len(self._trace.writes))

    def _enter(self, portion: Portion) -> range:
        """Count the requests of a portion; return their numbers."""
        begin = self.counts.requests
        self.counts.requests += len(portion.oblocks)
        return range(begin, self.counts.requests)

    def _now_ms(self, index: int, time_us: int) -> int:
        return time_us // 1000 if self._trace.timed else (index + 1) // 1000 * 1000

    def _let_time_pass(self, index: int, previous_us: int, time_us: int) -> float:
        """Tick before a block request, as the rules say; return when the next timed tick is due."""
        if index:
            is_due = time_us >= self._due_us
            if is_due:
                self._due_us = time_us + _SECOND_US
            in_gap = self._tick_in_gap(previous_us, time_us)
            if not index % _REQUESTS_PER_TICK or (is_due and not in_gap):
                self._policy.tick(self._now_ms(index, time_us))
        return self._due_us

    def _tick_in_gap(self, previous_us: int, time_us: int) -> bool:
        """Let the seconds between two requests pass one by one; False if they are a second apart or less."""
        if not self._trace.timed or time_us - previous_us <= _SECOND_US:
            return False
        for second in range(1, min((time_us - previous_us) // _SECOND_US, _MAX_GAP_TICKS) + 1):
            self._policy.tick(previous_us // 1000 + 1000 * second)
            if not self._policy.observes_bios:
                self._take(_IDLE_ITEMS, _NO_BLOCK, 0, idle=True)
        return True

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
        for _ in range(_ITEMS):
            work = self._policy.get_background_work(False)
            if work is None:
                break
            self._carry_out(work, oblock, kind)
            if work.op is Op.PROMOTE and work.oblock == oblock:
                return work.cblock
        return MISS

    def _take(self, limit: int, oblock: int, kind: int, *, idle: bool = False) -> None:
        """Take items and carry them out."""
        for _ in range(limit):
            work = self._policy.get_background_work(idle)
            if work is None:
                return
            self._carry_out(work, oblock, kind)

    def _carry_out(self, work: Work, oblock: int, kind: int) -> None:
        """Complete an item that was taken after a request of some kind for ``oblock``."""
        policy, counts = self._policy, self.counts
        if work.op is Op.PROMOTE:
            counts.promotions += 1
            if kind & WHOLE and work.oblock == oblock:
                counts.fills += 1
            policy.complete_background_work(work, True)
            policy.clear_dirty(work.cblock)
            return
        if work.op is Op.DEMOTE:
            counts.demotions += 1
        else:
            counts.writebacks += 1
        policy.clear_dirty(work.cblock)
        policy.complete_background_work(work, True)
