"""Replacement policies: what they cost in memory and time."""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Final, NamedTuple, TypeAlias

from policies import MISS_QUEUED, Policy, create_policy
from scripts.benchmarks.stalls import SCENARIOS, longest_call
from scripts.benchmarks.suite.measuring import Context, Figure

BLOCK_SIZE: Final = 65536
ORIGIN_FACTOR: Final = 100
WIDE_ORIGIN: Final = 2**40
FAIR_HITS: Final = 0.8
FAIR_MIX: Final = 0.2
GROWTH: Final = 1.5
LONGEST_MS: Final = 10.0
BYTES_PER_BLOCK: Final = {"smq": 33, "mq": 88}
YARDSTICK_BYTES: Final = {"lru": 27, "arc": 50, "twoq": 38, "s3fifo": 47, "tinylfu": 35}
"""The same, what they remember of lost blocks included.  Their hits are not compared: an LRU is one of them."""
MS_PER_TICK: Final = 100
BIOS_PER_TICK: Final = 1000
_SPREAD: Final = 0x9E3779B1
"""A prime beyond all sizes: multiples of it, modulo a size, are neighbours no more."""

Blocks: TypeAlias = "array[int]"
Loop = Callable[[Blocks], object]


class Scale(NamedTuple):
    """How much to measure: blocks of the cache, of the caches compared, lookups of a round, and rounds."""

    blocks: int
    small: int
    large: int
    lookups: int
    rounds: int


FULL: Final = Scale(1_000_000, 4_000, 4_000_000, 200_000, 3)
QUICK: Final = Scale(30_000, 4_000, 100_000, 20_000, 1)
SMOKE: Final = Scale(300, 40, 400, 2_000, 1)


def policies(context: Context) -> Iterator[Figure]:
    """Measure policies: memory, a lookup as the cache grows, hits and misses, the longest call.

    The machine may be busy with other things, so times are those of this thread's processor (time.thread_time), and of
    several rounds the fastest counts.  What others do to the caches and the memory of the machine still shows; so what
    is compared is measured by turns, in one run.  Ratios are to a small cache (growth), or to the hits of an LRU that
    is an OrderedDict and a loop around ``move_to_end``.
    """
    scale = context.pick(full=FULL, quick=QUICK, smoke=SMOKE)
    for question in (memory, growth, speed, stalls):
        context.say(f"policies: {question.__name__}")
        yield from question(scale)


def memory(scale: Scale) -> Iterator[Figure]:
    """Measure what a full cache takes, a third of it dirty, after some use and ticks, and the most meanwhile."""
    for name, most in (BYTES_PER_BLOCK | YARDSTICK_BYTES).items():
        for origin, origin_blocks in (("100 times the cache", ORIGIN_FACTOR * scale.blocks), ("2**40", WIDE_ORIGIN)):
            for kind, taken in zip(("in use", "peak"), traced_memory(name, scale, origin_blocks), strict=True):
                what = f"memory, origin {origin}: {kind}"
                yield Figure(name=what, system=name, value=taken / scale.blocks, unit="B/block", at_most=most)


