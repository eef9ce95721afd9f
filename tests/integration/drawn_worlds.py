"""Worlds for the exerciser: what is mounted, and how, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integration import ways
from tests.integration.judges import MODES, PAGE_CACHES, POLICIES
from tests.integration.mounts import MAPS_EVERYWHERE, Mount
from tests.integration.promised import PAGE, SECTOR

KIB: Final = 1024
BLOCKS: Final = (4 * KIB, 12 * KIB, 16 * KIB, 64 * KIB, 76 * KIB)
FEWEST, MOST = 2, 64
"""Blocks of a cache."""
SMALLEST, LARGEST = 64 * KIB, 4 * KIB * KIB
"""Of images, in bytes."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What is exercised; sizes in bytes.

    :ivar pinned: what was not drawn but asked for, as options of ``scripts/exerciser``.
    """

    seed: int
    size: int
    block: int
    blocks: int
    mode: str
    policy: str
    page_cache: str
    ways: tuple[str, ...]
    pinned: tuple[str, ...] = ()

    @classmethod
    def drawn(cls, seed: int, *, mode: str = "", policy: str = "", page_cache: str = "") -> World:
        """Draw a world; what is given is not left to chance, and changes nothing else that is drawn.

        :param policy: may have tunables: ``NAME,KEY=VALUE``.
        """
        rng = random.Random(f"world {seed}")
        block = rng.choice(BLOCKS)
        blocks = min(MOST, int(FEWEST * (MOST / FEWEST) ** rng.random() + 0.5))
        size = int(min(max(SMALLEST, block * blocks * rng.uniform(0.7, 6)), LARGEST))
        size -= rng.choice([0, size % SECTOR, size % PAGE, size % block])
        drawn = {"mode": rng.choice(MODES), "policy": rng.choice(POLICIES), "page_cache": rng.choice(PAGE_CACHES)}
        has_loop = rng.random() < 0.5
        given = {"mode": mode, "policy": policy, "page_cache": page_cache}
        chosen = drawn | {name: value for name, value in given.items() if value}
        names = [name for name in ways.NAMES if name != "loop" or has_loop]
        if chosen["page_cache"] != "image" and not MAPS_EVERYWHERE:
            names.remove("mapped")  # there are no pages to share
        pinned = tuple(f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value)
        return cls(seed=seed, size=size, block=block, blocks=blocks, ways=tuple(names), pinned=pinned, **chosen)

    @property
    def policies(self) -> tuple[str, ...]:
        """List what to switch among: all of them, that of this world with its tunables."""
        name = self.policy.partition(",")[0]
        return tuple(self.policy if other == name else other for other in POLICIES)

    def content(self) -> bytes:
        """Return what the origin has at first."""
        return random.Random(f"content {self.seed}").randbytes(self.size)

    def mount_in(self, directory: Path) -> Mount:
        """Make the origin, and what is to be mounted."""
        (directory / "mnt").mkdir(parents=True)
        (directory / "origin").write_bytes(self.content())
        return Mount(
            origin=directory / "origin",
            cache=directory / "cache",
            metadata=directory / "metadata",
            mountpoint=directory / "mnt",
            options=["--cache-size", str(self.block * self.blocks), "--block-size", str(self.block)],
        )

    def replay(self, operations: int) -> str:
        """Spell the command that does the same again."""
        return " ".join(["scripts/exerciser", f"--seed {self.seed}", *self.pinned, f"--operations {operations}"])

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.size} bytes, a cache of {self.blocks} blocks of {self.block}, {self.mode}, "
            f"{self.policy}, page cache {self.page_cache}, ways {' '.join(self.ways)}"
        )
