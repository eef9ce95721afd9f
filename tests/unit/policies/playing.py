"""Policies that admit at once, played as a cache of no delay would: what is wanted is done at once."""

from __future__ import annotations

from typing import cast

from policies import MISS_QUEUED, Op, create_policy
from policies.admitting import AdmittingPolicy

ADMITTING = ["adaptive", "arc", "lru", "s3fifo", "tinylfu", "twoq"]
ORIGIN_BLOCKS = 4096


class Play:
    """One policy at work on reads.

    :ivar hits: how many reads hit.
    """

    def __init__(self, name: str, cache_blocks: int) -> None:
        self.policy = cast(
            "AdmittingPolicy",
            create_policy(name, cache_blocks=cache_blocks, origin_blocks=ORIGIN_BLOCKS, block_size=65536),
        )
        self.hits = 0

    def read(self, *oblocks: int) -> list[bool]:
        """Read blocks; tell which hit."""
        hits = [self._read(oblock) for oblock in oblocks]
        self.hits += sum(hits)
        return hits

    def _read(self, oblock: int) -> bool:
        policy = self.policy
        answer = policy.lookup(oblock, False, False)
        if answer == MISS_QUEUED:
            self.work_off()
        return answer >= 0

    def work_off(self) -> list[tuple[Op, int]]:
        """Do all work; tell what it was."""
        done = []
        while (work := self.policy.get_background_work(False)) is not None:
            self.policy.complete_background_work(work, True)
            done.append((work.op, work.oblock))
        return done

    def cached(self) -> set[int]:
        """Return the oblocks that are cached."""
        return set(self.policy._index.check())

    def order(self) -> list[int]:
        """Return the oblocks that are cached, coldest first."""
        policy = self.policy
        return [policy._index.key_of(cblock) for some in policy.coldest_first() for cblock in some]

    def restarted(self, name: str | None = None) -> Play:
        """Return a play with a fresh policy that was told what is cached, by cblock and with hints."""
        old = self.policy
        play = Play(name or old.name, old._cache_blocks)
        play.policy.remember(old.memory())
        known = ((cblock, oblock) for oblock, cblock in old._index.check().items())
        for cblock, oblock in sorted(known):
            play.policy.load_mapping(oblock, cblock, False, old.get_hint(cblock))
        return play


def scan(first: int, blocks: int) -> range:
    """Return blocks that are read once, one after the other."""
    return range(first, first + blocks)
