"""What the policies promise, as experiments of a second or less: tests judge their outcome, figures.py draws it.

Each drives policies through their contract alone, on a clock of its own and with seeded random numbers, so the outcome
is the same every time.  Work is done as soon as it is asked for.  Blocks are 64 KiB, and a bio is 4 KiB of one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from policies import MISS_QUEUED, Op, Policy, create_policy

BLOCK: Final = 64 * 1024
BIO: Final = 4 * 1024
BIOS_PER_BLOCK: Final = BLOCK // BIO
MINUTE_MS: Final = 60_000

HOT_SHARE: Final = 0.9
"""How much of the load goes to the hot set."""
WINDOW_MS: Final = 10_000
"""Over how long hit ratios are taken."""
_MS_PER_BIO: Final = 10
_BIOS_PER_TICK: Final = 4
_BUSY_BLOCKS: Final = 512
_BUSY_HOT_BLOCKS: Final = 400
_BUSY_ORIGIN_BLOCKS: Final = 8192


class Bench:
    """One policy at work.

    :ivar policy: the policy.
    :ivar promotions: how many blocks it has had promoted.
    :ivar now_ms: what time it is.
    """

    def __init__(self, name: str, *, cache_blocks: int, origin_blocks: int) -> None:
        self.policy: Policy = create_policy(
            name, cache_blocks=cache_blocks, origin_blocks=origin_blocks, block_size=BLOCK
        )
        self.promotions = 0
        self.now_ms = 0
        self._cache_blocks = cache_blocks
        self.tick(1)  # that of the cache's timer as it starts

    def tick(self, milliseconds: int = 0) -> None:
        """Let time pass, then tick."""
        self.now_ms += milliseconds
        self.policy.tick(self.now_ms)

    def load(self, hint: int | None = None) -> None:
        """Fill the cache with the origin's first blocks, clean."""
        for number in range(self._cache_blocks):
            self.policy.load_mapping(number, number, False, hint)

    def read(self, offset: int) -> int:
        """Refer a bio, do the work that it leads to, and return the policy's answer."""
        policy = self.policy
        if policy.observes_bios:
            policy.observe_bio(offset, BIO, False, self.now_ms)
        answer = policy.lookup(offset // BLOCK, False, False)
        if answer == MISS_QUEUED:
            while (work := policy.get_background_work(False)) is not None:
                policy.complete_background_work(work, True)
                if work.op is Op.PROMOTE:
                    policy.clear_dirty(work.cblock)
                    self.promotions += 1
        return answer

    def hints(self) -> list[int]:
        """Return the hint of each cache block: its level in smq, its hit count in mq."""
        return [self.policy.get_hint(cblock) for cblock in range(self._cache_blocks)]

    def populations(self) -> list[int]:
        """Count the cached blocks of each level: 64 of them in smq, 16 in mq."""
        if self.policy.name == "mq":
            levels = [min(max(hits, 1).bit_length() - 1, 15) for hits in self.hints()]
            return [levels.count(level) for level in range(16)]
        return [self.hints().count(level) for level in range(64)]


# A block counts as hit at most once a tick


def ticks_to_promotion(name: str, bios_per_tick: int, limit: int = 50) -> int | None:
    """Read one block so many times between two ticks; return after how many ticks it is wanted, None if never."""
    bench = Bench(name, cache_blocks=16, origin_blocks=64)
    for ticks in range(limit):
        answers = [bench.read(0) for _ in range(bios_per_tick)]
        if any(answer != -1 for answer in answers):
            return ticks
        bench.tick(1)
    return None


def hint_after_hits(name: str, *, rounds: int, hits_per_tick: int, tick_ms: int) -> int:
    """Hit the first block of a cache full of equals so many times between ticks; return what its hint becomes."""
    bench = Bench(name, cache_blocks=64, origin_blocks=128)
    bench.load(hint=1)
    for _ in range(rounds):
        for _ in range(hits_per_tick):
            bench.read(0)
        bench.tick(tick_ms)
    bench.read(64 * BLOCK)  # mq looks for ticks when a bio comes: one that hits nothing
    return bench.policy.get_hint(0)


# Sequential streams bypass mq


def stream(blocks: int) -> list[int]:
    """Return the offsets of one pass over so many blocks, bio by bio."""
    return list(range(0, blocks * BLOCK, BIO))


def shuffled(offsets: list[int]) -> list[int]:
    """Return the same bios in random order, each time the same one."""
    return random.Random(1).sample(offsets, len(offsets))


def promotions_along(offsets: Iterable[int], *, sequential_threshold: int, cache_blocks: int = 1024) -> list[int]:
    """Read with mq, one bio at a time, so that each brings a tick; return the promotions so far after each bio."""
    bench = Bench("mq", cache_blocks=cache_blocks, origin_blocks=4 * cache_blocks)
    bench.policy.set_config_value("sequential_threshold", str(sequential_threshold))
    counts = []
    for offset in offsets:
        bench.read(offset)
        bench.tick(1)
        counts.append(bench.promotions)
    return counts


# smq adapts to a moved hot set


def moved_hot_set(name: str, *, minutes_before: int, minutes_after: int) -> Iterator[tuple[int, float]]:
    """Read mostly from a hot set that moves once; yield the end in ms and the hit ratio of each window."""
    bench = Bench(name, cache_blocks=_BUSY_BLOCKS, origin_blocks=_BUSY_ORIGIN_BLOCKS)
    hits = 0
    for count, offset in enumerate(_hot_reads(minutes_before, minutes_after), start=1):
        hits += bench.read(offset) >= 0
        bench.now_ms += _MS_PER_BIO
        if count % _BIOS_PER_TICK == 0:
            bench.tick()
        if count * _MS_PER_BIO % WINDOW_MS == 0:
            yield count * _MS_PER_BIO, hits * _MS_PER_BIO / WINDOW_MS
            hits = 0


def _hot_reads(*minutes: int) -> Iterator[int]:
    """Yield offsets: for so many minutes, then from another place for so many, and so on."""
    rng = random.Random(1)
    for phase, length in enumerate(minutes):
        first = phase * 2 * _BUSY_HOT_BLOCKS
        for _ in range(length * MINUTE_MS // _MS_PER_BIO):
            is_hot = rng.random() < HOT_SHARE
            oblock = first + rng.randrange(_BUSY_HOT_BLOCKS) if is_hot else rng.randrange(_BUSY_ORIGIN_BLOCKS)
            yield oblock * BLOCK + rng.randrange(BIOS_PER_BLOCK) * BIO


# Levels stay balanced


def levels_under_hits(name: str, *, cache_blocks: int = 1024, minutes: int = 10) -> Iterator[list[int]]:
    """Hit a full cache, few blocks much more often than the rest; yield the population of each level, every minute."""
    bench = Bench(name, cache_blocks=cache_blocks, origin_blocks=cache_blocks)
    bench.load(hint=1)
    bench.tick(1)
    rng = random.Random(1)
    weights = [1 / (number + 1) for number in range(cache_blocks)]
    bios_per_minute = MINUTE_MS // _MS_PER_BIO
    for _ in range(minutes):
        for count, oblock in enumerate(rng.choices(range(cache_blocks), weights, k=bios_per_minute), start=1):
            bench.read(oblock * BLOCK)
            bench.now_ms += _MS_PER_BIO
            if count % _BIOS_PER_TICK == 0:
                bench.tick()
        yield bench.populations()


def levels_under_replacement(*, minutes: int = 8) -> Iterator[list[int]]:
    """Have smq replace its blocks all the time; yield the population of each level, right after it evened them out."""
    bench = Bench("smq", cache_blocks=_BUSY_BLOCKS, origin_blocks=_BUSY_ORIGIN_BLOCKS)
    for count, offset in enumerate(_hot_reads(*[1] * minutes), start=1):
        bench.read(offset)
        bench.now_ms += _MS_PER_BIO
        due = count * _MS_PER_BIO % MINUTE_MS == 0
        if count % _BIOS_PER_TICK == 0:
            bench.tick(2 if due else 0)
        if due:
            yield bench.populations()
