"""Replay a trace through a policy and count what happens.

Theory of operation
-------------------
The policy is the one that mounts use; data and waiting are left out, and every item of work completes at once.  What
follows are the rules, fixed so that figures can be compared to the last hit; *i* counts block requests from 0.

The clock
    In a trace with real time, the time since the first request; else ``(i + 1) // 1000`` seconds.  The policy sees
    whole milliseconds, rounded down, and is created at 0.  The origin ends with the last block that the trace touches.
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

What that costs at the origin depends on the *data path*.

copy
    dm-cache's: one operation for each miss, one for each writeback, and one for each promotion that reads the block by
    itself, which is not needed if the request that missed covers the whole block.  The policy is told of each write
    that hits, also if the block is dirty already.

fill
    What mounts do.  The policy is told of writes by which a block turns dirty.

    * A read that misses is one operation.  If the promotion of its block is among the items that are taken after it,
      this operation *fills* the block.  Other promotions read their block by themselves, by one operation each.
    * A write that misses is one operation.  A write of a whole block that comes with its promotion is none.
    * Misses of neighbouring blocks, in one request of the trace, are one operation, of 1 MiB at most.  A block that
      hits or is absorbed ends it, as does one that has been read ahead.
    * A block that is demoted dirty, or that the policy wants written back, is written together with its *neighbours*:
      the dirty blocks below and above it, found by turns, to where one is not dirty, or to 1 MiB in all.  They turn
      clean, and the policy is told.
    * Before block request *i*, if *i* is a multiple of 32 and after its ticks, the blocks that have been dirty for more
      than 10,000 block requests are written back likewise, the oldest first.  ``--dirty-age`` sets another number, or
      seconds of real time, or both: then either is enough.  What is dirty at the end stays so.

absorb
    As fill, and writes of parts of blocks go through ``lookup_with_work`` as well.  If the promotion comes with one, it
    is *absorbed*: the block is dirty, and *partial*: it has a bitmap of its valid sectors, of 512 bytes.

    * An absorbed write is no operation; but each sector that it touches in part is read by one.  A later write to the
      block makes more sectors valid; each that it touches in part and that was not valid is read by one operation.
    * A read of sectors that are not all valid is one operation, from the first invalid sector to the last one of the
      block.  The block is whole then, as it is once all its sectors have been written.
    * A partial block is written back as its runs of valid sectors, by one operation each; what touches at the border of
      two blocks is one run.  A block of more than two runs is made whole first, by one more operation.

``--read-ahead`` adds to fill and absorb what ``read_ahead.py`` says.  Mounts absorb if the policy does (``absorbs``),
else they fill; the limits (``limits.py``) are played as if they absorbed.

A policy that wants to see bios (``observes_bios``) is driven as policies were when they decided with the request at
hand, not in the background (Linux before 4.12).  Every block request with *i* > 0 comes after a tick, and after
``observe_bio`` with its place and length in whole sectors, rounded down, never as discarded.  Gaps are ticks too, but
no work is taken in them.  With copy:

* There is no ``lookup_with_work``.
* After the answer ``MISS_QUEUED`` the request waits for its promotion: items are taken, at most 8, until the block is
  promoted.  A write then goes to the cache, and the block is dirty.  The 8 items that follow each request are
  taken after that.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

from fusecache.simulator.copying import CopyPlayer
from fusecache.simulator.counts import Counts
from fusecache.simulator.limits import LIMITS, replay_limit
from fusecache.simulator.mounted import MountPlayer
from fusecache.simulator.requests import Progress, count_origin
from fusecache.simulator.result import Result
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import Trace
from policies import BadTunableError, Policy, PolicyError, create_policy
from policies.sizes import check_sizes

_AS_MOUNTS_DO: Final = Rules()


def simulate(
    trace: Trace,
    policy: str,
    *,
    tunables: Sequence[tuple[str, str]],
    block_size: int,
    cache_blocks: int,
    rules: Rules = _AS_MOUNTS_DO,
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
    report = progress or _ignore
    begin = perf_counter()
    if policy in LIMITS:
        check_sizes(cache_blocks, origin_blocks, block_size)
        for key, _ in tunables:
            msg = f"{policy} has no tunable {key!r}"
            raise BadTunableError(msg)
        data_path = rules.data_path or DataPath.ABSORB
        limit = LIMITS[policy](trace, block_size, cache_blocks)
        counts = replay_limit(trace, limit, block_size, data_path, rules, report)
    else:
        played = create_policy(policy, cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=block_size)
        for key, value in tunables:
            played.set_config_value(key, value)
        data_path = data_path_of(played, rules)
        counts = replay(trace, played, block_size, rules, report)
    return Result.of(
        counts,
        trace=trace,
        policy=policy,
        data_path=data_path,
        block_size=block_size,
        cache_blocks=cache_blocks,
        disk=rules.disk,
        seconds=perf_counter() - begin,
    )


def replay(trace: Trace, policy: Policy, block_size: int, rules: Rules, report: Progress) -> Counts:
    """Replay a trace through a policy that has seen nothing yet."""
    data_path = data_path_of(policy, rules)
    player = (
        CopyPlayer(trace, policy, block_size, report)
        if data_path is DataPath.COPY
        else MountPlayer(trace, policy, block_size, data_path, rules, report)
    )
    player.play()
    return player.counts


def data_path_of(policy: Policy, rules: Rules) -> DataPath:
    """Tell by which data path a policy is played."""
    return rules.data_path or (DataPath.ABSORB if policy.absorbs else DataPath.FILL)


def _ignore(_done: int, _total: int) -> None:
    """Report to nobody."""
