"""How long a block may be dirty, and how many of them: ``30s,10000`` and ``75%``, as users write them."""

from __future__ import annotations

import re
from typing import Final

from fusecache.config import DirtyAge, DirtyLimit
from fusecache.errors import UsageError
from fusecache.units import parse_size

_SECONDS: Final = re.compile(r"([0-9]{1,5})s")
_REQUESTS: Final = re.compile(r"[0-9]{1,15}")
_PER_CENT: Final = re.compile(r"([0-9]{1,3})%")


def parse_dirty_age(text: str) -> DirtyAge:
    """Read an age: seconds, requests, or both, with a comma between; 0 for none at all.  Raises UsageError."""
    seconds = requests = None
    for word in text.split(","):
        if (match := _SECONDS.fullmatch(word)) is not None and seconds is None:
            seconds = int(match[1])
        elif _REQUESTS.fullmatch(word) and requests is None:
            requests = int(word)
        else:
            msg = f"a dirty age is 30s, 10000 (block requests), 30s,10000 or 0 for none, not {text[:40]!r}"
            raise UsageError(msg)
    return DirtyAge(seconds or 0, requests or 0)


def parse_dirty_limit(text: str) -> DirtyLimit:
    """Read a limit: a share of the cache, or a size.  Raises UsageError."""
    if (match := _PER_CENT.fullmatch(text)) is not None and int(match[1]) <= 100:  # noqa: PLR2004 - per cent
        return DirtyLimit(per_cent=int(match[1]))
    try:
        return DirtyLimit(size=parse_size(text))
    except UsageError:
        msg = f"a dirty limit is a share of the cache, 0% to 100%, or a size such as 10GiB, not {text[:40]!r}"
        raise UsageError(msg) from None
