"""Lines for the user: what stands in files and names is shown, and does nothing to the terminal."""

from __future__ import annotations

import sys
from typing import Final

_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)
"""What Python makes of the bytes of a name that are not UTF-8."""


def printable(text: str) -> str:
    """Return a text in one line, in which only what can be seen stands as it is."""
    return text if text.isprintable() else "".join(map(_shown, text))


def say(line: str) -> None:
    """Print a line of the answer."""
    print(printable(line), flush=True)  # noqa: T201 - the one place where answers are shown


def complain(message: object) -> None:
    """Print a line about what went wrong."""
    print(f"fusecache: {printable(str(message))}", file=sys.stderr, flush=True)  # noqa: T201 - likewise for errors


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if ord(character) in _ESCAPED_BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
