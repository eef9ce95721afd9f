"""What a mount was asked to be as one line of text, from which the same can be mounted again.

One process writes it and another one reads it: the one that goes on when the first has died, and that may be of another
version.  What is not written down has its default; a name that is not known is refused.  ``foreground`` and ``format``
do not go on: the first belongs to the terminal, and to empty a cache twice would destroy what was written meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from fusecache.config import DirtyAge, DirtyLimit, Mode, MountConfig, Ownership, PageCache, PolicyChoice
from fusecache.errors import UsageError
from fusecache.grammar.dirtiness import parse_dirty_age, parse_dirty_limit
from fusecache.grammar.policies import parse_policy
from fusecache.grammar.words import join_words, parse_read_ahead, split_words
from fusecache.units import parse_size

_NOT_KEPT: Final = frozenset({"foreground", "format"})
_READ: Final[dict[str, Callable[[Any], object]]] = {
    "mountpoint": Path,
    "cache": lambda text: None if text is None else Path(text),
    "metadata": lambda text: None if text is None else Path(text),
    "mode": Mode,
    "policy": lambda told: PolicyChoice(
        told["name"], tuple((key, value) for key, value in told["tunables"]), told["migration_threshold"]
    ),
    "fuse_options": tuple,
    "table": tuple,
    "page_cache": PageCache,
    "dirty_age": lambda told: DirtyAge(**told),
    "dirty_limit": lambda told: DirtyLimit(**told),
    "ownership": lambda told: Ownership(**told),
}
"""How values are read that JSON has no kind for."""
CHANGES: Final[dict[str, Callable[[str], object]]] = {
    "mode": Mode.parse,
    "policy": parse_policy,
    "cache_size": parse_size,
    "page_cache": PageCache.parse,
    "copy_rate": parse_size,
    "dirty_age": parse_dirty_age,
    "dirty_limit": parse_dirty_limit,
    "read_ahead": parse_read_ahead,
    "scrub": parse_size,
}
"""What may be another in a process that goes on with a mount, and how it is read."""


def write_config(config: MountConfig) -> str:
    """Write what is to be mounted again; its paths have to be absolute."""
    told = {name: value for name, value in asdict(config).items() if name not in _NOT_KEPT}
    told |= {"mode": config.mode.value, "page_cache": config.page_cache.value}
    return json.dumps(told, default=str)


def read_config(text: str) -> MountConfig:
    """Read what :func:`write_config` wrote, in whichever version; raises UsageError."""
    try:
        told: dict[str, Any] = json.loads(text)
        known = {field.name for field in fields(MountConfig)} - _NOT_KEPT
        if unknown := sorted(told.keys() - known):
            msg = f"these options are of another version of fusecache: {', '.join(unknown)}"
            raise UsageError(msg)
        values: dict[str, Any] = {name: _READ.get(name, _same)(value) for name, value in told.items()}
        return MountConfig(**values)
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        msg = f"these options are of another version of fusecache: {exc}"
        raise UsageError(msg) from exc


def write_changes(changes: dict[str, str]) -> str:
    """Write options that are to change as words ``name=value``."""
    return join_words([f"{name}={value}" for name, value in changes.items()])


def changed_config(config: MountConfig, text: str) -> MountConfig:
    """Change what the words ``name=value`` say; raises UsageError."""
    changes: dict[str, Any] = {}
    for word in split_words(text):
        name, _, value = word.partition("=")
        if name not in CHANGES:
            msg = f"{name!r} cannot change while it is mounted; these can: {', '.join(CHANGES)}"
            raise UsageError(msg)
        changes[name] = CHANGES[name](value)
    return replace(config, **changes)


def _same(value: object) -> object:
    return value
