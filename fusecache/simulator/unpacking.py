"""The bytes of a trace's file, unpacked: gzip, xz and bzip2 by Python, zstd by the program of that name.

What a file is packed by is told from its first bytes.  ``-`` is the standard input.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
import sys
import zlib
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

STANDARD_INPUT: Final = "-"

_BUFFER: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_XZ: Final = b"\xfd7zXZ\0"
_BZIP2: Final = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
_ZSTD: Final = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)


class UnpackError(Exception):
    """The bytes cannot be had, or are damaged."""


class _Filled(io.RawIOBase):
    """Bytes that come in full pieces as long as there are any, so that one look ahead sees as much as it asked for."""

    def __init__(self, source: io.RawIOBase | io.BufferedIOBase) -> None:
        self._source = source

    def readable(self) -> bool:
        """Tell that bytes can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the buffer is a memoryview here
        """Read until the buffer is full, or the source at its end."""
        filled = 0
        while filled < len(buffer) and (count := self._source.readinto(buffer[filled:])):
            filled += count
        return filled


class _Zstd(io.RawIOBase):
    """What the program ``zstd`` unpacks."""

    def __init__(self, program: str, packed: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the user's own program, with a file as its input
            [program, "-d", "-c", "-q"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def readable(self) -> bool:
        """Tell that bytes can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the buffer is a memoryview here
        """Read what the program has; at its end, see whether it was content."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        count = cast("io.BufferedReader", self._process.stdout).readinto(buffer)
        if not count and (code := self._process.wait()):
            line, *_ = self._process.stderr.read().decode("utf-8", "replace").split("\n")
            msg = f"the compressed data is damaged: {line.strip() or f'zstd ended with {code}'}"
            raise UnpackError(msg)
        return count

    def close(self) -> None:
        """End the program."""
        if not self.closed:
            self._process.kill()
            with self._process:
                super().close()


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a file, or the standard input, for reading what is packed in it.

    :raises UnpackError: it cannot be opened or read, or is damaged; also from within the block.
    """
    try:
        with ExitStack() as stack:
            raw = _standard_input() if str(path) == STANDARD_INPUT else stack.enter_context(path.open("rb", 0))
            packed = _layer(raw)
            start = packed.peek()
            if start.startswith(_GZIP):
                packed = _layer(stack.enter_context(gzip.open(packed)))
            elif start.startswith(_XZ):
                packed = _layer(stack.enter_context(lzma.open(packed)))
            elif _BZIP2.match(start):
                packed = _layer(stack.enter_context(bz2.open(packed)))
            elif _ZSTD.match(start):
                packed = _layer(stack.enter_context(_open_zstd(raw)))
            yield packed
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as exc:
        msg = f"the compressed data is damaged: {exc}"
        raise UnpackError(msg) from None
    except OSError as exc:
        # What bz2 raises has no errno.
        raise UnpackError(exc.strerror or f"the compressed data is damaged: {exc}") from None


def _layer(source: io.RawIOBase | io.BufferedIOBase) -> io.BufferedReader[Any]:
    return io.BufferedReader(_Filled(source), _BUFFER)


def _standard_input() -> io.RawIOBase | io.BufferedIOBase:
    if sys.stdin is None:  # closed by whoever started us
        msg = "the standard input is closed"
        raise UnpackError(msg)
    return cast("io.BufferedReader", sys.stdin.buffer)


def _open_zstd(raw: io.RawIOBase | io.BufferedIOBase) -> _Zstd:
    program = shutil.which("zstd")
    if program is None:
        msg = "packed by zstd, and there is no program zstd here: install it (Debian: zstd), or unpack the file"
        raise UnpackError(msg)
    if not raw.seekable():
        msg = "packed by zstd: pipe it through zstd -dc first"
        raise UnpackError(msg)
    raw.seek(0)
    return _Zstd(program, raw.fileno())
