"""dm-cache's text grammar: tables in, messages in, status and table lines out.

Theory of operation
-------------------
A *table* makes a cache; with paths where dm-cache has devices it reads::

    0 LEN cache META CACHE ORIGIN BLOCK NFEAT [FEATURE]* POLICY NARGS [KEY VALUE]*

``LEN`` and ``BLOCK`` are decimal sectors of 512 bytes.  Words are separated by blanks; a backslash takes the next
character as it is, so that paths may hold blanks.  Two rules differ from dm-cache's: a block may be as small as 8
sectors (there: 64), and words too many at the end are refused rather than ignored.

A *message* changes a running cache.  Besides dm-cache's own there are ``flush`` and ``decommission``.

Feature words and keys are taken in any case and come out in lower case; names of policies are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.config import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, Mode, MountConfig
from fusecache.errors import UsageError
from fusecache.stats import SECTOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusecache.stats import Status

MAX_SECTORS: Final = (2**63 - 1) // SECTOR
MAX_FEATURES: Final = 3
MAX_POLICY_ARGS: Final = 1024
MAX_POLICY_NAME: Final = 15
METADATA_BLOCK: Final = 4096
"""Bytes that the status line counts the metadata in."""

_MODES: Final = {mode.value: mode for mode in Mode}
_FEATURES: Final = ("metadata2", "no_discard_passdown")
_WORD: Final = re.compile(r"(?:\\.|[^\s\\])+", re.DOTALL)
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_RANGE: Final = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?")


def parse_table(
    table: str,
    mountpoint: Path,
    *,
    fuse_options: tuple[str, ...] = (),
    foreground: bool = False,
    format: int = 0,  # noqa: A002 - the option's name, as in MountConfig
) -> MountConfig:
    """Read a table; whether there are such files and such a policy is for others to find out.

    :raises UsageError: the grammar is broken; the message names the word.
    """
    words = split_words(table)
    reader = _Reader(words)
    if reader.number("start", 0, MAX_SECTORS):
        msg = f"table: the start must be 0, not {words[0]}"
        raise UsageError(msg)
    length = reader.number("length", 1, MAX_SECTORS)
    target = reader.word("target")
    if target != "cache":
        msg = f"table: the target must be 'cache', not {target!r}"
        raise UsageError(msg)
    metadata, cache, origin = (Path(reader.word(name)) for name in ("metadata", "cache", "origin"))
    least = MIN_BLOCK_SIZE // SECTOR
    block = reader.number("block size", least, MAX_BLOCK_SIZE // SECTOR)
    if block % least:
        msg = f"table: the block size must be a multiple of {least} sectors, not {block}"
        raise UsageError(msg)
    features = [reader.word("feature") for _ in range(reader.number("number of features", 0, MAX_FEATURES))]
    mode = _mode_among(features)
    policy = check_policy_name(reader.word("policy"))
    count = reader.number("number of policy arguments", 0, MAX_POLICY_ARGS)
    if count % 2:
        msg = f"table: policy arguments come as KEY VALUE, so their number must be even, not {count}"
        raise UsageError(msg)
    values = tuple((reader.word("policy argument").lower(), reader.word("policy argument")) for _ in range(count // 2))
    reader.end()
    return MountConfig(
        origin=origin,
        mountpoint=mountpoint,
        cache=cache,
        metadata=metadata,
        block_size=block * SECTOR,
        image_size=length * SECTOR,
        mode=mode,
        policy=policy,
        policy_values=values,
        fuse_options=fuse_options,
        table=tuple(words),
        foreground=foreground,
        format=format,
    )


def table_features(config: MountConfig) -> tuple[str, ...]:
    """List what the table asked for besides the mode, in the order of the status line; () without a table."""
    if not config.table:
        return ()
    count = int(config.table[7])
    asked = {word.lower() for word in config.table[8 : 8 + count]}
    return tuple(word for word in _FEATURES if word in asked)


def check_policy_name(name: str) -> str:
    """Return ``name`` if a policy could have it; raises UsageError."""
    if not 0 < len(name) <= MAX_POLICY_NAME:
        msg = f"policy name {name!r}: must have 1 to {MAX_POLICY_NAME} characters"
        raise UsageError(msg)
    return name


def parse_policy(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Read ``NAME[,KEY=VALUE...]``, as ``--policy`` has it; raises UsageError."""
    name, *settings = text.split(",")
    values = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            msg = f"--policy: {setting!r} is not KEY=VALUE"
            raise UsageError(msg)
        values.append((key.lower(), value))
    return check_policy_name(name), tuple(values)


