"""The log of the process that serves: to write into it neither fails nor waits.

Theory of operation
-------------------
The log lies beside the metadata, or goes to whatever stderr is: its disk may be full, dead or frozen, its pipe may be
closed, or full because nobody reads it.  None of that is a reason for a request to fail or to wait.  So an event is
only put into a queue of bounded length; a thread of its own makes a line of it and writes that.  What does not fit, or
cannot be written, is counted, and the next line that can be written is preceded by that count.

Lines of one *kind* (one text of an event) are limited in rate: the first is written at once, after it one a second at
most, the latest, with the number of those that were left out.  Errors may name what is lost, so of each kind
:data:`ERRORS_AT_ONCE` pass before that holds.  No value is longer than :data:`VALUE`.

A log in a file has :data:`FILE_BYTES` at most; then it is renamed to ``NAME.old``, and begins anew.  The thread looks
at the file's name before it writes: if somebody has renamed or deleted the file (logrotate), a new one is begun, also
without the SIGHUP that tells it so.  Whatever else writes to stdout or stderr (C libraries, Python when it dies) goes
to the same file, since both descriptors are replaced along with it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

from fusecache.errors import UntrustedError
from fusecache.linux import open_or_create_trusted

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

    Event = MutableMapping[str, Any]

FILE_BYTES: Final = 16 * 1024 * 1024
"""Of a log file; there may be as much again in the one before it."""
VALUE: Final = 300
"""Characters of one value."""
ERRORS_AT_ONCE: Final = 500
"""Errors of one kind that are written without a pause between them."""
_QUEUED: Final = 1000
_KINDS: Final = 1000
_TRACE: Final = 16 * 1024
"""Characters of one line with all that follows it, such as a traceback."""
_PAUSE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 10.0
"""Others write to the file, too."""
_CLOSE_SECONDS: Final = 2.0
"""So long the end waits for what is queued; a disk that answers needs a thousandth of that."""


class LogFile:
    """The file that stdout and stderr of this process go to; None for whatever they are already."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, data: bytes) -> None:
        """Append; raises OSError, and then a part may have been written."""
        self.keep_in_place(len(data))
        while data:
            data = data[os.write(2, data) :]

    def reopen(self) -> None:
        """Begin to write to what has the name now; raises OSError, and then all stays as it was."""
        if self._path is None:
            return
        try:
            fd = open_or_create_trusted(self._path, os.O_WRONLY | os.O_APPEND)
        except UntrustedError as exc:
            raise PermissionError(errno.EPERM, str(exc)) from exc
        try:
            os.dup2(fd, 1)
            os.dup2(fd, 2)
        finally:
            os.close(fd)

    def keep_in_place(self, length: int = 0) -> None:
        """See to it that the file has its name, and room for some more bytes; raises OSError if it is full."""
        if (path := self._path) is None:
            return
        now = os.fstat(2)
        try:
            is_ours = os.path.samestat(path.stat(), now)
        except OSError:
            is_ours = False
        if not is_ours:
            with suppress(OSError):
                self.reopen()
        elif now.st_size + length > FILE_BYTES:
            path.replace(f"{path}.old")
            self.reopen()


@dataclass(slots=True)
class _Kind:
    """What is known of one kind of lines."""

    left: int
    """So many may be written at once."""
    due: float = 0.0
    """When the next one may be written."""
    held: Event | None = None
    """The latest that was held back."""
    more: int = 0
    """Those before it."""


