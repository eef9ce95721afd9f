"""What fio writes with ``write_iolog``: logs of version 2 and 3.

Theory of operation
-------------------
The first line names the version; then every line has an action on a file::

    FILE ACTION [OFFSET LENGTH]             version 2
    TIME FILE ACTION [OFFSET LENGTH]        version 3, microseconds since the start

``read`` and ``write`` make requests.  ``wait`` (version 2 alone) lets OFFSET microseconds pass; without any, a log of
version 2 has no real time.  What moves no data is skipped: ``add``, ``open``, ``close``, the ``sync`` family, ``trim``.

The files are the devices of the trace.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from fusecache.simulator.columns import LONGEST_LINE, Columns, LineError, lines, number, shown
from fusecache.simulator.devices import Devices

if TYPE_CHECKING:
    from typing import BinaryIO

START: Final = b"fio version "

_VERSIONS: Final = {b"fio version 2 iolog": False, b"fio version 3 iolog": True}
_SKIPPED: Final = frozenset({b"add", b"open", b"close", b"sync", b"datasync", b"sync_file_range", b"trim"})
_REQUEST_WORDS: Final = 4
_FEWEST_WORDS: Final = 2


def read_fio_iolog(file: BinaryIO, columns: Columns) -> None:
    """Read a log, header included, into ``columns``.

    :raises LineError: the version is unknown, a line is malformed, or the files are too many, or too large together.
    """
    header = file.readline(LONGEST_LINE).rstrip()
    if header not in _VERSIONS:
        raise LineError(1, f"{shown(header)}: fio's logs are read in version 2 and 3")
    has_times = _VERSIONS[header]
    log = _Log(columns)
    for line, text in lines(file, 2):
        words = text.split()
        if has_times and words:
            log.clock_us = number(line, "the time", words.pop(0))
        log.take(line, words, waits=not has_times)
    log.files.finish()
    columns.timed = has_times or log.waited
    if not columns.timed:
        columns.times_us = array("q", range(len(columns)))


class _Log:
    """The requests so far, each with the file it goes to."""

    def __init__(self, columns: Columns) -> None:
        self.clock_us = 0
        self.waited = False
        self.files = Devices(columns, "file")

    def take(self, line: int, words: list[bytes], *, waits: bool) -> None:
        """Take the words of a line, without its time."""
        if len(words) < _FEWEST_WORDS:
            raise LineError(line, "expected a file and an action")
        name, action, *numbers = words
        self.files.meet(line, name)
        if action in {b"read", b"write"}:
            if len(words) != _REQUEST_WORDS:
                raise LineError(line, f"expected an offset and a length after {action.decode()}")
            offset, length = number(line, "the offset", numbers[0]), number(line, "the length", numbers[1])
            self.files.append(line, name, self.clock_us, action == b"write", offset, length)
        elif action == b"wait" and waits and numbers:
            self.clock_us += number(line, "the time to wait", numbers[0])
            self.waited = True
        elif action not in _SKIPPED:
            raise LineError(line, f"unknown action {shown(action)}")
