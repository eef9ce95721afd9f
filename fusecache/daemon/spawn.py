"""Serving a mount, in the foreground or as a process of its own.

Theory of operation
-------------------
In the background, the process forks before anything is imported that has threads or open files.  The child becomes
the leader of a session of its own (no terminal can take it down), goes to ``/``, reads from ``/dev/null`` and writes
to the log; then it serves.  A pipe ties the two together until the parent has its answer, which is one JSON object:

``{"notes": [...]}``
    the image is ready; lines for the user.  The parent prints them and returns; the child serves on.
``{"error": "...", "usage": bool}``
    it was refused; the parent raises that, and the child ends.  An empty log is not left behind.
nothing
    the child died; the log knows more.

*Either the command succeeds, or nothing is mounted.*  Whoever ends the parent before it has its answer (SIGINT,
SIGTERM, SIGHUP) ends the child as well, by SIGTERM; these signals are held back while there is no child to be ended.
If the parent was killed outright, the child finds nobody to tell, and ends, cleanly.

*Signals that mean nothing to a disk do not end it.*  SIGHUP has the log begun anew; SIGUSR1, SIGPIPE and their like
are ignored.  What SIGTERM and SIGINT do, :mod:`fusecache.daemon.serve` says.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from fusecache.errors import FusecacheError, UsageError
from fusecache.lines import complain, say
from fusecache.linux import open_or_create_trusted, resolve_trusted
from fusecache.paths import absolute_address, log_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fusecache.config import MountConfig

    Serve = Callable[[MountConfig, Callable[[list[str]], None]], None]
    """Calls its second argument once, with notes for the user, when the image is ready; returns when unmounted."""

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a parent that waits, and its child with it."""
_MEANINGLESS: Final = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGPIPE,
    signal.SIGIO,
    signal.SIGPWR,
    signal.SIGSTKFLT,
    signal.SIGTTOU,  # to write to a terminal from the background
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""What would end or stop this process, and is no request to do so."""


def load_serve() -> Serve:
    """Import what serves mounts; not before the fork."""
    from fusecache.daemon.serve import serve  # noqa: PLC0415 - see above

    return serve


def start(config: MountConfig, load: Callable[[], Serve] = load_serve) -> None:
    """Serve a mount: until it is unmounted in the foreground, until the image is ready in the background.

    :param load: called in the process that serves.
    :raises FusecacheError: the mount was refused or failed, in whichever process.
    """
    config = absolute(config)
    if config.foreground:
        with _logging(None):
            load()(config, _print_notes)
        return
    log = log_for(config, environ=os.environ, is_root=os.geteuid() == 0)
    output = _open_log(log, make_directory=config.metadata is None)
    answer, report = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    allowed = set(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)))
    child = os.fork()
    if child == 0:
        _run_child(config, load, report, output, log, allowed)
    os.close(report)
    os.close(output)
    try:
        with os.fdopen(answer, "rb") as pipe:
            _print_notes(_wait_for_answer(child, pipe.read, log, allowed))
    except FusecacheError:
        if not log.stat().st_size:
            log.unlink()
        raise


@contextmanager
def background(config: MountConfig) -> Iterator[None]:
    """Have this process, which has no terminal, write to the log of a mount within this block."""
    log = log_for(config, environ=os.environ, is_root=os.geteuid() == 0)
    output = _open_log(log, make_directory=config.metadata is None)
    for target in (1, 2):
        os.dup2(output, target)
    os.close(output)
    with _logging(log):
        yield


def absolute(config: MountConfig) -> MountConfig:
    """Return ``config`` with paths that mean the same in any directory; who names the image means its mountpoint."""
    mountpoint = config.mountpoint.absolute()
    names_image = mountpoint.name == "image" and not os.path.isdir(mountpoint)  # noqa: PTH112 - a dead mount raises
    return replace(
        config,
        origin=absolute_address(config.origin),
        mountpoint=mountpoint.parent if names_image else mountpoint,
        cache=config.cache and config.cache.absolute(),
        metadata=config.metadata and config.metadata.absolute(),
    )


@contextmanager
def _logging(path: Path | None) -> Iterator[None]:
    """Have a log in this process, and no signal but those that end it do any harm; what was before comes back."""
    from fusecache.daemon.log import logging_to  # noqa: PLC0415 - costs 50 ms, and no other command wants it

    with logging_to(path) as log, ExitStack() as before:
        handlers: dict[int, Callable[..., None] | signal.Handlers] = dict.fromkeys(_MEANINGLESS, signal.SIG_IGN)
        for number, handler in (handlers | {signal.SIGHUP: lambda *_: log.reopen()}).items():
            before.callback(signal.signal, number, signal.signal(number, handler))
        yield


def _open_log(path: Path, *, make_directory: bool) -> int:
    """Open the log for appending; its directory is ours to make if it is the default one."""
    try:
        if make_directory:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_or_create_trusted(resolve_trusted(path), os.O_WRONLY | os.O_APPEND)
    except OSError as exc:
        is_lost = isinstance(exc, FileNotFoundError)
        why = f"there is no directory {path.parent}; is its disk not mounted?" if is_lost else exc.strerror
        msg = f"cannot open the log {path}: {why}"
        raise FusecacheError(msg) from exc


class _EndedError(BaseException):
    """A signal that ends this process, which waits."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have signals that would kill this process raise an exception instead; SIGINT does so anyway."""

    def end(number: int, _frame: object) -> NoReturn:
        raise _EndedError(number)

    with ExitStack() as before:
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:  # whoever ignores one (nohup) goes on ignoring it
                before.callback(signal.signal, number, signal.signal(number, end))
        yield


