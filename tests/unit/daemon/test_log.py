"""F08: the log takes everything, and neither raises nor waits, whatever becomes of its file."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
import structlog

from fusecache.daemon import log as logs
from fusecache.daemon.log import Log, LogFile, logging_to

log = structlog.get_logger(__name__)


@contextmanager
def stderr_is(fd: int) -> Iterator[None]:
    """Have the descriptors 1 and 2 lead somewhere else."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        yield
    finally:
        for number, old in enumerate(kept, 1):
            os.dup2(old, number)
            os.close(old)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A log file, open as stdout and stderr."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with stderr_is(fd):
        yield path
    os.close(fd)


def eventually(condition: Callable[[], object]) -> None:
    deadline = monotonic() + 10
    while not condition():
        assert monotonic() < deadline
        time.sleep(0.01)


def fail() -> None:
    msg = "a bug"
    raise ValueError(msg)


class Fails(LogFile):
    """A file that takes nothing until it is mended."""

    def __init__(self) -> None:
        super().__init__(None)
        self.broken = True
        self.lines: list[str] = []

    def write(self, data: bytes) -> None:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.lines.append(data.decode())


def test_f08_lines_look_as_they_should(path: Path) -> None:
    with logging_to(path):
        log.info("promote", oblock=7)
        log.debug("unseen")
        sys.stdout.write("printed\n")
        sys.stderr.write("half a ")
        sys.stderr.write("line\nand a rest")
    first, *rest = path.read_text().splitlines()
    assert "promote" in first
    assert "oblock=7" in first
    assert "\x1b" not in first
    assert rest == ["printed", "half a line", "and a rest"]


def test_f08_a_full_disk_is_nobodys_trouble_and_what_is_missing_is_counted() -> None:
    file = Fails()
    taken = Log(file)
    for number in range(3):
        taken.write(f"lost {number}\n")
    eventually(lambda: taken._dropped == 3)
    file.broken = False
    taken.write("back\n")
    taken.close()
    assert "".join(file.lines).split("\n") == ["", "3 lines could not be written here", "back", ""]


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null"])
def test_f08_nothing_raises_where_nothing_can_be_written(name: str) -> None:
    fd = os.open(name, os.O_RDONLY if name == "/dev/null" else os.O_WRONLY)
    with stderr_is(fd), logging_to(None):
        log.error("event", value=1)
        sys.stderr.write("text\n")
        try:
            fail()
        except ValueError:
            log.exception("traceback")
            traceback.print_exc()
        sys.stderr.flush()
    os.close(fd)


def test_f08_a_closed_pipe_is_nobodys_trouble() -> None:
    read, write = os.pipe()
    os.close(read)
    with stderr_is(write), logging_to(None):
        for number in range(100):
            log.error("event", number=number)
    os.close(write)


def test_f08_a_pipe_that_nobody_reads_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_CLOSE_SECONDS", 0.2)
    read, write = os.pipe()

    class Pipe(LogFile):
        def write(self, data: bytes) -> None:
            os.write(write, data)

    began = monotonic()
    taken = Log(Pipe(None))
    for _ in range(5000):
        taken.write("x" * 200 + "\n")
    taken.close()
    assert monotonic() - began < 5
    assert taken._queue
    os.close(read)  # the thread that writes there ends
    eventually(lambda: not taken._queue)
    os.close(write)


def test_f08_lines_of_a_kind_are_limited_in_rate_and_the_latest_is_kept(path: Path) -> None:
    with logging_to(path):
        for number in range(1000):
            log.warning("request refused", number=number)
            log.info("another kind")
        time.sleep(1.2)
        log.warning("request refused", number="last")
    lines = [line for line in path.read_text().splitlines() if "request refused" in line]
    assert len(lines) == 3
    assert "number=0" in lines[0]
    assert "request refused (and 998 more like it)" in lines[1]
    assert "number=999" in lines[1]
    assert "last" in lines[2]