def traced_memory(name: str, scale: Scale, origin_blocks: int) -> tuple[int, int]:
    """Return the bytes that a policy takes, block numbers included: at the end, and the peak since it was full."""
    filled(name, array("q"), 4)  # what importing takes is not counted
    stride = origin_blocks // scale.blocks
    rng = random.Random(1)
    gc.collect()
    tracemalloc.start()
    try:
        policy = filled(name, range(0, scale.blocks * stride, stride), origin_blocks, dirty_every=3)
        tracemalloc.reset_peak()
        now_ms = 0
        for bio in range(scale.lookups // 2):
            if bio % BIOS_PER_TICK == 0:
                now_ms += 60_001 if bio % (20 * BIOS_PER_TICK) == 0 else MS_PER_TICK
                policy.tick(now_ms)
            oblock = rng.randrange(scale.blocks) * stride + (bio % 4 == 0)
            policy.observe_bio(oblock * BLOCK_SIZE, 4096, False, now_ms)
            answer_and_work(policy, oblock, bio % 5 == 0)
        return tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def growth(scale: Scale) -> Iterator[Figure]:
    """Measure hits in a small and in a large cache, for three ways to choose blocks.

    In a large cache random blocks lie in no processor cache, whatever the program: so the LRU is shown, too.
    """
    times: dict[tuple[str, str, int], float] = {}
    for blocks in (scale.small, scale.large):
        oblocks = array("q", random.Random(2).sample(range(ORIGIN_FACTOR * blocks), blocks))
        for name, make in CONTENDERS.items():
            loop = make(oblocks)
            for pattern, draw in PATTERNS.items():
                drawn = array("q", (oblocks[cblock] for cblock in draw(random.Random(3), blocks, scale)))
                times[pattern, name, blocks] = fastest({name: loop}, drawn, scale.rounds)[name]
    for pattern, name in product(PATTERNS, CONTENDERS):
        small, large = (times[pattern, name, blocks] for blocks in (scale.small, scale.large))
        most = GROWTH if name in BYTES_PER_BLOCK else None
        what = f"a hit, {pattern}"
        yield Figure(name=f"{what}, small cache", system=name, value=small, unit="ns")
        yield Figure(name=f"{what}, large", system=name, value=large, unit="ns", ratio=large / small, at_most=most)


def speed(scale: Scale) -> Iterator[Figure]:
    """Measure hits on uniformly random blocks, and a mix with migrations going on; an LRU's hits are the measure."""
    origin_blocks = ORIGIN_FACTOR * scale.blocks
    oblocks = array("q", random.Random(6).sample(range(origin_blocks), scale.blocks))
    drawn = array("q", random.Random(5).choices(oblocks, k=scale.lookups))
    made = {name: filled(name, oblocks, origin_blocks) for name in BYTES_PER_BLOCK}
    loops = {name: hit_loop(policy, oblocks, observes=policy.observes_bios) for name, policy in made.items()}
    hits = fastest({"LRU": lru_loop(oblocks), **loops}, drawn, scale.rounds)
    mixes = {name: Mix(policy, oblocks, origin_blocks) for name, policy in made.items()}
    mixed = {name: min(mix.nanoseconds(scale.lookups) for _ in range(scale.rounds)) for name, mix in mixes.items()}
    for what, times, fair in (("hits", hits, FAIR_HITS), ("mix", mixed, FAIR_MIX)):
        for name, taken in times.items():
            ratio, least = (None, None) if name == "LRU" else (hits["LRU"] / taken, fair)
            yield Figure(name=what, system=name, value=1e3 / taken, unit="million/s", ratio=ratio, at_least=least)


def stalls(scale: Scale) -> Iterator[Figure]:
    """Measure the longest single call in situations made to be hard; see stalls.py."""
    for scenario in SCENARIOS:
        seconds, call = longest_call(scenario, scale.blocks, scale.rounds)
        what = f"longest call, {scenario.what}"
        yield Figure(name=what, system=scenario.policy, value=seconds * 1e3, unit="ms", at_most=LONGEST_MS, note=call)


# --- policies at work ------------------------------------------------------------------------------------------------


def filled(name: str, oblocks: Blocks | range, origin_blocks: int, *, dirty_every: int = 0) -> Policy:
    """Make a policy of a full cache."""
    policy = create_policy(name, cache_blocks=max(4, len(oblocks)), origin_blocks=origin_blocks, block_size=BLOCK_SIZE)
    for cblock, oblock in enumerate(oblocks):
        policy.load_mapping(oblock, cblock, dirty_every > 0 and cblock % dirty_every == 0, None)
    policy.tick(1)
    return policy


def answer_and_work(policy: Policy, oblock: int, write: bool) -> int:
    """Refer a bio, and do at once what the policy wants done; return its answer."""
    answer = policy.lookup(oblock, write, False)
    if answer == MISS_QUEUED:
        while (work := policy.get_background_work(False)) is not None:
            policy.complete_background_work(work, True)
            if work.op.name != "DEMOTE":
                policy.clear_dirty(work.cblock)
    elif write and answer >= 0:
        policy.set_dirty(answer)
    return answer


class Mix:
    """Zipf over cached and other blocks, with ticks; a fifth is writes, some of them to discarded blocks.

    Both policies have work to do then: mq takes long to promote what is merely read, but not what was discarded.
    """

    def __init__(self, policy: Policy, oblocks: Blocks, origin_blocks: int) -> None:
        self._policy = policy
        self._rng = random.Random(7)
        others = self._rng.sample(range(origin_blocks), len(oblocks))
        self._universe = array("q", (oblock for pair in zip(oblocks, others, strict=True) for oblock in pair))
        self._now_ms = 2

    def nanoseconds(self, count: int) -> float:
        """Do so many bios; return the processor time of each."""
        size = len(self._universe)
        drawn = array("q", (self._universe[int(size ** self._rng.random()) - 1] for _ in range(count)))
        return fastest({"": self._run}, drawn, 1)[""]

    def _run(self, drawn: Blocks) -> None:
        policy = self._policy
        for number, oblock in enumerate(drawn):
            if number % BIOS_PER_TICK == 0:
                self._now_ms += MS_PER_TICK
                policy.tick(self._now_ms)
            if policy.observes_bios:
                policy.observe_bio(oblock * BLOCK_SIZE, 4096, number % 25 == 0, self._now_ms)
            answer_and_work(policy, oblock, number % 5 == 0)


# --- loops that are timed --------------------------------------------------------------------------------------------


def fastest(loops: dict[str, Loop], sequence: Blocks, rounds: int) -> dict[str, float]:
    """Measure loops by turns; return the best round of each, in nanoseconds for each element."""
    best = dict.fromkeys(loops, float("inf"))
    for _ in range(rounds):
        for name, loop in loops.items():
            start = time.thread_time()
            loop(sequence)
            best[name] = min(best[name], (time.thread_time() - start) / len(sequence) * 1e9)
    return best


def hit_loop(policy: Policy, oblocks: Blocks, *, observes: bool = False) -> Loop:
    """Look up with a policy, all of whose blocks have been hit before, and which may be shown where bios lie."""
    observe, lookup = policy.observe_bio, policy.lookup

    def plain(sequence: Blocks) -> None:
        for oblock in sequence:
            lookup(oblock, False, False)

    def observing(sequence: Blocks) -> None:
        for oblock in sequence:
            observe(oblock * BLOCK_SIZE, 4096, False, 1)
            lookup(oblock, False, False)

    loop = observing if observes else plain
    loop(oblocks)
    return loop


def lru_loop(oblocks: Blocks) -> Loop:
    """Look up as an LRU does, with nothing around it."""
    lru = OrderedDict((oblock, cblock) for cblock, oblock in enumerate(oblocks))
    renew = lru.move_to_end

    def loop(sequence: Blocks) -> None:
        for oblock in sequence:
            if oblock in lru:
                renew(oblock)

    return loop


CONTENDERS: Final[dict[str, Callable[[Blocks], Loop]]] = {
    "LRU": lru_loop,
    "smq": lambda oblocks: hit_loop(filled("smq", oblocks, ORIGIN_FACTOR * len(oblocks)), oblocks),
    "mq": lambda oblocks: hit_loop(filled("mq", oblocks, ORIGIN_FACTOR * len(oblocks)), oblocks),
}
"""Makers of loops that look up what they are given, in a full cache of these blocks."""


PATTERNS: Final[dict[str, Callable[[random.Random, int, Scale], Iterable[int]]]] = {
    "the same few": lambda rng, blocks, scale: rng.choices(rng.sample(range(blocks), scale.small), k=scale.lookups),
    # Exponent 1: the logarithm of the rank is uniform; ranks are scattered.
    "Zipf": lambda rng, blocks, scale: (int(blocks ** rng.random()) * _SPREAD % blocks for _ in range(scale.lookups)),
    "uniform": lambda rng, blocks, scale: (rng.randrange(blocks) for _ in range(scale.lookups)),
}
"""Ways to draw blocks of the cache, always the same ones."""
