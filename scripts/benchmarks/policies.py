"""Measure the replacement policies, and hold the figures against their targets.

Four questions: how much memory a full cache takes, how the time of a lookup grows with the cache, how fast hits and a
mix of hits and misses are next to an LRU made of an OrderedDict, and what the longest single call is (stalls.py).

The machine may be busy with other things, so times are those of this thread's processor (time.thread_time), and of
several rounds the fastest counts.  What others do to the caches and the memory of the machine still shows; so what is
compared is measured by turns, in one run.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
import tracemalloc
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from policies import MISS_QUEUED, Policy, create_policy
from scripts.benchmarks.draws import hot, scattered, uniform, zipf
from scripts.benchmarks.stalls import SCENARIOS, creation_seconds, longest_call

BLOCK_SIZE: Final = 65536
ORIGIN_FACTOR: Final = 100
WIDE_ORIGIN: Final = 2**40
FAIR_HITS: Final = 0.8
FAIR_MIX: Final = 0.2
GROWTH: Final = 1.5
LONGEST_MS: Final = 10.0
BYTES_PER_BLOCK: Final = {"smq": 33, "mq": 88}
MS_PER_TICK: Final = 100
BIOS_PER_TICK: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much to measure: blocks of the cache, of the caches compared, lookups of a round, and rounds."""

    blocks: int = 1_000_000
    small: int = 4_000
    large: int = 4_000_000
    lookups: int = 200_000
    rounds: int = 3


