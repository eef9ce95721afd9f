"""A policy with its tunables, as the command line, the attribute ``policy`` and tables have it.

Among the tunables may be ``migration_threshold``, in sectors.  No policy knows it: it is the cache's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusecache.config import PolicyChoice
from fusecache.errors import UsageError
from fusecache.grammar.words import parse_decimal
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_POLICY_NAME: Final = 15
MIGRATION_THRESHOLD: Final = "migration_threshold"
MAX_THRESHOLD: Final = 2**54 - 1
"""Sectors: as many as the largest file can have."""


def parse_policy(text: str, where: str = "--policy") -> PolicyChoice:
    """Read ``NAME[,KEY=VALUE...]``; raises UsageError, which says ``where`` that stands."""
    name, *settings = text.split(",")
    values = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals and value):
            msg = f"{where}: {setting!r} is not KEY=VALUE"
            raise UsageError(msg)
        values.append((key, value))
    return choose_policy(name, values)


def choose_policy(name: str, values: Iterable[tuple[str, str]]) -> PolicyChoice:
    """Choose a policy by its name, with keys and values; raises UsageError."""
    if not 0 < len(name) <= MAX_POLICY_NAME:
        msg = f"policy name {name!r}: must have 1 to {MAX_POLICY_NAME} characters"
        raise UsageError(msg)
    threshold = None
    tunables = []
    for key, value in values:
        if key.lower() == MIGRATION_THRESHOLD:
            threshold = parse_threshold(value)
        else:
            tunables.append((key.lower(), value))
    return PolicyChoice(name, tuple(tunables), threshold)


def policy_words(choice: PolicyChoice) -> list[str]:
    """Write a choice as tables have it: the name, the number of arguments, keys and values."""
    words = [word for pair in choice.tunables for word in pair]
    if choice.migration_threshold is not None:
        words += [MIGRATION_THRESHOLD, str(choice.migration_threshold // SECTOR)]
    return [choice.name, str(len(words)), *words]


def parse_threshold(text: str) -> int:
    """Read a migration threshold, in sectors, as bytes; raises UsageError."""
    msg = f"{MIGRATION_THRESHOLD} must be a decimal number of sectors, 0 to {MAX_THRESHOLD}, not {text[:40]!r}"
    try:
        sectors = parse_decimal(text, MIGRATION_THRESHOLD)
    except UsageError as exc:
        raise UsageError(msg) from exc
    if sectors > MAX_THRESHOLD:
        raise UsageError(msg)
    return sectors * SECTOR