def test_f08_what_errors_name_is_not_left_out_at_first(path: Path) -> None:
    with logging_to(path):
        for number in range(logs.ERRORS_AT_ONCE + 5):
            log.error("writes are lost", begin=number)
    lines = path.read_text().splitlines()
    assert len(lines) == logs.ERRORS_AT_ONCE + 1
    assert f"begin={logs.ERRORS_AT_ONCE + 4}" in lines[-1]
    assert "and 4 more like it" in lines[-1]


def test_f08_kinds_that_are_no_constants_do_not_fill_the_memory(path: Path) -> None:
    with logging_to(path) as taken:
        for number in range(3 * logs._KINDS):
            log.info("".join(("event ", str(number))))
        assert len(taken._kinds) <= logs._KINDS


def test_f08_no_value_is_logged_whole(path: Path) -> None:
    with logging_to(path):
        log.warning("refused", error="x" * 100_000, data=b"y" * 100_000, number=5)
        log.warning("z" * 100_000)
    text = path.read_text()
    assert len(text) < 5 * logs.VALUE
    assert "x... (100000 characters)" in text
    assert "number=5" in text


def test_f08_values_that_cannot_be_shown_raise_nothing(path: Path) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    with logging_to(path):
        log.warning("bad", value=Bad())
        log.warning("surrogate \udcff", name=os.fsdecode(b"J\xfcrgen"))
    assert "surrogate" in path.read_text()


def test_f08_a_traceback_is_of_the_exception_that_was_being_handled(path: Path) -> None:
    with logging_to(path):
        try:
            fail()
        except ValueError as exc:
            log.exception("by itself")
            log.error("given", exc_info=exc)
    assert path.read_text().count("ValueError: a bug") == 2


def test_f08_a_file_that_is_large_enough_becomes_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    with logging_to(path):
        for number in range(100):
            sys.stderr.write(f"{number:99}\n")
    assert path.stat().st_size <= 1000
    old = Path(f"{path}.old")
    assert old.stat().st_size <= 1000
    assert [int(line) for line in (old.read_text() + path.read_text()).splitlines()][-1] == 99
    assert sorted(path.parent.iterdir()) == [path, old]


def test_f08_what_others_write_to_it_is_limited_as_well(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    monkeypatch.setattr(logs, "_LOOK_SECONDS", 0.02)
    with logging_to(path):
        sys.stderr.write("first\n")
        eventually(path.read_text)
        os.write(2, b"x" * 1500)
        eventually(lambda: os.path.samestat(path.stat(), os.fstat(2)) and path.stat().st_size == 0)
        os.write(2, b"y")
    assert path.read_text() == "y"
    assert Path(f"{path}.old").stat().st_size == 1506


def test_f08_a_file_that_cannot_be_renamed_does_not_grow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 1000)
    Path(f"{path}.old").mkdir()
    with logging_to(path):
        for number in range(100):
            sys.stderr.write(f"{number:99}\n")
    assert path.stat().st_size == 1000


@pytest.mark.parametrize("how", ["renamed", "deleted", "truncated"])
def test_f08_a_file_that_somebody_took_away_is_begun_anew(path: Path, how: str) -> None:
    with logging_to(path) as taken:
        sys.stderr.write("before\n")
        eventually(path.read_text)
        if how == "renamed":
            path.rename(f"{path}.1")
            taken.reopen()  # what SIGHUP does
            eventually(path.exists)
        elif how == "deleted":
            path.unlink()
        else:
            os.truncate(path, 0)
        sys.stderr.write("after\n")
    assert path.read_text() == "after\n"
    if how == "renamed":
        assert Path(f"{path}.1").read_text() == "before\n"


def test_f08_what_is_put_in_the_place_of_the_log_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with logging_to(path) as taken:
        path.unlink()
        path.symlink_to(victim)
        taken.reopen()
        sys.stderr.write("after\n")
    assert victim.read_text() == "precious"


def test_f08_signals_come_between_log_calls(path: Path) -> None:
    with logging_to(path) as taken:
        before = signal.signal(signal.SIGHUP, lambda *_: taken.reopen())
        try:
            for _ in range(200):
                log.info("event")
                os.kill(os.getpid(), signal.SIGHUP)
        finally:
            signal.signal(signal.SIGHUP, before)
    assert "event" in path.read_text()
