from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fusecache.linux.locks import holder_of, is_for_writing, is_locked_by_writer, try_lock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    return path


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_as(path: Path, flags: int, opened: ExitStack) -> int:
    fd = os.open(path, flags)
    opened.callback(os.close, fd)
    return fd


def test_f20_one_writer_alone(file: Path, opened: ExitStack) -> None:
    first, second = (open_as(file, os.O_RDWR, opened) for _ in range(2))
    assert try_lock(first, for_writing=True)
    assert not try_lock(second, for_writing=True)
    assert not try_lock(second, for_writing=False)
    assert is_locked_by_writer(second)


def test_f20_readers_are_told_from_writers(file: Path, opened: ExitStack) -> None:
    reader, writer, third = (open_as(file, flags, opened) for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR))
    assert not is_for_writing(reader)
    assert is_for_writing(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        try_lock(reader, for_writing=True)
    assert try_lock(reader, for_writing=False)
    assert not try_lock(writer, for_writing=True)
    assert not is_locked_by_writer(writer)
    assert try_lock(writer, for_writing=False)
    assert not try_lock(third, for_writing=True)


def test_f20_readers_of_any_other_kind_are_in_nobodys_way(file: Path, opened: ExitStack) -> None:
    reader, writer = open_as(file, os.O_RDONLY, opened), open_as(file, os.O_RDWR, opened)
    fcntl.flock(reader, fcntl.LOCK_EX)
    assert try_lock(writer, for_writing=True)


def test_a_lock_ends_with_its_descriptor_and_with_no_other_one(file: Path, opened: ExitStack) -> None:
    held = os.open(file, os.O_RDWR)
    assert try_lock(held, for_writing=True)
    file.read_bytes()  # unlike a POSIX lock, it does not go when any descriptor of the file is closed
    other = open_as(file, os.O_RDWR, opened)
    assert not try_lock(other, for_writing=True)
    os.close(held)
    assert try_lock(other, for_writing=True)


def test_sqlite_is_not_in_the_way(tmp_path: Path, opened: ExitStack) -> None:
    path = tmp_path / "metadata"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        fd = open_as(path, os.O_RDWR, opened)
        connection.execute("BEGIN EXCLUSIVE")
        assert try_lock(fd, for_writing=True)
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("COMMIT")


def test_f20_the_holder_is_named(file: Path, opened: ExitStack) -> None:
    code = (
        "import os, sys; from fusecache.linux import try_lock; fd = os.open(sys.argv[1], os.O_RDWR); "
        "print(try_lock(fd, for_writing=True), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        told = holder_of(open_as(file, os.O_RDONLY, opened))
        process.communicate("")
    assert told.startswith(f"pid {process.pid}: {sys.executable} -c")
    assert told.endswith("...")
    assert not holder_of(open_as(file, os.O_RDONLY, opened))


def test_a_holder_that_is_a_script_is_named_as_it_was_typed(tmp_path: Path, file: Path, opened: ExitStack) -> None:
    script = tmp_path / "tool"
    script.write_text(
        "import os, sys; from fusecache.linux import try_lock; fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "print(try_lock(fd, for_writing=True), flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, str(script), str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        told = holder_of(open_as(file, os.O_RDONLY, opened))
        process.communicate("")
    assert told.startswith(f"pid {process.pid}: tool {file}"[:80])
