"""Sizes as people write them: ``64KiB``, ``1.5GiB``, ``1T``, plain bytes.  All units are powers of 1024."""

from __future__ import annotations

import re
from typing import Final

from fusecache.errors import UsageError

SECTOR: Final = 512
"""Bytes; dm-cache's text grammar counts in sectors."""

MAX_SIZE: Final = 2**63 - 1
"""The largest offset that the kernel knows."""

_UNITS: Final = ("", "K", "M", "G", "T", "P")
_SIZE: Final = re.compile(r"([0-9]{1,99})(?:\.([0-9]{1,99}))?(?:([kmgtp])(?:ib)?|b)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` names.

    Decimals are exact or refused: ``1.5K`` is 1536, ``1.0001K`` is nothing.  ``KB`` is refused, because half of those
    who write it mean 1000.

    :raises UsageError: not a size, a fraction of a byte, or beyond 2**63 - 1.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        msg = f"{text!r} is not a size: write bytes, or 64KiB, 512M, 1.5GiB, 1T"
        raise UsageError(msg)
    whole, decimals, unit = match[1], match[2] or "", (match[3] or "").upper()
    scale: int = 10 ** len(decimals)
    size, rest = divmod(int(whole + decimals) << 10 * _UNITS.index(unit), scale)
    if rest:
        msg = f"size {text!r} is not a whole number of bytes"
        raise UsageError(msg)
    if size > MAX_SIZE:
        msg = f"size {text!r} is too large"
        raise UsageError(msg)
    return size


def format_size(size: int) -> str:
    """Write ``size`` bytes for people, rounded to a tenth of its unit: ``512B``, ``64KiB``, ``1.5GiB``."""
    power, tenths = 0, 10 * size
    while tenths >= 10 * 1024 and power < len(_UNITS) - 1:
        power += 1
        scale = 1 << 10 * power
        tenths = (10 * size + scale // 2) // scale
    whole, tenth = divmod(tenths, 10)
    unit = f"{_UNITS[power]}iB" if power else "B"
    return f"{whole}.{tenth}{unit}" if tenth else f"{whole}{unit}"
