"""Words as dm-cache has them: blanks between, a backslash before what is to be taken as it is; decimal numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from fusecache.errors import UsageError
from fusecache.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD: Final = re.compile(r"(?:\\.|[^\s\\])+", re.DOTALL)
_READ_AHEADS: Final = {"auto": None, "off": 0}
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")


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


def parse_read_ahead(text: str) -> int | None:
    """Read ``auto`` (None), ``off`` (0) or the size of the memory for what is read ahead; raises UsageError."""
    if text in _READ_AHEADS:
        return _READ_AHEADS[text]
    try:
        return parse_size(text)
    except UsageError as exc:
        msg = f"read-ahead {text!r}: auto, off or a size, such as 8MiB"
        raise UsageError(msg) from exc


def parse_decimal(text: str, name: str) -> int:
    """Read an unsigned decimal number; raises UsageError with ``name`` in it."""
    if _DECIMAL.fullmatch(text) is None:
        msg = f"{name} must be a decimal number, not {text!r}"
        raise UsageError(msg)
    return int(text)
