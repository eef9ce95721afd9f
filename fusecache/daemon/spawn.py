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

Whoever interrupts the parent before that takes the child down as well, by SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from fusecache.errors import FusecacheError, UsageError
from fusecache.lines import complain, say
from fusecache.linux import open_or_create_trusted, resolve_trusted
from fusecache.paths import absolute_address, log_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusecache.config import MountConfig

    Serve = Callable[[MountConfig, Callable[[list[str]], None]], None]
    """Calls its second argument once, with notes for the user, when the image is ready; returns when unmounted."""


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
        configure_log()
        load()(config, _print_notes)
        return
    log = log_for(config, environ=os.environ, is_root=os.geteuid() == 0)
    output = _open_log(log, make_directory=config.metadata is None)
    answer, report = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _run_child(config, load, report, output)
    os.close(report)
    os.close(output)
    try:
        with os.fdopen(answer, "rb") as pipe:
            _print_notes(_wait_for_answer(child, pipe.read, log))
    except FusecacheError:
        if not log.stat().st_size:
            log.unlink()
        raise


def absolute(config: MountConfig) -> MountConfig:
    """Return ``config`` with paths that mean the same in any directory."""
    return replace(
        config,
        origin=absolute_address(config.origin),
        mountpoint=config.mountpoint.absolute(),
        cache=config.cache and config.cache.absolute(),
        metadata=config.metadata and config.metadata.absolute(),
    )


def configure_log() -> None:
    """Let log events go to stderr, one readable line each, from level info on; once in a process."""
    import structlog  # noqa: PLC0415 - costs the command line 50 ms, and no other command wants it

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _open_log(path: Path, *, make_directory: bool) -> int:
    """Open the log for appending; its directory is ours to make if it is the default one."""
    try:
        if make_directory:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_or_create_trusted(resolve_trusted(path), os.O_WRONLY | os.O_APPEND)
    except OSError as exc:
        msg = f"cannot open the log {path}: {exc.strerror}"
        raise FusecacheError(msg) from exc


def _wait_for_answer(child: int, read: Callable[[], bytes], log: Path) -> list[str]:
    """Return the child's notes, or raise what it was refused with."""
    try:
        answer = read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
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
    for note in notes:
        say(note)


def _run_child(config: MountConfig, load: Callable[[], Serve], report: int, output: int) -> NoReturn:
    """Be the daemon; never return to what the parent was doing."""
    status = 1
    try:
        _leave_the_terminal(report, output)
        status = _serve_and_tell(config, load, report)
    except BaseException:  # noqa: BLE001 - there is nobody above to hand it to
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _leave_the_terminal(report: int, output: int) -> None:
    """Become a process that outlives the terminal, and keep nothing open that somebody may wait for."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    limit = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, report)
    os.closerange(report + 1, limit)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def _serve_and_tell(config: MountConfig, load: Callable[[], Serve], report: int) -> int:
    """Serve, tell the parent once how it began, and return the exit code."""
    is_waiting = True

    def tell(answer: dict[str, object]) -> None:
        nonlocal is_waiting
        is_waiting = False
        os.write(report, json.dumps(answer).encode())
        os.close(report)

    try:
        configure_log()
        load()(config, lambda notes: tell({"notes": notes}))
    except FusecacheError as exc:
        if is_waiting:
            tell({"error": str(exc), "usage": isinstance(exc, UsageError)})
        else:
            complain(exc)  # into the log
        return 1
    return 0