QUICK: Final = Scale(blocks=100_000, large=400_000, lookups=50_000, rounds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure, and its target if it has one."""

    question: str
    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least


def filled(name: str, oblocks: array[int], origin_blocks: int, *, dirty_every: int = 0) -> Policy:
    """Make a policy of a full cache."""
    policy = create_policy(name, cache_blocks=len(oblocks), origin_blocks=origin_blocks, block_size=BLOCK_SIZE)
    for cblock, oblock in enumerate(oblocks):
        policy.load_mapping(oblock, cblock, dirty_every > 0 and cblock % dirty_every == 0, None)
    policy.tick(1)
    return policy


def nanoseconds(run: Callable[[array[int]], object], sequence: array[int]) -> float:
    """Measure one round of a loop over a sequence; return processor time for each element."""
    start = time.thread_time()
    run(sequence)
    return (time.thread_time() - start) / len(sequence) * 1e9


def fastest(runs: dict[str, Callable[[array[int]], object]], sequence: array[int], rounds: int) -> dict[str, float]:
    """Measure loops by turns; return the best round of each, in nanoseconds for each element."""
    times = [{name: nanoseconds(run, sequence) for name, run in runs.items()} for _ in range(rounds)]
    return {name: min(each[name] for each in times) for name in runs}


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(scale: Scale) -> Iterator[Figure]:
    """Measure what a full cache takes, a third of it dirty, after some use and ticks, and the most meanwhile."""
    for name, most in BYTES_PER_BLOCK.items():
        for kind, origin_blocks in (("usual", ORIGIN_FACTOR * scale.blocks), ("huge", WIDE_ORIGIN)):
            current, peak = traced_memory(name, scale, origin_blocks)
            what = f"{name}, {kind} origin"
            yield Figure(question="memory", what=f"{what}: in use", value=current, unit="B/block", at_most=most)
            yield Figure(question="memory", what=f"{what}: peak", value=peak, unit="B/block", at_most=most)


def traced_memory(name: str, scale: Scale, origin_blocks: int) -> tuple[float, float]:
    """Return bytes for each cache block, block numbers included: at the end, and the peak since it was full."""
    create_policy(name, cache_blocks=4, origin_blocks=4, block_size=BLOCK_SIZE)  # what importing takes is not counted
    stride = origin_blocks // scale.blocks
    rng = random.Random(1)
    gc.collect()
    tracemalloc.start()
    try:
        policy = create_policy(name, cache_blocks=scale.blocks, origin_blocks=origin_blocks, block_size=BLOCK_SIZE)
        for cblock in range(scale.blocks):
            policy.load_mapping(cblock * stride, cblock, cblock % 3 == 0, None)
        tracemalloc.reset_peak()
        now_ms = 0
        for bio in range(scale.lookups // 2):
            if bio % BIOS_PER_TICK == 0:
                now_ms += 60_001 if bio % (20 * BIOS_PER_TICK) == 0 else MS_PER_TICK
                policy.tick(now_ms)
            oblock = rng.randrange(scale.blocks) * stride + (bio % 4 == 0)
            policy.observe_bio(oblock * BLOCK_SIZE, 4096, False, now_ms)
            answer_and_work(policy, oblock, bio % 5 == 0)
        current, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return current / scale.blocks, peak / scale.blocks


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


# --- growth ----------------------------------------------------------------------------------------------------------


def growth(scale: Scale) -> Iterator[Figure]:
    """Measure hits in a small and in a large cache, for three ways to choose blocks; a dict and an OrderedDict beside.

    In a large cache uniformly random blocks lie in no processor cache, whatever the program: every word read costs
    some 100 ns there.  The line "one word" is a program that does nothing but read one word of 8 bytes, one for each
    block: what knows its blocks grows by no fewer nanoseconds.
    """
    times: dict[tuple[str, str, int], float] = {}
    for blocks in (scale.small, scale.large):
        oblocks = scattered(blocks, ORIGIN_FACTOR * blocks, seed=2)
        places = {pattern: draw(blocks, scale.small, scale.lookups) for pattern, draw in PATTERNS.items()}
        for name, make in contenders(oblocks).items():
            run = make()
            for pattern, cblocks in places.items():
                drawn = cblocks if name == "one word" else array("q", (oblocks[cblock] for cblock in cblocks))
                times[name, pattern, blocks] = fastest({name: run}, drawn, scale.rounds)[name]
    for pattern in PATTERNS:
        for name in contenders(array("q")):
            small, large = times[name, pattern, scale.small], times[name, pattern, scale.large]
            yield Figure(
                question="growth",
                what=f"{pattern}: {name} ({small:.0f} to {large:.0f} ns)",
                value=large / small,
                unit="times",
                at_most=GROWTH if name in BYTES_PER_BLOCK else None,
            )


def contenders(oblocks: array[int]) -> dict[str, Callable[[], Callable[[array[int]], object]]]:
    """List what is made of a full cache: makers of loops that look up what they are given."""
    origin_blocks = ORIGIN_FACTOR * len(oblocks)
    return {
        "smq": lambda: hit_loop(filled("smq", oblocks, origin_blocks), oblocks),
        "mq": lambda: hit_loop(filled("mq", oblocks, origin_blocks), oblocks),
        "dict": lambda: read_loop({oblock: cblock for cblock, oblock in enumerate(oblocks)}),
        "OrderedDict": lambda: lru_loop(OrderedDict((oblock, cblock) for cblock, oblock in enumerate(oblocks))),
        "one word": lambda: read_loop(array("q", (1,)) * len(oblocks)),
    }


def hit_loop(policy: Policy, oblocks: array[int]) -> Callable[[array[int]], object]:
    """Look up with a policy, all of whose blocks have been hit before."""
    lookup = policy.lookup

    def run(sequence: array[int]) -> None:
        for oblock in sequence:
            lookup(oblock, False, False)

    run(oblocks)
    return run


def read_loop(container: dict[int, int] | array[int]) -> Callable[[array[int]], object]:
    """Read from a container."""

    def run(sequence: array[int]) -> None:
        for place in sequence:
            container[place]

    return run


def lru_loop(lru: OrderedDict[int, int]) -> Callable[[array[int]], object]:
    """Look up as an LRU does, with nothing around it."""
    renew = lru.move_to_end

    def run(sequence: array[int]) -> None:
        for oblock in sequence:
            if oblock in lru:
                renew(oblock)

    return run


PATTERNS: Final = {"the same few blocks": hot, "Zipf, all blocks": zipf, "uniform, all blocks": uniform}


# --- speed -----------------------------------------------------------------------------------------------------------


def speed(scale: Scale) -> Iterator[Figure]:
    """Measure hits on uniformly random blocks, and a mix with migrations going on; an LRU's hits are the measure."""
    origin_blocks = ORIGIN_FACTOR * scale.blocks
    oblocks = scattered(scale.blocks, origin_blocks, seed=6)
    drawn = array("q", (oblocks[place] for place in uniform(scale.blocks, 0, scale.lookups)))
    policies = {name: filled(name, oblocks, origin_blocks) for name in BYTES_PER_BLOCK}
    runs = {name: bio_loop(policy, oblocks) for name, policy in policies.items()}
    lru = OrderedDict((oblock, cblock) for cblock, oblock in enumerate(oblocks))
    times = fastest({"LRU": lru_loop(lru), **runs}, drawn, scale.rounds)
    yield rate("hits: LRU", times["LRU"])
    for name in policies:
        yield rate(f"hits: {name}", times[name])
        yield share(f"hits: {name} / LRU", times["LRU"] / times[name], FAIR_HITS)
    for name, policy in policies.items():
        mixed = Mix(policy, oblocks, origin_blocks)
        times[name] = min(mixed.nanoseconds(scale.lookups) for _ in range(scale.rounds))
        yield rate(f"mix: {name} ({mixed.summary()})", times[name])
        yield share(f"mix: {name} / LRU's hits", times["LRU"] / times[name], FAIR_MIX)


def rate(what: str, each: float) -> Figure:
    """Turn nanoseconds into a rate."""
    return Figure(question="speed", what=what, value=1e3 / each, unit="million/s")


def share(what: str, ratio: float, at_least: float) -> Figure:
    """Hold a ratio against what is at least wanted."""
    return Figure(question="speed", what=what, value=ratio, unit="", at_least=at_least)


def bio_loop(policy: Policy, oblocks: array[int]) -> Callable[[array[int]], object]:
    """Refer bios as a mount does: policies that want to see where bios lie are shown that, too."""
    if not policy.observes_bios:
        return hit_loop(policy, oblocks)
    observe, lookup = policy.observe_bio, policy.lookup

    def run(sequence: array[int]) -> None:
        for oblock in sequence:
            observe(oblock * BLOCK_SIZE, 4096, False, 1)
            lookup(oblock, False, False)

    run(oblocks)
    return run


class Mix:
    """Zipf over cached and other blocks, with ticks; a fifth is writes, some of them to discarded blocks.

    Both policies have work to do then: mq takes long to promote what is merely read, but not what was discarded.
    """

    def __init__(self, policy: Policy, oblocks: array[int], origin_blocks: int) -> None:
        """Make the warm ones known to the policy."""
        self._policy = policy
        self._rng = random.Random(7)
        others = scattered(len(oblocks), origin_blocks, seed=8)
        self._universe = array("q", (oblock for pair in zip(oblocks, others, strict=True) for oblock in pair))
        self._now_ms = 2
        self._bios = self._hits = 0
        self._changes = 0

    def nanoseconds(self, count: int) -> float:
        """Do so many bios; return the processor time of each."""
        size = len(self._universe)
        drawn = array("q", (self._universe[int(size ** self._rng.random()) - 1] for _ in range(count)))
        return nanoseconds(self._run, drawn)

    def _run(self, drawn: array[int]) -> None:
        policy = self._policy
        for number, oblock in enumerate(drawn):
            if number % BIOS_PER_TICK == 0:
                self._now_ms += MS_PER_TICK
                policy.tick(self._now_ms)
            if policy.observes_bios:
                policy.observe_bio(oblock * BLOCK_SIZE, 4096, number % 25 == 0, self._now_ms)
            answer = answer_and_work(policy, oblock, number % 5 == 0)
            self._hits += answer >= 0
            self._changes += answer == MISS_QUEUED
        self._bios += len(drawn)

    def summary(self) -> str:
        """Tell what the mix was, for the record."""
        return f"{self._hits / self._bios:.0%} hits, {self._changes / self._bios:.1%} ask for work"


# --- stalls ----------------------------------------------------------------------------------------------------------


def stalls(scale: Scale) -> Iterator[Figure]:
    """Measure the longest single call in situations made to be hard, and what creating a policy takes."""
    for scenario in SCENARIOS:
        seconds, call = longest_call(scenario, scale.blocks, scale.rounds)
        yield Figure(
            question="stalls",
            what=f"{scenario.policy}: {scenario.what} ({call})",
            value=seconds * 1e3,
            unit="ms",
            at_most=LONGEST_MS,
        )
    for name in BYTES_PER_BLOCK:
        seconds = creation_seconds(name, scale.blocks, scale.rounds)
        yield Figure(question="stalls", what=f"{name}: creation (not a call)", value=seconds * 1e3, unit="ms")


# --- the report ------------------------------------------------------------------------------------------------------

QUESTIONS: Final = {"memory": memory, "growth": growth, "speed": speed, "stalls": stalls}


def report(figures: list[Figure]) -> Table:
    """Lay the figures out, each with its target and whether it is met."""
    table = Table("question", "what", "measured", "target", "met", box=box.SIMPLE)
    for place in (2, 3):
        table.columns[place].justify = "right"
    asked = ""
    for figure in figures:
        wanted = (
            "" if figure.is_met is None else f"<= {figure.at_most:g}" if figure.at_most else f">= {figure.at_least:g}"
        )
        met = "" if figure.is_met is None else "yes" if figure.is_met else "NO"
        question = figure.question if figure.question != asked else ""
        asked = figure.question
        table.add_row(question, figure.what, f"{figure.value:.2f} {figure.unit}".strip(), wanted, met)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench policies", description=__doc__.partition("\n")[0])
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; all unless told")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the size: shows whether all works, proves nothing"
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    options = parser.parse_args(arguments)
    for question in options.questions:
        if question not in QUESTIONS:
            parser.error(f"unknown question {question!r}: {', '.join(QUESTIONS)}")
    progress = Console(stderr=True, highlight=False)
    figures: list[Figure] = []
    for question in options.questions or QUESTIONS:
        with progress.status(f"measuring {question}"):
            figures += QUESTIONS[question](QUICK if options.quick else Scale())
    if options.json:
        json.dump([asdict(figure) | {"is_met": figure.is_met} for figure in figures], sys.stdout, indent=2)
        print()
    else:
        width = None if sys.stdout.isatty() else 110
        Console(highlight=False, width=width).print(report(figures))


if __name__ == "__main__":
    main()
