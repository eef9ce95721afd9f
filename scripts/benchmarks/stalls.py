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
from typing import Any, Final

from policies import Policy, Work, create_policy

_BLOCK_SIZE: Final = 65536
_STRIDE: Final = 100
_TEN_SECONDS_MS: Final = 10_001
_JUMPS_MS: Final = (1, 60_002, 60_003, 61_004, 10**12, 10**15)
_AT_A_TIME: Final = 50


class Watch:
    """Time calls: ``seconds`` has the processor time of each, or of some at a time, ``calls`` says what was called."""

    def __init__(self) -> None:
        self.seconds = array("d")
        self.calls: list[str] = []

    def __call__(self, call: Callable[..., Any], *args: object) -> Any:
        """Make one call and note what it took."""
        start = time.thread_time()
        result = call(*args)
        self.seconds.append(time.thread_time() - start)
        self.calls.append(call.__name__)
        return result

    def many(self, call: Callable[[int], object], blocks: Sequence[int]) -> None:
        """Make a call for each block, and note what some of them took together."""
        for first in range(0, len(blocks), _AT_A_TIME):
            start = time.thread_time()
            for block in blocks[first : first + _AT_A_TIME]:
                call(block)
            self.seconds.append(time.thread_time() - start)
            self.calls.append(f"{_AT_A_TIME} x {call.__name__}")


Play = Callable[[Watch, Policy, int], None]
"""Given the policy, and how many blocks its cache has."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A situation that is hard on a policy."""

    policy: str
    what: str
    play: Play


def longest_call(scenario: Scenario, blocks: int, rounds: int) -> tuple[float, str]:
    """Play a scenario several times; return the seconds and the name of the longest call, of the fastest of each."""
    watches = [Watch() for _ in range(rounds)]
    for watch in watches:
        scenario.play(watch, empty(scenario.policy, blocks), blocks)
    best = [min(times) for times in zip(*(watch.seconds for watch in watches), strict=True)]
    return max(zip(best, watches[0].calls, strict=True))


def empty(name: str, blocks: int) -> Policy:
    """Make a policy of an empty cache."""
    return create_policy(name, cache_blocks=blocks, origin_blocks=_STRIDE * blocks, block_size=_BLOCK_SIZE)


def _load(policy: Policy, blocks: int, dirty_of_8: int, hint: int | None) -> None:
    for cblock in range(blocks):
        policy.load_mapping(cblock * _STRIDE, cblock, cblock % 8 < dirty_of_8, hint)


def _shuffled(blocks: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(blocks), blocks)


def _jump(watch: Watch, policy: Policy) -> None:
    """Let ticks come late, at once, and never for years; with a bio after each."""
    for now_ms in _JUMPS_MS:
        watch(policy.tick, now_ms)
        watch(policy.observe_bio, 0, 4096, False, now_ms)
        watch(policy.lookup, 0, False, False)


def _work_off(watch: Watch, policy: Policy) -> None:
    """Take as many items as are to be had, then complete them, the last one first."""
    items: list[Work] = []
    while len(items) < 10_000 and (work := watch(policy.get_background_work, True)) is not None:
        items.append(work)
    for work in reversed(items):
        watch(policy.complete_background_work, work, True)
        if work.op.name != "DEMOTE":
            watch(policy.clear_dirty, work.cblock)


def _full(dirty_of_8: int, hint: int | None) -> Play:
    """Fill the cache with equals, then tick and write back."""

    def play(watch: Watch, policy: Policy, blocks: int) -> None:
        _load(policy, blocks, dirty_of_8, hint)
        _jump(watch, policy)
        _work_off(watch, policy)

    return play


def _turmoil(watch: Watch, policy: Policy, blocks: int) -> None:
    def lookup(cblock: int) -> None:
        policy.lookup(cblock * _STRIDE, False, False)

    _load(policy, blocks, 4, None)
    for minute in range(3):
        order = _shuffled(blocks, minute)
        watch.many(policy.set_dirty, order[: blocks // 4])
        watch.many(policy.clear_dirty, order[blocks // 4 : blocks // 2])
        watch.many(lookup, order[::4])
        for tick in range(6):
            watch(policy.tick, (6 * minute + tick) * _TEN_SECONDS_MS + 1)


def _misses(watch: Watch, policy: Policy, blocks: int) -> None:
    def lookup(number: int) -> None:
        oblock = number * _STRIDE + 1 + number % (_STRIDE - 1)
        policy.observe_bio(oblock * _BLOCK_SIZE, 4096, False, now_ms)
        policy.lookup(oblock, False, False)

    _load(policy, blocks, 0, 0)
    for jump, now_ms in enumerate(_JUMPS_MS):
        watch.many(lookup, _shuffled(blocks, jump)[: blocks // 8])
        watch(policy.tick, now_ms)
        _work_off(watch, policy)


def _all_invalidated(watch: Watch, policy: Policy, blocks: int) -> None:
    def load_mapping(cblock: int) -> None:
        policy.load_mapping(cblock * _STRIDE, cblock, cblock % 4 == 0, None)

    watch.many(load_mapping, _shuffled(blocks, 1))
    watch(policy.tick, 1)
    watch.many(policy.invalidate_mapping, _shuffled(blocks, 0))
    _jump(watch, policy)


def _cleaned_between_bios(watch: Watch, policy: Policy, blocks: int) -> None:
    _load(policy, blocks, 8, None)
    watch(policy.tick, 1)
    for seed, many in enumerate((4096, 4097, blocks // 4)):
        watch.many(policy.clear_dirty, _shuffled(blocks, seed)[:many])
        _jump(watch, policy)


SCENARIOS: Final = (
    Scenario("smq", "all clean on one level", _full(0, 63)),
    Scenario("smq", "all dirty on one level", _full(8, 0)),
    Scenario("smq", "half of all dirty, on two levels", _full(4, 1)),
    Scenario("smq", "half of all turned and hit each minute", _turmoil),
    Scenario("smq", "nothing but misses and migrations", _misses),
    Scenario("smq", "all loaded, then all invalidated", _all_invalidated),
    Scenario("mq", "all dirty on one level", _full(8, 0)),
    Scenario("mq", "many cleaned between two bios", _cleaned_between_bios),
    Scenario("mq", "nothing but misses and migrations", _misses),
    Scenario("mq", "all loaded, then all invalidated", _all_invalidated),
    Scenario("lru", "nothing but misses and migrations", _misses),
    Scenario("arc", "nothing but misses and migrations", _misses),
    Scenario("twoq", "nothing but misses and migrations", _misses),
    Scenario("s3fifo", "nothing but misses and migrations", _misses),
    Scenario("s3fifo", "half of all turned and hit each minute", _turmoil),
    Scenario("tinylfu", "nothing but misses and migrations", _misses),
    Scenario("tinylfu", "half of all turned and hit each minute", _turmoil),
)
