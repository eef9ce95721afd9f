"""Look for the longest single call of a policy: situations made to be hard, in each of which every call is timed.

A policy runs in the event loop, so a call that takes long holds up everything.  Each situation is played several times
from the start, always the same; of each call the fastest time counts, and of these the longest.  So what the machine
did meanwhile to one call or another does not count, and what the policy itself does, does.  Times are of the processor.
Calls made by the hundred thousand are timed fifty at a time, and all fifty count as one: reading that clock is slow.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from policies import Policy, Work, create_policy

_BLOCK_SIZE: Final = 65536
_STRIDE: Final = 100
_MINUTE_MS: Final = 60_001
_JUMPS_MS: Final = (1, 60_002, 60_003, 61_004, 10**12, 10**15)

_AT_A_TIME: Final = 50

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Watch:
    """Time calls.

    :ivar seconds: processor time of each call, or of some at a time.
    :ivar calls: what was called.
    """

    def __init__(self) -> None:
        self.seconds = array("d")
        self.calls: list[str] = []

    def __call__(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Make one call and note what it took."""
        start = time.thread_time()
        result = call(*args, **kwargs)
        self.seconds.append(time.thread_time() - start)
        self.calls.append(call.__name__)
        return result

    def many(self, what: str, call: Callable[[int], object], blocks: Sequence[int]) -> None:
        """Make a call for each block, and note what some of them took together."""
        for first in range(0, len(blocks), _AT_A_TIME):
            start = time.thread_time()
            for block in blocks[first : first + _AT_A_TIME]:
                call(block)
            self.seconds.append(time.thread_time() - start)
            self.calls.append(f"{_AT_A_TIME} x {what}")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A situation that is hard on a policy."""

    policy: str
    what: str
    play: Callable[[Watch, Policy, int], None]


def longest_call(scenario: Scenario, blocks: int, rounds: int) -> tuple[float, str]:
    """Play a scenario several times; return the seconds and the name of the longest call, of the fastest of each."""
    best, calls = array("d"), list[str]()
    for _ in range(rounds):
        watch = Watch()
        scenario.play(watch, _empty(scenario.policy, blocks), blocks)
        best = array("d", map(min, best, watch.seconds)) if best else watch.seconds
        calls = watch.calls
    longest = max(range(len(best)), key=best.__getitem__)
    return best[longest], calls[longest]


def creation_seconds(name: str, blocks: int, rounds: int) -> float:
    """Measure what making a policy takes: it happens once, and when policies are switched."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        _empty(name, blocks)
        times.append(time.thread_time() - start)
    return min(times)


def _empty(name: str, blocks: int) -> Policy:
    return create_policy(name, cache_blocks=blocks, origin_blocks=_STRIDE * blocks, block_size=_BLOCK_SIZE)


def _load(policy: Policy, blocks: int, *, dirty_of_8: int, hint: int | None) -> None:
    for cblock in range(blocks):
        policy.load_mapping(cblock * _STRIDE, cblock, cblock % 8 < dirty_of_8, hint)


def _shuffled(blocks: int, seed: int) -> list[int]:
    order = list(range(blocks))
    random.Random(seed).shuffle(order)
    return order


def _jump(watch: Watch, policy: Policy) -> None:
    """Let ticks come late, at once, and never for years; with a bio after each."""
    for now_ms in _JUMPS_MS:
        watch(policy.tick, now_ms)
        watch(policy.observe_bio, 0, 4096, False, now_ms)
        watch(policy.lookup, 0, False, False)


def _work_off(watch: Watch, policy: Policy, most: int) -> None:
    """Take as many items as are to be had, then complete them, the last one first."""
    items: list[Work] = []
    while len(items) < most and (work := watch(policy.get_background_work, True)) is not None:
        items.append(work)
    while items:
        work = items.pop()
        watch(policy.complete_background_work, work, True)
        if work.op.name != "DEMOTE":
            watch(policy.clear_dirty, work.cblock)


def _one_clean_level(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, dirty_of_8=0, hint=63)
    _jump(watch, policy)


def _one_dirty_level(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, dirty_of_8=8, hint=0)
    _jump(watch, policy)
    _work_off(watch, policy, 10_000)


def _two_full_queues(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, dirty_of_8=4, hint=1)
    _jump(watch, policy)


def _turmoil(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, dirty_of_8=4, hint=None)
    now_ms = 1
    watch(policy.tick, now_ms)
    for minute in range(3):
        order = _shuffled(blocks, minute)
        watch.many("set_dirty", policy.set_dirty, order[: blocks // 4])
        watch.many("clear_dirty", policy.clear_dirty, order[blocks // 4 : blocks // 2])
        watch.many("lookup", lambda cblock: policy.lookup(cblock * _STRIDE, False, False), order[::4])
        for _ in range(6):
            now_ms += _MINUTE_MS // 6 + 1
            watch(policy.tick, now_ms)


def _misses(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, dirty_of_8=0, hint=0)
    now_ms = 0

    def miss(number: int) -> None:
        oblock = number * _STRIDE + 1 + number % (_STRIDE - 1)
        policy.observe_bio(oblock * _BLOCK_SIZE, 4096, False, now_ms)
        policy.lookup(oblock, False, False)

    for jump, now_ms in enumerate(_JUMPS_MS):
        watch.many("lookup", miss, _shuffled(blocks, jump)[: blocks // 8])
        watch(policy.tick, now_ms)
        _work_off(watch, policy, 10_000)


def _all_invalidated(watch: Watch, policy: Policy, blocks: int) -> None:
    def load(cblock: int) -> None:
        policy.load_mapping(cblock * _STRIDE, cblock, cblock % 4 == 0, None)

    watch.many("load_mapping", load, _shuffled(blocks, 1))
    watch(policy.tick, 1)
    watch.many("invalidate_mapping", policy.invalidate_mapping, _shuffled(blocks, 0))
    _jump(watch, policy)


def _cleaned_between_bios(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, dirty_of_8=8, hint=None)
    watch(policy.tick, 1)
    for round_, many in enumerate((4096, 4097, blocks // 4)):
        watch.many("clear_dirty", policy.clear_dirty, _shuffled(blocks, round_)[:many])
        _jump(watch, policy)


SCENARIOS: Final = (
    Scenario("smq", "all clean on one level, then ticks late and early", _one_clean_level),
    Scenario("smq", "all dirty on one level, then ticks and writebacks", _one_dirty_level),
    Scenario("smq", "half of all dirty, two levels, then ticks", _two_full_queues),
    Scenario("smq", "half of all turned and hit each minute, at random", _turmoil),
    Scenario("smq", "nothing but misses, demotions and promotions", _misses),
    Scenario("smq", "all loaded, then all invalidated, at random", _all_invalidated),
    Scenario("mq", "all dirty, then ticks, the first bio, writebacks", _one_dirty_level),
    Scenario("mq", "many cleaned between two bios, with ticks", _cleaned_between_bios),
    Scenario("mq", "nothing but misses, demotions and promotions", _misses),
    Scenario("mq", "all loaded, then all invalidated, at random", _all_invalidated),
)
