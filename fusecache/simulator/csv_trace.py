"""The house's own traces: CSV, ``t_us,op,offset,length``; microseconds, ``r`` or ``w``, bytes.

``R`` and ``W`` are read as well, and blank lines are skipped: spreadsheets and other programs write them.

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
_LINES: Final = re.compile(rb"(?:[0-9]{1,19},[rwRW],[0-9]{1,19},[0-9]{1,19}\r?\n)*+")
_BLANK_LINES: Final = re.compile(rb"^[ \t\r]*\n", re.MULTILINE)
_SEPARATORS: Final = bytes.maketrans(b"\n", b",")
_NOT_OPS: Final = bytes(set(range(256)) - set(b"rwRW"))
_WRITES: Final = bytes.maketrans(b"rwRW", b"\0\1\0\1")
_OPS: Final = {b"r": False, b"w": True, b"R": False, b"W": True}


def read_csv(file: BinaryIO, columns: Columns) -> None:
    """Read a CSV trace, header included, into ``columns``.

    ``timed`` is False if the times only count the requests.

    :raises LineError: a line is malformed.
    """
    if file.readline(LONGEST_LINE).strip() != HEADER:
        raise LineError(1, f"the header must be {HEADER.decode()}")
    line = 2
    while part := file.read(_PART):
        rest = file.readline(LONGEST_LINE)
        require_line(line + part.count(b"\n"), rest)
        part += rest
        if not part.endswith(b"\n"):
            part += b"\n"
        filled = part if _LINES.fullmatch(part) else _BLANK_LINES.sub(b"", part)
        if not (filled and _LINES.fullmatch(filled) and _take(columns, filled)):
            _take_by_line(columns, part, line)
        line += part.count(b"\n")
    columns.timed = any(index != time for index, time in enumerate(columns.times_us))


def _take(columns: Columns, part: bytes) -> bool:
    """Add lines of the right form; return False, and add nothing, if one of them needs a closer look."""
    fields = part.translate(_SEPARATORS).split(b",")
    fields.pop()
    times, offsets, lengths = (list(map(int, fields[field::4])) for field in (0, 2, 3))
    begin = columns.begin_at(times[0])
    if (
        len(columns) + len(times) > columns.most
        or times[0] - begin < columns.latest_us
        or any(map(gt, times, islice(times, 1, None)))
        or times[-1] > MAX_NUMBER
        or min(lengths) == 0
        or max(lengths) > MAX_LENGTH
        or max(map(add, offsets, lengths)) > MAX_NUMBER
    ):
        return False
    columns.latest_us = times[-1] - begin
    columns.times_us.extend(times if begin == 0 else [time - begin for time in times])
    columns.writes += part.translate(_WRITES, _NOT_OPS)
    columns.offsets.extend(offsets)
    columns.lengths.extend(lengths)
    return True


def _take_by_line(columns: Columns, part: bytes, first: int) -> None:
    """Add lines one by one, the first of them number ``first``; raises LineError at the first that is wrong."""
    for line, text in enumerate(part.split(b"\n")[:-1], first):
        if not text or text.isspace():
            continue
        fields = text.removesuffix(b"\r").split(b",")
        if len(fields) != 4:  # noqa: PLR2004 - the header's four
            raise LineError(line, f"expected {HEADER.decode()}, found {len(fields)} fields")
        time, op, offset, length = fields
        if op not in _OPS:
            raise LineError(line, f"op must be r or w, not {shown(op)}")
        columns.append(
            line,
            number(line, "t_us", time),
            _OPS[op],
            number(line, "offset", offset),
            number(line, "length", length),
        )
