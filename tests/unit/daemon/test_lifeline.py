"""A daemon's line to its holder, which the test plays, or which is real and is told to end."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from fusecache.block import Geometry
from fusecache.config import MountConfig
from fusecache.daemon import holder
from fusecache.daemon.lifeline import Heir, Lifeline
from fusecache.durability import read_slate
from fusecache.errors import BusyError, RefusedError
from fusecache.frontends.fuse import Kept
from fusecache.grammar import read_config

CONFIG = MountConfig(origin="/o", mountpoint=Path("/mnt"))
UUID = "0123456789abcdef"


class FakeBinding:
    """As much of a binding as a slate wants."""

    geometry = Geometry(1 << 20, 4096, 16)
    uuid = UUID


class Other:
    """The holder's end of an heir's line; the process is this test's parent."""

    def __init__(self) -> None:
        ours, self.line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(10)
        self.ours = ours
        self.lifeline = Lifeline(Heir(ours, os.getppid(), 2, 3, "done", b""))

    def hear(self, word: str) -> tuple[holder.Message, list[int]]:
        message, descriptors = holder.receive(self.line)
        assert message["word"] == word
        return message, descriptors

    def close(self) -> None:
        self.lifeline.close()
        self.ours.close()
        self.line.close()


@pytest.fixture
def other() -> Iterator[Other]:
    other = Other()
    yield other
    other.close()


def beside(lifeline: Lifeline, what: Callable[[], Awaitable[None]]) -> None:
    """Do something while the lifeline listens."""

    async def run() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lifeline.run)
                await what()
                nursery.cancel_scope.cancel()

    trio.run(run)


def test_an_heir_knows_what_was(other: Other) -> None:
    survival = other.lifeline.survival
    assert (survival.holder, survival.crashes, survival.restarts, survival.restart) == (os.getppid(), 2, 3, "done")


def test_an_heir_gets_the_device_for_its_slate(other: Other) -> None:
    slate = other.lifeline.make_slate(FakeBinding())  # type: ignore[arg-type]
    assert slate is not None
    slate.note(3, 4, None)
    reading, writing = os.pipe()
    holder.send(other.line, "device", [writing], init="0102")
    kept = other.lifeline.obtain()
    assert kept.init == b"\1\2"
    assert os.path.sameopenfile(kept.device, writing)
    _, (memory,) = other.hear("prepared")
    assert read_slate(os.pread(memory, 1 << 20, 0), UUID) == [(3, 4, None)]
    for fd in (reading, writing, memory, kept.device):
        os.close(fd)
    slate.close()


def test_a_mount_that_has_gone_is_no_mount_to_take_over(other: Other) -> None:
    other.lifeline.make_slate(FakeBinding())  # type: ignore[arg-type]
    other.line.close()
    with pytest.raises(RefusedError, match="has gone"):
        other.lifeline.obtain()


def test_what_was_set_is_told_once(other: Other) -> None:
    other.lifeline.ready(CONFIG)
    other.hear("ready")
    changed = MountConfig(origin="/o", mountpoint=Path("/mnt"), copy_rate=5)
    other.lifeline.note(CONFIG)
    other.lifeline.note(changed)
    other.lifeline.note(changed)
    other.lifeline.leave()
    message, _ = other.hear("config")
    assert read_config(message["config"]) == changed
    other.hear("left")


def test_a_restart_waits_for_the_word_to_go(other: Other) -> None:
    lifeline = other.lifeline
    lifeline.ready(CONFIG)
    other.hear("ready")

    async def restart() -> None:
        lifeline.restart(CONFIG)
        with pytest.raises(BusyError):
            lifeline.restart(CONFIG)
        other.hear("restart")
        holder.send(other.line, "refused", why="no")
        while lifeline.survival.restart == "under way":
            await trio.testing.wait_all_tasks_blocked()
        assert lifeline.survival.restart == "failed: no"
        lifeline.restart(CONFIG)
        other.hear("restart")
        holder.send(other.line, "go")
        await lifeline.told_to_leave()
        assert lifeline.is_to_leave
        lifeline.let_go_unless_leaving("")
        assert lifeline.survival.holder, "it is held for the next one"

    beside(lifeline, restart)


def test_a_holder_that_dies_is_missed_and_nothing_else_happens(other: Other) -> None:
    lifeline = other.lifeline
    lifeline.ready(CONFIG)

    async def lose() -> None:
        other.line.close()
        while lifeline.survival.holder:
            await trio.testing.wait_all_tasks_blocked()

    beside(lifeline, lose)
    assert "has died" in lifeline.survival.unheld
    with pytest.raises(RefusedError, match="has died"):
        lifeline.restart(CONFIG)
    lifeline.let_go()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Lifeline, int]]:
    """A lifeline with a real holder, and the other end of what it takes for the device."""
    lifeline = Lifeline()
    slate = lifeline.make_slate(FakeBinding())  # type: ignore[arg-type]
    assert slate is not None
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    lifeline.begin(Kept(writing, b"\1"), CONFIG, tmp_path / "log")
    os.close(writing)
    yield lifeline, reading
    if lifeline.survival.holder:
        os.kill(lifeline.survival.holder, signal.SIGKILL)
        lifeline.let_go()
    lifeline.close()
    slate.close()
    os.close(reading)


def test_a_real_holder_has_the_device_until_it_is_to_let_go(held: tuple[Lifeline, int]) -> None:
    lifeline, reading = held
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    pid = lifeline.survival.holder
    lifeline.let_go()
    assert os.read(reading, 1) == b"", "nobody has the device open"
    assert not Path(f"/proc/{pid}").exists()
    assert (lifeline.survival.holder, lifeline.survival.unheld) == (0, "the mount is ending")


def test_one_that_does_not_listen_is_killed(held: tuple[Lifeline, int], monkeypatch: pytest.MonkeyPatch) -> None:
    lifeline, reading = held
    monkeypatch.setattr("fusecache.daemon.lifeline._LET_GO_SECONDS", 0.2)
    os.kill(lifeline.survival.holder, signal.SIGSTOP)
    lifeline.let_go()
    assert os.read(reading, 1) == b""


def test_without_memory_for_a_slate_nobody_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_name: str) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    lifeline = Lifeline()
    assert lifeline.make_slate(FakeBinding()) is None  # type: ignore[arg-type]
    lifeline.begin(Kept(0, b""), CONFIG, tmp_path / "log")
    assert lifeline.survival.holder == 0
    assert "Function not implemented" in lifeline.survival.unheld


def test_an_heir_whose_holder_has_gone_takes_no_other_process_for_it(other: Other) -> None:
    orphan = Lifeline(Heir(other.ours, os.getpid(), 0, 0, "", b""))
    with pytest.raises(RefusedError, match="has gone"):
        orphan.obtain()
    orphan.close()
