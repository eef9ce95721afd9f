"""The formats of traces: how each is recognised by its first bytes, and what is said of files that are none."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusecache.errors import UsageError
from fusecache.simulator import blkparse, csv_trace, fio_iolog, vscsi
from fusecache.simulator.archives import LAYOUTS
from fusecache.simulator.columns import LONGEST_LINE, Columns, LineError

if TYPE_CHECKING:
    import io
    from typing import Any, BinaryIO

_MARK: Final = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which spreadsheets put before everything."""
_UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
_BLKTRACE: Final = re.compile(rb"[\0-\xff]tae|eat[\0-\xff]", re.DOTALL)
_BLKTRACE_FILE: Final = re.compile(r"(.+)\.blktrace\.[0-9]+")
_TAR: Final = slice(257, 262)


@dataclass(frozen=True, slots=True)
class Format:
    """One format of traces."""

    recognises: Callable[[bytes], bool]
    read: Callable[[BinaryIO, Columns], None]
    """Raises LineError."""
    has_devices: bool = True
    """Whether its requests name the device that they go to."""


FORMATS: Final = {
    "csv": Format(lambda start: start.startswith(csv_trace.HEADER), csv_trace.read_csv, has_devices=False),
    "fio": Format(lambda start: start.startswith(fio_iolog.START), fio_iolog.read_fio_iolog),
    "blkparse": Format(lambda start: blkparse.START.match(start) is not None, blkparse.read_blkparse),
    **{
        name: Format(layout.recognises, layout.read, "device" in layout.row.groupindex)
        for name, layout in LAYOUTS.items()
    },
    "cloudphysics": Format(vscsi.recognises, vscsi.read_vscsi, has_devices=False),
}
"""By the names that ``--format`` knows; recognised in this order."""


def require_format(name: str) -> str:
    """Return the name of a format; raises UsageError if there is none of that name."""
    if name not in FORMATS:
        msg = f"--format {name!r}: must be one of {', '.join(FORMATS)}"
        raise UsageError(msg)
    return name


def read_requests(file: io.BufferedReader[Any], columns: Columns, name: str | None, path: str) -> str:
    """Read the requests of a file of some format, ``name`` if it is not None, else as it is recognised; return which.

    :param path: the file, as its user calls it.
    :raises LineError: it is of no known format, or malformed.
    """
    if file.peek().startswith(_MARK):
        file.read(len(_MARK))
    start = file.peek()[:LONGEST_LINE]
    if name is None:
        name = _recognise(start, path)
    chosen = FORMATS[name]
    if columns.chosen and not chosen.has_devices:
        raise LineError(None, f"traces of the format {name} name no devices: --device has nothing to choose from")
    chosen.read(file, columns)
    columns.sort()
    return name


def _recognise(start: bytes, path: str) -> str:
    for name, known in FORMATS.items():
        if known.recognises(start):
            return name
    if start[_TAR] == b"ustar":
        raise LineError(None, f"an archive of files: tar -xOf {shlex.quote(path)} | fusecache simulate - ...")
    if start.startswith(_UTF_16):
        raise LineError(
            None, f"text in UTF-16: iconv -f UTF-16 -t UTF-8 {shlex.quote(path)} | fusecache simulate - ..."
        )
    if _BLKTRACE.match(start):
        raise LineError(None, f"what blktrace recorded, not yet read by blkparse: {_how_to_parse(path)}")
    raise LineError(
        1,
        "not a trace that is known by its beginning: expected the header t_us,op,offset,length, a fio iolog, the "
        "output of blkparse, or a trace of an archive (--format names it)",
    )


def _how_to_parse(path: str) -> str:
    """Say what to type to make text of a recording: all files of it, one a processor, are read together."""
    recording = _BLKTRACE_FILE.fullmatch(path)
    words = f"blkparse -i {shlex.quote(recording[1])}" if recording else f"blkparse -i - < {shlex.quote(path)}"
    return f"{words} | fusecache simulate - ..."
