"""dm-cache's tables: what makes a cache, read and written.

Theory of operation
-------------------
A *table* makes a cache; with paths where dm-cache has devices it reads::

    0 LEN cache META CACHE ORIGIN BLOCK NFEAT [FEATURE]* POLICY NARGS [KEY VALUE]*

``LEN`` and ``BLOCK`` are decimal sectors of 512 bytes.  Words are separated by blanks; a backslash takes the next
character as it is, so that paths may hold blanks.  Two rules differ from dm-cache's: a block may be as small as 8
sectors (there: 64), and words too many at the end are refused rather than ignored.

Feature words and keys are taken in any case and come out in lower case; names of policies are not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.config import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, Mode, MountConfig
from fusecache.errors import UsageError
from fusecache.grammar.policies import choose_policy, policy_words
from fusecache.grammar.words import join_words, parse_decimal, split_words
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_SECTORS: Final = (2**63 - 1) // SECTOR
MAX_FEATURES: Final = 3
MAX_POLICY_ARGS: Final = 1024
_DEVICE: Final = re.compile(r"[0-9]{1,10}:[0-9]{1,10}")
_MODES: Final = {mode.value: mode for mode in Mode}
_NO_PASSDOWN: Final = "no_discard_passdown"
_FEATURES: Final = ("metadata2", _NO_PASSDOWN)


def parse_table(
    table: str,
    mountpoint: Path,
    *,
    device_path: Callable[[str], str] = str,
    fuse_options: tuple[str, ...] = (),
    foreground: bool = False,
    format: int = 0,  # noqa: A002 - the option's name, as in MountConfig
) -> MountConfig:
    """Read a table, as ``dmsetup table`` prints it, too; whether there are such files is for others to find out.

    :param device_path: finds the name of a device of which the table says ``MAJOR:MINOR``, or raises UsageError.
    :raises UsageError: the grammar is broken; the message names the word.
    """
    words = split_words(table)
    if words and words[0].endswith(":"):  # the name of the device, which dmsetup prints if it is asked for all of them
        words.pop(0)
    reader = _Reader(words)
    if reader.number("start", 0, MAX_SECTORS):
        msg = f"table: the start must be 0, not {words[0]}"
        raise UsageError(msg)
    length = reader.number("length", 1, MAX_SECTORS)
    target = reader.word("target")
    if target != "cache":
        msg = f"table: the target must be 'cache', not {target!r}"
        raise UsageError(msg)
    metadata, cache, origin = (
        device_path(word) if _DEVICE.fullmatch(word) else word
        for word in map(reader.word, ("metadata", "cache", "origin"))
    )
    least = MIN_BLOCK_SIZE // SECTOR
    block = reader.number("block size", least, MAX_BLOCK_SIZE // SECTOR)
    if block % least:
        msg = f"table: the block size must be a multiple of {least} sectors, not {block}"
        raise UsageError(msg)
    features = [reader.word("feature") for _ in range(reader.number("number of features", 0, MAX_FEATURES))]
    mode = _mode_among(features)
    policy = reader.word("policy")
    count = reader.number("number of policy arguments", 0, MAX_POLICY_ARGS)
    if count % 2:
        msg = f"table: policy arguments come as KEY VALUE, so their number must be even, not {count}"
        raise UsageError(msg)
    values = [(reader.word("policy argument"), reader.word("policy argument")) for _ in range(count // 2)]
    reader.end()
    return MountConfig(
        origin=origin,
        mountpoint=mountpoint,
        cache=Path(cache),
        metadata=Path(metadata),
        block_size=block * SECTOR,
        image_size=length * SECTOR,
        mode=mode,
        discard_passdown=_NO_PASSDOWN not in map(str.lower, features),
        policy=choose_policy(policy, values),
        fuse_options=fuse_options,
        table=tuple(words),
        foreground=foreground,
        format=format,
    )


def table_features(config: MountConfig) -> tuple[str, ...]:
    """List what was asked for besides the mode, in the order of the status line."""
    count = int(config.table[7]) if config.table else 0
    asked = {word.lower() for word in config.table[8 : 8 + count]}
    if not config.discard_passdown:
        asked.add(_NO_PASSDOWN)
    return tuple(word for word in _FEATURES if word in asked)


def table_line(config: MountConfig) -> str:
    """Write the table that made this mount, or would have made it; with ``0 LEN cache`` before it, it does again.

    ``config`` names its files and its block size.  What was changed since the mount does not show.
    """
    assert config.block_size is not None, config
    if config.table:
        made_by = list(config.table[6:])
    else:
        features = [config.mode.value, *table_features(config)]
        made_by = [str(config.block_size // SECTOR), str(len(features)), *features, *policy_words(config.policy)]
    return join_words([str(config.metadata), str(config.cache), config.origin, *made_by])


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