def table_line(config: MountConfig) -> str:
    """Write the table that made this mount, or would have made it; with ``0 LEN cache`` before it, it does again.

    ``config`` names its files and its block size.  What was changed since the mount does not show.
    """
    assert config.block_size is not None, config
    if config.table:
        made_by = list(config.table[6:])
    else:
        values = [word for pair in config.policy_values for word in pair]
        made_by = [str(config.block_size // SECTOR), "1", config.mode.value, config.policy, str(len(values)), *values]
    return join_words([str(config.metadata), str(config.cache), str(config.origin), *made_by])


def status_line(status: Status) -> str:
    """Write dm-cache's status line, field for field."""
    features = list(status.features)
    features.insert(features.count("metadata2"), status.mode.value)
    values = [word for pair in status.policy_values.items() for word in pair]
    words = [
        METADATA_BLOCK // SECTOR,
        f"{_blocks(status.metadata_used_bytes)}/{_blocks(status.metadata_total_bytes)}",
        status.block_bytes // SECTOR,
        f"{status.used_blocks}/{status.cache_blocks}",
        status.read_hits,
        status.read_misses,
        status.write_hits,
        status.write_misses,
        status.demotions,
        status.promotions,
        status.dirty_blocks,
        len(features),
        *features,
        2,
        "migration_threshold",
        status.migration_threshold // SECTOR,
        status.policy,
        len(values),
        *values,
        "ro" if status.read_only else "rw",
        "needs_check" if status.needs_check else "-",
    ]
    return " ".join(map(str, words))


@dataclass(frozen=True, slots=True)
class SetValue:
    """Set ``migration_threshold`` or a tunable of the policy."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class InvalidateCblocks:
    """Drop mappings without writing anything back, in passthrough mode.

    Ranges are to be taken from left to right, each read by :func:`parse_range` when its turn comes: those before a bad
    one stay applied.
    """

    ranges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """Begin to write back all that is dirty."""


@dataclass(frozen=True, slots=True)
class Decommission:
    """Begin to write back all that is dirty, and to cache nothing any more."""


Message = SetValue | InvalidateCblocks | Flush | Decommission

_VERBS: Final[dict[str, Flush | Decommission]] = {"flush": Flush(), "decommission": Decommission()}


def parse_message(message: str | Sequence[str]) -> Message:
    """Read a message, in one string or already in words; raises UsageError."""
    words = split_words(message) if isinstance(message, str) else list(message)
    if not words:
        msg = "empty message"
        raise UsageError(msg)
    first, *rest = words
    verb = first.lower()
    if verb == "invalidate_cblocks":
        return InvalidateCblocks(tuple(rest))
    if verb in _VERBS:
        if rest:
            msg = f"message {verb!r} takes no arguments"
            raise UsageError(msg)
        return _VERBS[verb]
    if len(rest) != 1:
        msg = f"message {verb!r}: a key takes one value, {len(rest)} words follow"
        raise UsageError(msg)
    return SetValue(verb, rest[0])


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


def parse_decimal(text: str, name: str) -> int:
    """Read an unsigned decimal number; raises UsageError with ``name`` in it."""
    if _DECIMAL.fullmatch(text) is None:
        msg = f"{name} must be a decimal number, not {text!r}"
        raise UsageError(msg)
    return int(text)


def split_words(text: str) -> list[str]:
    r"""Split at blanks; ``\x`` is x, be it a blank or a backslash.  Raises UsageError for a backslash at the end."""
    rest = _WORD.sub("", text)
    if rest.strip():
        msg = "a backslash ends the text, with nothing after it to take as it is"
        raise UsageError(msg)
    return [re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL) for word in _WORD.findall(text)]


def join_words(words: Sequence[str]) -> str:
    """Undo :func:`split_words`, for words that are not empty."""
    return " ".join(re.sub(r"([\s\\])", r"\\\1", word) for word in words)


class _Reader:
    """The words of a table, one after the other."""

    __slots__ = ("_next", "_words")

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._next = 0

    def word(self, name: str) -> str:
        """Return the next word; ``name`` is what it would have been if there is none."""
        if self._next == len(self._words):
            msg = f"table: it ends where the {name} should be"
            raise UsageError(msg)
        self._next += 1
        return self._words[self._next - 1]

    def number(self, name: str, least: int, most: int) -> int:
        """Return the next word as a number from ``least`` to ``most``."""
        value = parse_decimal(self.word(name), f"table: the {name}")
        if not least <= value <= most:
            msg = f"table: the {name} must be from {least} to {most}, not {value}"
            raise UsageError(msg)
        return value

    def end(self) -> None:
        """Make sure that nothing is left."""
        if self._next < len(self._words):
            msg = f"table: nothing may follow the policy arguments, but {self._words[self._next]!r} does"
            raise UsageError(msg)


def _mode_among(features: Sequence[str]) -> Mode:
    """Find the mode among feature words, at most one; raises UsageError for words that are none."""
    modes = []
    for feature in (word.lower() for word in features):
        if feature in _MODES:
            modes.append(_MODES[feature])
        elif feature not in _FEATURES:
            msg = f"table: unknown feature {feature!r}"
            raise UsageError(msg)
    if len(modes) > 1:
        msg = f"table: duplicate mode: {modes[0].value} and {modes[1].value}"
        raise UsageError(msg)
    return modes[0] if modes else Mode.WRITEBACK


def _blocks(size: int) -> int:
    """Count the metadata blocks that ``size`` bytes touch."""
    return -(-size // METADATA_BLOCK)