def _read(child: int, read: Callable[[], bytes], allowed: set[int]) -> bytes:
    """Return the child's answer; whoever ends this process meanwhile ends the child as well.

    :param allowed: signals that are held back no longer from here on.
    """
    try:
        with _ended_by_signals():
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, allowed)
                return read()
            except (KeyboardInterrupt, _EndedError):
                os.kill(child, signal.SIGTERM)
                raise
    except KeyboardInterrupt:
        os.waitpid(child, 0)
        raise
    except _EndedError as ended:
        os.waitpid(child, 0)
        signal.raise_signal(ended.number)
        raise


def _wait_for_answer(child: int, read: Callable[[], bytes], log: Path, allowed: set[int]) -> list[str]:
    """Return the child's notes, or raise what it was refused with."""
    answer = _read(child, read, allowed)
    told = json.loads(answer or "{}")
    if "notes" in told:
        notes: list[str] = told["notes"]
        return notes
    os.waitpid(child, 0)
    if "error" in told:
        raise (UsageError if told["usage"] else FusecacheError)(told["error"])
    msg = f"the daemon died before the image was ready; its last words are in {log}"
    raise FusecacheError(msg)


def _print_notes(notes: list[str]) -> None:
    """Tell the user; if nobody listens, that is no reason for the image not to be there."""
    with suppress(OSError, FusecacheError):
        for note in notes:
            say(note)


def _run_child(
    config: MountConfig, load: Callable[[], Serve], report: int, output: int, log: Path, allowed: set[int]
) -> NoReturn:
    """Be the daemon; never return to what the parent was doing."""
    status = 1
    try:
        _leave_the_terminal(report, output)
        signal.pthread_sigmask(signal.SIG_SETMASK, allowed)
        with _logging(log):
            try:
                status = _serve_and_tell(config, load, report)
            except BaseException:  # noqa: BLE001 - there is nobody above to hand it to
                traceback.print_exc()
    except BaseException:  # noqa: BLE001 - likewise; there is no log yet
        traceback.print_exc()
    finally:
        os._exit(status)


def _leave_the_terminal(report: int, output: int) -> None:
    """Become a process that outlives the terminal, and keep nothing open that somebody may wait for."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # before the terminal can hang up
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, report)
    os.closerange(report + 1, limit)


def _serve_and_tell(config: MountConfig, load: Callable[[], Serve], report: int) -> int:
    """Serve, tell the parent once how it began, and return the exit code."""
    is_waiting = True

    def tell(answer: dict[str, object]) -> None:
        nonlocal is_waiting
        is_waiting = False
        try:
            os.write(report, json.dumps(answer).encode())
        except BrokenPipeError:
            if "notes" in answer:  # the command was killed, so it did not succeed
                os.kill(os.getpid(), signal.SIGTERM)
        os.close(report)

    try:
        load()(config, lambda notes: tell({"notes": notes}))
    except FusecacheError as exc:
        if is_waiting:
            tell({"error": str(exc), "usage": isinstance(exc, UsageError)})
        else:
            complain(exc)  # into the log
        return 1
    return 0
