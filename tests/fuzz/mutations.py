"""Inputs that somebody, or a failing disk, has had a hand in."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Final

PAGE: Final = 4096
COUNT: Final = int(os.environ.get("FUSECACHE_FUZZ", "300"))
"""How many inputs of a kind are tried; FUSECACHE_FUZZ=100000 for all night."""
SEED: Final = os.environ.get("FUSECACHE_FUZZ_SEED", "1")


def numbered(kind: str) -> Iterator[tuple[int, random.Random]]:
    """Yield the numbers of the inputs, each with its own source of chance: one input can be had again alone."""
    for number in range(COUNT):
        yield number, random.Random(f"{SEED} {kind} {number}")


def mutate(data: bytes, rng: random.Random, words: tuple[bytes, ...] = ()) -> bytes:
    """Change a few things about a document or a file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 10))):
        rng.choice(_MUTATIONS)(changed, rng)
        if words and rng.random() < 0.3:
            _put_word(changed, rng, words)
    return bytes(changed)


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start, length = _some(data, rng)
    data[start : start + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))


def _cut(data: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.5:
        start, length = _some(data, rng)
        del data[start : start + length]
    else:
        del data[rng.randrange(len(data) + 1) :]


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, length = _some(data, rng)
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[start : start + length]


def _copy(data: bytearray, rng: random.Random) -> None:
    """Copy one place over another; pages over pages most of the time."""
    if len(data) > PAGE and rng.random() < 0.7:
        source, target = (rng.randrange(len(data) // PAGE) * PAGE for _ in range(2))
        data[target : target + PAGE] = data[source : source + PAGE]
    else:
        start, length = _some(data, rng)
        at = rng.randrange(len(data) + 1)
        data[at : at + length] = data[start : start + length]


def _put_word(data: bytearray, rng: random.Random, words: tuple[bytes, ...]) -> None:
    """Put a word of the grammar, or a number that nobody expects, in the place of something, or in between."""
    at = rng.randrange(len(data) + 1)
    length = rng.choice((0, 0, 1, 4, 10))
    data[at : at + length] = rng.choice((*words, b"0", b"-1", b"18446744073709551616", b"9" * 5000, b"\xd9\xa3", b""))


def _some(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """Choose a range."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data) - start, rng.choice((1, 2, 8, 100, PAGE)))


_MUTATIONS: Final[tuple[Callable[[bytearray, random.Random], None], ...]] = (
    _flip,
    _flip,
    _set,
    _overwrite,
    _cut,
    _repeat,
    _copy,
)
