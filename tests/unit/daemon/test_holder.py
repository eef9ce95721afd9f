"""The holder, with everybody else played by the test: daemons that say what they are told, and a pipe for a device."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from fusecache.daemon import holder
from fusecache.daemon.holder import Daemon, Holder, receive, send

SECONDS = 10


class FakeDaemon:
    """A process that serves or is going to; ``daemon`` is how the holder sees it."""

    def __init__(self) -> None:
        ours, self.line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(SECONDS)
        pidfd, self._alive = os.pipe()
        self.daemon = Daemon(ours, pidfd)
        self.given: list[int] = []

    def say(self, word: str, *descriptors: int, **values: object) -> None:
        send(self.line, word, descriptors, **values)

    def hear(self, word: str) -> dict[str, Any]:
        """Wait for a message, which has to be this one."""
        for fd in self.given:
            os.close(fd)
        message, self.given = receive(self.line)
        assert message["word"] == word, message
        return message

    def load(self) -> str:
        """Load; returns the options."""
        config: str = self.hear("config")["config"]
        self.say("loaded")
        return config

    def take_over(self) -> dict[str, Any]:
        """Do what a successor does once it is loaded; returns what it was told to begin with."""
        began = self.hear("begin")
        own = os.memfd_create("slate")
        self.say("prepared", own)
        os.close(own)
        self.hear("device")
        self.say("ready")
        return began

    def die(self) -> None:
        """Leave nothing."""
        self.line.close()
        for fd in self.given:
            os.close(fd)
        self.given = []
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1

    def discard(self) -> None:
        self.die()
        self.daemon.line.close()


class World:
    """A holder that runs in a thread of its own."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.started: Queue[FakeDaemon] = Queue()
        self.mounted, self._device = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.first = FakeDaemon()
        self._all = [self.first]
        slate = os.memfd_create("slate")
        pidfd = self.first.daemon.pidfd
        self.first.say("hold", self._device, pidfd, slate, init="00", config="first", log=str(log))
        os.close(slate)
        self.holder = Holder(self.first.daemon.line, self._start)
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        os.close(self._device)

    def _start(self) -> Daemon:
        fake = FakeDaemon()
        self._all.append(fake)
        self.started.put(fake)
        return fake.daemon

    def _run(self) -> None:
        self.code = self.holder.run()

    def next(self) -> FakeDaemon:
        """Wait until another process is started."""
        return self.started.get(timeout=SECONDS)

    def unmount(self) -> None:
        os.close(self.mounted)
        self.mounted = -1

    def wait(self) -> int | None:
        """Wait until the holder has ended; nobody has the device open then."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        if self.mounted >= 0:
            assert os.read(self.mounted, 1) == b"", "the device is open"
        return self.code

    def discard(self) -> None:
        with suppress(OSError):
            self.first.say("end")
        if self.mounted >= 0:
            self.unmount()
        self._thread.join(SECONDS)
        for fake in self._all:
            fake.discard()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(holder, "PAUSES", (0.0, 0.0, 0.05))
    monkeypatch.setattr(holder, "LIVED_SECONDS", 0.0)
    (tmp_path / "log").touch()
    world = World(tmp_path / "log")
    yield world
    world.discard()


def test_it_closes_the_device_and_ends_when_it_is_told_to(world: World) -> None:
    world.first.say("end")
    assert world.wait() == 0
    assert world.started.empty()


def test_whoever_dies_is_followed(world: World) -> None:
    world.first.die()
    successor = world.next()
    assert successor.load() == "first"
    began = successor.take_over()
    assert (began["crashes"], began["restarts"], began["restart"]) == (1, 0, "")
    assert "the daemon died; crashes so far: 1" in world.log.read_text()
    successor.say("end")
    successor.die()
    assert world.wait() == 0


def test_options_that_have_changed_are_those_of_the_next_one(world: World) -> None:
    world.first.say("config", config="changed")
    world.first.die()
    successor = world.next()
    assert successor.load() == "changed"
    successor.take_over()
    successor.say("end")
    successor.die()
    assert world.wait() == 0


def test_a_restart_loads_the_next_one_first(world: World) -> None:
    world.first.say("restart", config="second")
    successor = world.next()
    assert successor.load() == "second"
    world.first.hear("go")
    world.first.say("left")
    world.first.die()
    began = successor.take_over()
    assert (began["crashes"], began["restarts"], began["restart"]) == (0, 1, "done")
    successor.die()
    third = world.next()
    assert third.load() == "second"
    assert third.take_over()["crashes"] == 1
    third.say("end")
    third.die()
    assert world.wait() == 0
    assert world.log.read_text().count("the daemon died") == 1


def test_a_next_one_that_refuses_to_load_changes_nothing(world: World) -> None:
    world.first.say("restart", config="nonsense")
    successor = world.next()
    successor.hear("config")
    successor.say("refused", why="it is nonsense")
    assert world.first.hear("refused")["why"] == "it is nonsense"
    world.first.say("restart", config="deadly")
    world.next().die()
    assert "died" in world.first.hear("refused")["why"]
    world.first.say("end")
    assert world.wait() == 0


def test_options_that_are_refused_late_give_way_to_the_old_ones(world: World) -> None:
    world.first.say("restart", config="second")
    successor = world.next()
    successor.load()
    world.first.hear("go")
    world.first.say("left")
    world.first.die()
    successor.hear("begin")
    successor.say("refused", why="too small")
    successor.die()
    again = world.next()
    assert again.load() == "first"
    began = again.take_over()
    assert began["restart"] == "failed: too small; the options are what they were"
    assert (began["crashes"], began["restarts"]) == (0, 1)
    again.say("end")
    again.die()
    assert world.wait() == 0


def test_who_dies_before_it_can_leave_is_followed_with_the_old_options(world: World) -> None:
    world.first.say("restart", config="second")
    loaded = world.next()
    loaded.load()
    world.first.die()
    successor = world.next()
    assert loaded.hear("end of line")
    assert successor.load() == "first"
    began = successor.take_over()
    assert began["crashes"] == 1
    assert str(began["restart"]).startswith("failed: ")
    successor.say("end")
    successor.die()
    assert world.wait() == 0


def fail(world: World) -> None:
    world.next().die()


def refuse(world: World) -> None:
    successor = world.next()
    successor.load()
    successor.hear("begin")
    successor.say("refused", why="the metadata is damaged")
    successor.die()


def die_with_the_device(world: World) -> None:
    successor = world.next()
    successor.load()
    successor.hear("begin")
    own = os.memfd_create("slate")
    successor.say("prepared", own)
    os.close(own)
    successor.hear("device")
    successor.die()


@pytest.mark.parametrize("how", [fail, refuse, die_with_the_device])
def test_it_gives_up_when_nobody_can_go_on(world: World, how: Callable[[World], None]) -> None:
    world.first.die()
    for _ in holder.PAUSES:
        how(world)
    assert world.wait() == 1
    said = world.log.read_text()
    assert "is given up" in said
    assert how is not refuse or "the metadata is damaged" in said.splitlines()[-1]


def test_who_dies_at_once_again_and_again_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "LIVED_SECONDS", 1000.0)
    world.first.die()
    for _ in holder.PAUSES[1:]:
        successor = world.next()
        successor.load()
        successor.take_over()
        successor.die()
    assert world.wait() == 1
    assert "died at once" in world.log.read_text()


def test_a_mount_that_has_gone_is_not_followed(world: World) -> None:
    world.unmount()
    world.first.die()
    assert world.wait() == 0
    assert world.started.empty()
    assert not world.log.read_text()


def test_nor_one_that_goes_while_the_next_one_prepares(world: World) -> None:
    world.first.die()
    successor = world.next()
    successor.load()
    successor.hear("begin")
    world.unmount()
    assert successor.hear("end of line")
    assert world.wait() == 0


def test_one_that_takes_too_long_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "PREPARE_SECONDS", 0.1)
    world.first.die()
    for _ in holder.PAUSES:
        successor = world.next()
        successor.load()
        successor.hear("begin")
    assert world.wait() == 1
    assert "not prepared after 0.1 s" in world.log.read_text()


def test_a_line_that_says_something_else_first_is_nothing_to_hold() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send(theirs, "end")
        with pytest.raises(holder.LetGoError):
            Holder(ours, lambda: pytest.fail("nobody is started"))
