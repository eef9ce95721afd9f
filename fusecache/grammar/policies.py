"""A policy and its tunables, as the command line and the attribute ``policy`` have them."""

from __future__ import annotations

from typing import Final

from fusecache.errors import UsageError

MAX_POLICY_NAME: Final = 15


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
