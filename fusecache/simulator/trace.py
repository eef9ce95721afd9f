"""Traces: what was asked of a disk, and when; read from files of several formats, told apart by their contents."""

from __future__ import annotations

import gzip
import zlib
from array import array
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.errors import FusecacheError
from fusecache.simulator import blkparse, csv_trace, fio_iolog
from fusecache.simulator.columns import MAX_LENGTH, MOST_REQUESTS, Columns, LineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

_GZIP: Final = b"\x1f\x8b"
_BUFFER: Final = 1 << 16
_LONGEST_START: Final = 64
_SUFFIXES: Final = (".gz", ".csv", ".txt", ".log", ".iolog", ".blkparse")


class TraceError(FusecacheError):
    """A trace that cannot be read; the message names the file, and the line where there is one."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they were made: at least one, a column for each of their properties."""

    name: str
    """The file's base name without its suffixes."""
    times_us: array[int]
    """Microseconds; never falls."""
    writes: bytearray
    """1 where the request writes, 0 where it reads."""
    offsets: array[int]
    """Bytes."""
    lengths: array[int]
    """Bytes, from 1 to 1 GiB; no request ends beyond 2**63 - 1."""
    timed: bool
    """Whether the times are real; if not, they are the numbers of the requests, from 0."""

    def __len__(self) -> int:
        return len(self.writes)

    def check(self) -> None:
        """Assert what the fields promise."""
        count = len(self.writes)
        assert count > 0
        assert len(self.times_us) == len(self.offsets) == len(self.lengths) == count
        assert all(earlier <= later for earlier, later in zip(self.times_us, self.times_us[1:], strict=False))
        assert self.times_us[0] >= 0
        assert set(self.writes) <= {0, 1}
        assert min(self.offsets) >= 0
        assert min(self.lengths) > 0
        assert max(self.lengths) <= MAX_LENGTH
        assert max(map(int.__add__, self.offsets, self.lengths)) < 2**63
        assert self.timed or list(self.times_us) == list(range(count))


def read_trace(path: Path, most_requests: int = MOST_REQUESTS) -> Trace:
    """Read a trace, plain or compressed by gzip; it is read as a stream, and only its requests are kept.

    :raises TraceError: the file cannot be read, is of no known format, is malformed, or holds no request or too
        many.
    """
    columns = Columns(most_requests)
    try:
        with path.open("rb") as file:
            if file.peek(len(_GZIP)).startswith(_GZIP):
                with BufferedReader(gzip.open(file), _BUFFER) as plain:
                    _read(plain, columns)
            else:
                _read(file, columns)
    except LineError as exc:
        msg = f"{path}:{exc.line}: {exc}"
        raise TraceError(msg) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        msg = f"{path}: the compressed data is damaged: {exc}"
        raise TraceError(msg) from None
    except OSError as exc:
        msg = f"{path}: {exc.strerror or exc}"
        raise TraceError(msg) from None
    if not len(columns):
        msg = f"{path}: no request in it"
        raise TraceError(msg)
    return Trace(
        name=_name(path),
        times_us=columns.times_us,
        writes=columns.writes,
        offsets=columns.offsets,
        lengths=columns.lengths,
        timed=columns.timed,
    )


def _read(file: BufferedReader[Any], columns: Columns) -> None:
    _recognise(file.peek(_LONGEST_START))(file, columns)
    columns.sort()


def _recognise(start: bytes) -> Callable[[BinaryIO, Columns], None]:
    if start.startswith(csv_trace.HEADER):
        return csv_trace.read_csv
    if start.startswith(fio_iolog.START):
        return fio_iolog.read_fio_iolog
    if blkparse.START.match(start):
        return blkparse.read_blkparse
    raise LineError(1, "not a trace: expected the header t_us,op,offset,length, a fio iolog or the output of blkparse")


def _name(path: Path) -> str:
    name = path.name
    while (stem := name.removesuffix(Path(name).suffix)) and Path(name).suffix in _SUFFIXES:
        name = stem
    return name
