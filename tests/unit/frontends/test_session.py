"""Who reads the requests of a mount; pyfuse3 is played by the test, with a real descriptor of FUSE's device."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import cast

import pyfuse3
import pytest
import trio
import trio.testing

from fusecache.datapath import Disk
from fusecache.frontends.fuse import Kept, Operations, Session, wire
from fusecache.frontends.fuse import session as fuse_session
from tests.unit.frontends.fake_kernel import RECORDED

OPERATIONS = cast("Operations", None)
DISK = cast("Disk", None)


class Fuse:
    """What pyfuse3 does; ``descriptors`` is how many of the device it opens."""

    def __init__(self) -> None:
        self.descriptors = 1
        self.opened: list[int] = []
        self.options: Collection[str] = ()
        self.events: list[str] = []
        self.ended = trio.Event()

    def init(self, operations: object, mountpoint: str, options: Collection[str]) -> None:
        self.options = options
        self.events.append(f"init {mountpoint}")
        if mountpoint.startswith("/dev/fd/"):
            self.opened = [int(Path(mountpoint).name)]
            return
        self.opened = [os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC) for _ in range(self.descriptors)]

    async def main(self, *, min_tasks: int = 1) -> None:
        self.events.append(f"main {min_tasks}")
        await self.ended.wait()

    def terminate(self) -> None:
        self.ended.set()

    def invalidate_inode(self, inode: int, *, attr_only: bool) -> None:
        self.events.append(f"invalidate {inode} {attr_only}")

    def close(self, unmount: bool) -> None:
        self.events.append(f"close {unmount} {[is_device(fd) for fd in self.opened]}")
        for fd in self.opened:
            os.close(fd)


def is_device(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").readlink() == Path("/dev/fuse")


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuse]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse")
    fuse = Fuse()
    for name in ("init", "main", "terminate", "close", "invalidate_inode"):
        monkeypatch.setattr(pyfuse3, name, getattr(fuse, name))
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield fuse
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "a descriptor was left open"


def mounted(*, gated: bool) -> Session:
    session = Session(DISK, gated=gated)
    assert not session.is_gated
    session.mount(OPERATIONS, Path("/mnt"), {"fsname=x"})
    return session


def test_with_the_gate_libfuse_has_a_socket_and_gets_its_device_back(fuse: Fuse) -> None:
    session = mounted(gated=True)
    assert session.is_gated
    assert not is_device(fuse.opened[0])
    session.close(unmount=True)
    assert fuse.events == ["init /mnt", "close True [True]"]
    assert set(fuse.options) == {*pyfuse3.default_options, "fsname=x"}


def test_without_it_nothing_is_touched(fuse: Fuse) -> None:
    session = mounted(gated=False)
    assert not session.is_gated
    assert is_device(fuse.opened[0])

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.serve)
            await trio.testing.wait_all_tasks_blocked()
            session.end()

    trio.run(serve)
    session.drop_pages()
    session.close(unmount=False)
    assert fuse.events == ["init /mnt", "main 8", "invalidate 2 False", "close False [True]"]


@pytest.mark.parametrize("descriptors", [0, 2])
def test_where_its_descriptor_cannot_be_told_pyfuse3_reads(
    fuse: Fuse, descriptors: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fuse.descriptors = descriptors
    session = mounted(gated=True)
    assert not session.is_gated
    assert "no gate" in capsys.readouterr().out
    session.close(unmount=True)
    assert fuse.events[-1] == f"close True {[True] * descriptors}"


def test_so_where_there_is_no_proc(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuse_session, "_DESCRIPTORS", tmp_path / "absent")
    session = mounted(gated=True)
    assert not session.is_gated
    assert "no gate" in capsys.readouterr().out
    session.close(unmount=True)


def test_another_open_device_is_not_taken_for_it(fuse: Fuse) -> None:
    other = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        session = mounted(gated=True)
        assert session.is_gated
        assert is_device(other)
        session.close(unmount=True)
    finally:
        os.close(other)


def test_pages_are_dropped_past_libfuse(fuse: Fuse, monkeypatch: pytest.MonkeyPatch) -> None:
    session = mounted(gated=True)
    told: list[tuple[bool, bytes]] = []

    def write(fd: int, data: bytes) -> int:
        told.append((is_device(fd), data))
        return len(data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        session.drop_pages()
    assert told == [(True, wire.invalidation(2))]
    session.close(unmount=True)


def test_the_gate_serves_until_it_is_to_end(fuse: Fuse) -> None:
    session = mounted(gated=True)

    async def serve() -> None:
        with trio.fail_after(10):
            session.end()  # the device belongs to no mount, and cannot be read
            await session.serve()

    trio.run(serve)
    session.close(unmount=True)
    assert fuse.events == ["init /mnt", "main 1", "close True [True]"]


@pytest.mark.parametrize("gated", [True, False])
def test_only_pyfuse3_needs_its_limit_raised_from_outside(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch, gated: bool
) -> None:
    monkeypatch.setattr(fuse_session, "raise_request_limit", lambda mountpoint: [f"raise that of {mountpoint}"])
    session = Session(DISK, gated=gated)
    assert session.mount(OPERATIONS, Path("/mnt"), ()) == ([] if gated else ["raise that of /mnt"])
    session.close(unmount=True)


def taken_over(fuse: Fuse) -> Session:
    session = Session(DISK, gated=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    session.take_over(OPERATIONS, Path("/mnt"), {"fsname=x"}, Kept(device, RECORDED["INIT"]))
    assert session.is_gated
    assert fuse.events == [f"init /dev/fd/{device}"]
    assert not is_device(device)
    assert os.read(device, 1 << 16) == wire.with_less_offered(RECORDED["INIT"]), "libfuse knows what the kernel offers"
    return session


@pytest.mark.parametrize(
    ("unmount", "is_gone", "taken"),
    [(True, False, [Path("/mnt")]), (True, True, []), (False, False, [])],
    ids=["there", "unmounted meanwhile", "another goes on"],
)
def test_a_mount_that_was_taken_over_is_taken_away_by_us(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch, unmount: bool, is_gone: bool, taken: list[Path]
) -> None:
    away: list[Path] = []
    monkeypatch.setattr(fuse_session, "_is_gone", lambda _: is_gone)
    monkeypatch.setattr(fuse_session, "take_away", away.append)
    taken_over(fuse).close(unmount=unmount)
    assert away == taken


def test_the_kernel_is_asked_again_once_that_is_served(fuse: Fuse, monkeypatch: pytest.MonkeyPatch) -> None:
    session = taken_over(fuse)
    sent: list[bytes] = []
    monkeypatch.setattr(os, "writev", lambda _, parts: sent.extend(map(bytes, parts)))

    async def serve() -> None:
        with trio.fail_after(10):
            session.end()  # the device belongs to no mount, and cannot be read
            await session.serve()

    trio.run(serve)
    assert sent == [wire.resending()]
    session.close(unmount=False)


def test_what_another_process_needs_to_go_on(fuse: Fuse) -> None:
    session = mounted(gated=True)
    assert session.kept() is None, "the kernel has not said yet that it can ask again"
    relay = session._relay
    assert relay is not None
    init = bytearray(RECORDED["INIT"])
    init[56] |= 0x80
    init[55] |= 0x40
    relay.init = bytes(init)
    assert wire.can_resend(relay.init)
    assert session.kept() == Kept(relay.device, relay.init)
    session.close(unmount=True)
    session = mounted(gated=False)
    assert session.kept() is None
    session.close(unmount=True)


def test_a_mount_shows_in_its_device_that_it_has_gone() -> None:
    reading, writing = os.pipe()
    assert not fuse_session._is_gone(writing)
    os.close(reading)
    assert fuse_session._is_gone(writing)
    os.close(writing)
