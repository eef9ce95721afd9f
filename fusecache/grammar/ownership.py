"""``uid=``, ``gid=``, ``mode=`` and ``umask=`` among the options of a mount: whose the image is to be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fusecache.config import Ownership
from fusecache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NAMES: Final = ("uid", "gid", "mode", "umask")
_OCTAL: Final = re.compile(r"[0-7]{1,4}")
_MOST: Final = 0o777


def take_ownership(
    options: Iterable[str], *, user_number: Callable[[str], int], group_number: Callable[[str], int]
) -> tuple[Ownership, tuple[str, ...]]:
    """Take what is said of owner and mode out of a mount's options; of each name the last one counts.

    :param user_number: finds the number of a user who is named, and raises UsageError if there is none.
    :param group_number: likewise, of a group.
    :return: it, and the other options.
    :raises UsageError: a value cannot be, or two contradict each other.
    """
    told: dict[str, str] = {}
    others: list[str] = []
    for option in options:
        name, equals, value = option.partition("=")
        if equals and name in _NAMES:
            told[name] = value
        else:
            others.append(option)
    if "mode" in told and "umask" in told:
        msg = "mode= and umask= do not go together: each says who may use the image"
        raise UsageError(msg)
    ownership = Ownership(
        uid=user_number(told["uid"]) if "uid" in told else None,
        gid=group_number(told["gid"]) if "gid" in told else None,
        mode=_permissions("mode", told["mode"]) if "mode" in told else None,
        umask=_permissions("umask", told["umask"]) if "umask" in told else None,
    )
    return ownership, tuple(others)


def _permissions(name: str, text: str) -> int:
    """Read permissions in octal; raises UsageError."""
    if _OCTAL.fullmatch(text) and (value := int(text, 8)) <= _MOST:
        return value
    msg = f"{name}={text}: permissions are octal digits from 0 to 777, such as 0660"
    if name == "mode":
        msg += " (--mode is what happens to writes)"
    raise UsageError(msg)