class Log:
    """Takes events and texts from any thread; a thread of its own writes them."""

    def __init__(self, file: LogFile, *, colors: bool = False) -> None:
        self._file = file
        self._render = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        self._kinds: dict[str, _Kind] = {}
        self._queue: deque[Event | str] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._closed = False
        self._reopen = False
        self._torn = False
        """Whether the last line was written in part."""
        self._dropped = 0
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def take(self, _logger: object, level: str, event: Event) -> Event:
        """Be the last of structlog's processors; never raises anything but DropEvent, which it understands."""
        with suppress(Exception):
            self._take(event, ERRORS_AT_ONCE if level in {"error", "critical", "exception"} else 1)
        raise structlog.DropEvent

    def write(self, text: str) -> None:
        """Take text as it is."""
        if text:
            with self._changed:
                self._put(text[:_TRACE])

    def reopen(self) -> None:
        """Begin to write to what has the log's name now; returns at once."""
        with self._changed:
            self._reopen = True
            self._changed.notify_all()

    def close(self) -> None:
        """Write what is left; gives up on a file that takes nothing."""
        with self._changed:
            self._release(always=True)
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._queue or self._writing), _CLOSE_SECONDS)

    def _take(self, event: Event, at_once: int) -> None:
        if event.get("exc_info") is True:  # of this thread, and of this moment
            event["exc_info"] = sys.exc_info()
        brief = {name: value if name == "exc_info" else _brief(value) for name, value in event.items()}
        with self._changed:
            kind = self._kind(str(brief["event"]), at_once)
            now = monotonic()
            if now >= kind.due:
                kind.left = max(kind.left, 1)
            if kind.left and kind.held is None:
                kind.left -= 1
                kind.due = now + _PAUSE_SECONDS
                self._put(brief)
                return
            if kind.held is None:
                self._changed.notify_all()
            else:
                kind.more += 1
            kind.held = brief

    def _kind(self, text: str, at_once: int) -> _Kind:
        if text not in self._kinds:
            if len(self._kinds) >= _KINDS:  # texts that are no constants
                self._release(always=True)
                self._kinds.clear()
            self._kinds[text] = _Kind(left=at_once)
        return self._kinds[text]

    def _put(self, item: Event | str) -> None:
        if len(self._queue) >= _QUEUED:
            self._dropped += 1
            return
        self._queue.append(item)
        self._changed.notify_all()

    def _release(self, *, always: bool = False) -> float | None:
        """Queue what was held back long enough; returns how long the next one has to wait."""
        now = monotonic()
        for kind in self._kinds.values():
            if kind.held is not None and (always or now >= kind.due):
                if kind.more:
                    kind.held["event"] = f"{kind.held['event']} (and {kind.more} more like it)"
                self._put(kind.held)
                kind.held, kind.more, kind.due = None, 0, now + _PAUSE_SECONDS
        waits = [kind.due - now for kind in self._kinds.values() if kind.held is not None]
        return min(waits) if waits else None

    # The thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                wait = self._release()
                if not (self._queue or self._reopen or self._closed):
                    self._changed.wait(min(wait or _LOOK_SECONDS, _LOOK_SECONDS))
                    self._release()
                if self._closed and not (self._queue or self._reopen):
                    return
                reopen, self._reopen = self._reopen, False
                item = self._queue.popleft() if self._queue else ""
                dropped = self._dropped
                self._writing = True
            with suppress(Exception):  # nobody is there whom it could be told
                if reopen:
                    self._file.reopen()
                if item:
                    self._append(item, dropped)
                else:
                    self._file.keep_in_place()

    def _append(self, item: Event | str, dropped: int) -> None:
        text = item if isinstance(item, str) else self._line(item)
        if dropped:
            text = f"{dropped} lines could not be written here\n{text}"
        torn, self._torn = self._torn, True
        try:
            self._file.write((b"\n" if torn else b"") + text.encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001 - see above
            with self._changed:
                self._dropped += 1
        else:
            self._torn = False
            with self._changed:
                self._dropped -= dropped

    def _line(self, event: Event) -> str:
        return self._render(None, "", event)[:_TRACE] + "\n"


class _Stream:
    """What ``print``, tracebacks and other people's warnings write to."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, log: Log) -> None:
        self._log = log
        self._begun = ""

    def write(self, text: str) -> int:
        """Take text; whole lines go on at once."""
        lines, newline, self._begun = (self._begun + text).rpartition("\n")
        self._log.write(lines + newline)
        if len(self._begun) > VALUE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Let go of a line that has only begun."""
        begun, self._begun = self._begun, ""
        self._log.write(begun)

    def isatty(self) -> bool:
        """Tell that nobody is to be entertained here."""
        return False

    def fileno(self) -> int:
        """Return where it ends up."""
        return 2


@contextmanager
def logging_to(path: Path | None) -> Iterator[Log]:
    """Have log events, and what is written to stderr, go to the log for as long as the block lasts.

    :param path: the file that stdout and stderr are already; then stdout goes to the log as well.  None for stderr.
    """
    stdout, stderr, configured = sys.stdout, sys.stderr, structlog.get_config()
    log = Log(LogFile(path), colors=path is None and stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            log.take,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    stream = cast("TextIO", _Stream(log))
    sys.stderr = stream
    if path is not None:
        sys.stdout = stream
    try:
        yield log
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        structlog.configure(**configured)
        stream.flush()
        log.close()


def _brief(value: object) -> object:
    """Return a value of which only the beginning is kept, if it is long."""
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= VALUE else f"{text[:VALUE]}... ({len(text)} characters)"
