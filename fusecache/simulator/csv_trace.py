"""The house's own traces: CSV, ``t_us,op,offset,length``; microseconds, ``r`` or ``w``, bytes.

Traces have millions of lines, so one regular expression checks many lines at a time, and they are converted at once.
Only a part that is not right is read line by line, to name the line.
"""

from __future__ import annotations

import re
from itertools import islice
from operator import add, gt
from typing import TYPE_CHECKING, Final

from fusecache.simulator.columns import (
    LONGEST_LINE,
    MAX_LENGTH,
    MAX_NUMBER,
    Columns,
    LineError,
    number,
    require_line,
    shown,
)

if TYPE_CHECKING:
    from typing import BinaryIO

HEADER: Final = b"t_us,op,offset,length"

_PART: Final = 1 << 20
_LINES: Final = re.compile(rb"(?:[0-9]{1,19},[rw],[0-9]{1,19},[0-9]{1,19}\r?\n)*+")
_SEPARATORS: Final = bytes.maketrans(b"\n", b",")
_NOT_OPS: Final = bytes(set(range(256)) - set(b"rw"))
_WRITES: Final = bytes.maketrans(b"rw", b"\0\1")


def read_csv(file: BinaryIO, columns: Columns) -> None:
    """Read a CSV trace, header included, into ``columns``.

    ``timed`` is False if the times are only the numbers of the requests, from 0.

    :raises LineError: a line is malformed.
    """
    if file.readline(LONGEST_LINE).rstrip(b"\r\n") != HEADER:
        raise LineError(1, f"the header must be {HEADER.decode()}")
    line = 2
    while part := file.read(_PART):
        rest = file.readline(LONGEST_LINE)
        require_line(line + part.count(b"\n"), rest)
        part += rest
        if not part.endswith(b"\n"):
            part += b"\n"
        if not (_LINES.fullmatch(part) and _take(columns, part)):
            _take_by_line(columns, part, line)
        line += part.count(b"\n")
    columns.timed = any(index != time for index, time in enumerate(columns.times_us))


def _take(columns: Columns, part: bytes) -> bool:
    """Add lines of the right form; return False, and add nothing, if one of them needs a closer look."""
    fields = part.translate(_SEPARATORS).split(b",")
    fields.pop()
    times, offsets, lengths = (list(map(int, fields[field::4])) for field in (0, 2, 3))
    if (
        len(columns) + len(times) > columns.most
        or times[0] < columns.latest_us
        or any(map(gt, times, islice(times, 1, None)))
        or times[-1] > MAX_NUMBER
        or min(lengths) == 0
        or max(lengths) > MAX_LENGTH
        or max(map(add, offsets, lengths)) > MAX_NUMBER
    ):
        return False
    columns.latest_us = times[-1]
    columns.times_us.extend(times)
    columns.writes += part.translate(_WRITES, _NOT_OPS)
    columns.offsets.extend(offsets)
    columns.lengths.extend(lengths)
    return True


def _take_by_line(columns: Columns, part: bytes, first: int) -> None:
    """Add lines one by one, the first of them number ``first``; raises LineError at the first that is wrong."""
    for line, text in enumerate(part.split(b"\n")[:-1], first):
        fields = text.removesuffix(b"\r").split(b",")
        if len(fields) != 4:  # noqa: PLR2004 - the header's four
            raise LineError(line, f"expected {HEADER.decode()}, found {len(fields) if text else 'no'} fields")
        time, op, offset, length = fields
        if op not in {b"r", b"w"}:
            raise LineError(line, f"op must be r or w, not {shown(op)}")
        columns.append(
            line,
            number(line, "t_us", time),
            op == b"w",
            number(line, "offset", offset),
            number(line, "length", length),
        )
