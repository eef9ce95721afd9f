"""Users and groups, by name or number."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable
from typing import Final

from fusecache.errors import UsageError

_MOST: Final = 2**32 - 2
"""The largest number; the one above it means nobody in particular."""


def user_number(text: str) -> int:
    """Return a user's number; raises UsageError."""
    return _number(text, "user", lambda name: pwd.getpwnam(name).pw_uid)


def group_number(text: str) -> int:
    """Return a group's number; raises UsageError."""
    return _number(text, "group", lambda name: grp.getgrnam(name).gr_gid)


def _number(text: str, kind: str, look_up: Callable[[str], int]) -> int:
    if text.isascii() and text.isdigit() and int(text) <= _MOST:
        return int(text)
    try:
        return look_up(text)
    except (LookupError, ValueError, OSError) as exc:  # ValueError: a NUL in it, or a letter that no name has
        msg = f"there is no {kind} {text!r} here"
        raise UsageError(msg) from exc
