"""What kind of history a seed makes: sizes, clients, what fails and how often."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from fusecache.block.geometry import Geometry
from tests.crash.rig import BLOCK, QUICK_TICKS

_PARTS: Final = ("origin", "cache", "record")


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of history a seed makes."""

    geometry: Geometry
    region_blocks: int
    cell_bytes: int
    clients: int
    requests: int
    think_seconds: float
    gap: int
    """Task steps between two crash points, on average."""
    restlessness: float
    """Changes of policy and mode, flushes and the like, per request."""
    fault_rate: float
    failing: tuple[str, ...]
    """The parts that fail."""
    spared: tuple[str, ...]
    """What does not fail: a failed flush is for good, and little is acknowledged after it."""
    forgets: str
    """The store, if any, that forgets what a failed flush did not make durable; nothing else fails then."""
    scrub_rate: int
    """Bytes a second."""
    tick_seconds: float
    """So much that happens between two ticks is never committed on its own."""
    hammering: float
    """Series of small writes to one block, with a flush or a read between them, per request."""
    read_ahead: int
    """Bytes of memory for what is read ahead; if there is any, some clients read in order."""
    collisions: float
    """Series of writes of the same cells at the same time, per request."""
    discards: float
    """How many of the requests, and of the writes of such series, are discards."""

    @classmethod
    def of(cls, rng: random.Random, *, faults: bool) -> Shape:
        cell_bytes = rng.choice((512, 512, 128))
        tail = rng.randrange(0, BLOCK, cell_bytes)
        forgets = rng.choice(("", "", "origin", "cache", "cache")) if faults else ""
        spared = rng.choice(((), ("write", "read")) if forgets else ((), ("flush",), ("flush", "read")))
        loses_cache = forgets == "cache"
        # What it has lost is what counts then: few crashes each, so that there are many histories.
        return cls(
            geometry=Geometry(rng.randint(3, 9) * BLOCK + tail, BLOCK, rng.choice((1, 2, 3, 4, 9))),
            region_blocks=rng.choice((1, 1, 2, 3)),
            cell_bytes=cell_bytes,
            clients=rng.randint(1, 4),
            requests=rng.randint(5, 25),
            think_seconds=rng.choice((0.0, 0.01, 0.1)),
            gap=rng.choice((50, 200) if loses_cache else (7, 20, 50)),
            restlessness=rng.choice((0.0, 0.05, 0.3)),
            fault_rate=rng.choice((0.02, 0.1) if loses_cache else (0.02, 0.1, 0.25)) if faults else 0.0,
            failing=(forgets,) if forgets else rng.choice((_PARTS, _PARTS[:2], *((part,) for part in _PARTS))),
            spared=spared if faults else (),
            forgets=forgets,
            scrub_rate=rng.choice((0, 10 * BLOCK, 1000 * BLOCK)),
            tick_seconds=rng.choice((QUICK_TICKS, QUICK_TICKS, 10 * QUICK_TICKS)),
            hammering=rng.choice((0.4, 0.8) if loses_cache else (0.0, 0.1, 0.4)),
            read_ahead=rng.choice((0, 0, 8 * BLOCK, 32 * BLOCK)),
            collisions=rng.choice((0.0, 0.0, 0.3)),
            discards=rng.choice((0.0, 0.0, 0.0, 0.1) if loses_cache else (0.0, 0.0, 0.1, 0.4)),
        )
