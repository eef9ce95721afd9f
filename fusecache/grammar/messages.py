"""Messages, which change a running cache.  Besides dm-cache's own: ``flush``, ``decommission`` and ``discard``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusecache.errors import UsageError
from fusecache.grammar.policies import MIGRATION_THRESHOLD, parse_threshold
from fusecache.grammar.words import split_words

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_RANGE: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


@dataclass(frozen=True, slots=True)
class SetThreshold:
    """Set ``migration_threshold``, in bytes here."""

    size: int


@dataclass(frozen=True, slots=True)
class SetTunable:
    """Set a tunable of the policy."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class InvalidateCblocks:
    """Drop mappings without writing anything back, in passthrough mode.

    Ranges are applied from left to right, and :func:`parse_range` reads each only then: those before a bad one stay
    applied.
    """

    ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """Begin to write back all that is dirty."""


@dataclass(frozen=True, slots=True)
class Decommission:
    """Begin to write back all that is dirty, and to cache nothing any more."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Have ranges of the image, in bytes, read as zeros; :func:`parse_bytes` reads each."""

    ranges: tuple[str, ...]


Message = SetThreshold | SetTunable | InvalidateCblocks | Flush | Decommission | Discard

_VERBS: Final[dict[str, Flush | Decommission]] = {"flush": Flush(), "decommission": Decommission()}


def parse_message(message: str | Sequence[str]) -> Message:
    """Read a message, in one string or already in words, also as ``dmsetup message`` has it; raises UsageError."""
    words = _without_sector(split_words(message) if isinstance(message, str) else list(message))
    if not words:
        msg = "empty message"
        raise UsageError(msg)
    first, *rest = words
    verb = first.lower()
    if verb == "invalidate_cblocks":
        return InvalidateCblocks(tuple(rest))
    if verb == "discard":
        return Discard(tuple(rest))
    if verb in _VERBS:
        if rest:
            msg = f"message {verb!r} takes no arguments"
            raise UsageError(msg)
        return _VERBS[verb]
    if len(rest) != 1:
        msg = f"message {verb!r}: a key takes one value, {len(rest)} words follow"
        raise UsageError(msg)
    (value,) = rest
    return SetThreshold(parse_threshold(value)) if verb == MIGRATION_THRESHOLD else SetTunable(verb, value)


def _without_sector(words: list[str]) -> list[str]:
    """Leave out the sector, which says to dmsetup which part of a device is meant, and here is always the whole."""
    if not words or _NUMBER.fullmatch(words[0]) is None:
        return words
    if int(words[0]):
        msg = f"message: the sector must be 0, not {words[0]}: an image is one part"
        raise UsageError(msg)
    return words[1:]


def parse_bytes(text: str, image_bytes: int) -> tuple[int, int]:
    """Read ``begin-end`` (bytes, the end excluded) as numbers; raises UsageError."""
    match = _RANGE.fullmatch(text)
    if match is None or match[2] is None or int(match[1]) >= int(match[2]):
        msg = f"{text!r} is not a range of bytes: write BEGIN-END with END excluded"
        raise UsageError(msg)
    if int(match[2]) > image_bytes:
        msg = f"range {text!r} goes beyond the image's {image_bytes} bytes"
        raise UsageError(msg)
    return int(match[1]), int(match[2])


def parse_range(text: str, cache_blocks: int) -> tuple[int, int]:
    """Read ``n`` (one cblock) or ``b-e`` (e excluded) as ``(begin, end)``; raises UsageError."""
    match = _RANGE.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not a range of cache blocks: write N, or BEGIN-END with END excluded"
        raise UsageError(msg)
    begin = int(match[1])
    end = begin + 1 if match[2] is None else int(match[2])
    if begin >= end:
        msg = f"range {text!r} is empty: its end is excluded"
        raise UsageError(msg)
    if end > cache_blocks:
        msg = f"range {text!r} goes beyond the cache's {cache_blocks} blocks"
        raise UsageError(msg)
    return begin, end
