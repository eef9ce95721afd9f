"""libfuse's side of the gate: what reaches it, and what becomes of its answers."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from fusecache.frontends.fuse import wire
from fusecache.frontends.fuse.relay import CONGESTED, MAX_BACKGROUND, Relay
from tests.unit.frontends.fake_kernel import RECORDED, FakeKernel, asking, faked

GETATTR = 3


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    with faked(monkeypatch) as kernel:
        yield kernel


def handed_over(kernel: FakeKernel, opcode: int, number: int, request: bytes) -> bytes:
    """Leave a request to libfuse, and return what it receives."""
    trio.run(kernel.relay.hand_over, opcode, number, memoryview(request))
    return os.read(kernel.session_fd, 1 << 20)


def answered(kernel: FakeKernel, answer: bytes) -> bytes:
    """Have libfuse answer, and return what the kernel gets."""
    os.write(kernel.session_fd, answer)
    kernel.relay.pass_answers()
    (passed,) = kernel.answers()
    return passed


def test_requests_and_answers_pass_as_they_are(kernel: FakeKernel) -> None:
    request = asking("LSEEK", 8)
    assert handed_over(kernel, GETATTR, 8, request) == request
    assert answered(kernel, wire.refusal(8, errno.ENODATA)) == wire.refusal(8, errno.ENODATA)


def test_large_ones_too(kernel: FakeKernel) -> None:
    request = asking("FSYNC", 8) + bytes(range(256)) * 256  # a value of 64 KiB is the largest that can be set
    assert handed_over(kernel, 21, 8, request) == request
    answer = wire.ANSWER.pack(16 + 65536, 0, 8) + bytes(range(256)) * 256
    assert answered(kernel, answer) == answer


def test_init_is_amended(kernel: FakeKernel) -> None:
    assert handed_over(kernel, wire.INIT, 2, RECORDED["INIT"]) == wire.with_less_offered(RECORDED["INIT"])
    answer = answered(kernel, RECORDED["INIT_ANSWER"])
    assert struct.unpack_from("=HH", answer, 32) == (MAX_BACKGROUND, CONGESTED)
    offers = wire.offered(RECORDED["INIT"])
    assert answer == wire.amended_init(RECORDED["INIT_ANSWER"], offers, background=MAX_BACKGROUND, congested=CONGESTED)
    assert answered(kernel, RECORDED["INIT_ANSWER"]) == RECORDED["INIT_ANSWER"], "only once"


def test_open_is_amended_and_its_errors_are_not(kernel: FakeKernel) -> None:
    handed_over(kernel, wire.OPEN, 10, RECORDED["OPEN"])
    assert answered(kernel, RECORDED["OPEN_ANSWER"]) == wire.amended_open(RECORDED["OPEN_ANSWER"])
    handed_over(kernel, wire.OPEN, 10, RECORDED["OPEN"])
    assert answered(kernel, wire.refusal(10, errno.EROFS)) == wire.refusal(10, errno.EROFS)
    assert not kernel.relay._watched


@pytest.mark.parametrize(("opcode", "name"), [(wire.OPEN, "OPEN"), (wire.INIT, "INIT")])
def test_other_answers_meanwhile_are_not(kernel: FakeKernel, opcode: int, name: str) -> None:
    handed_over(kernel, opcode, 10, RECORDED[name])
    for answer in (RECORDED["OPEN_ANSWER"], RECORDED["INIT_ANSWER"]):
        other = answer[:8] + (12).to_bytes(8, "little") + answer[16:]
        assert answered(kernel, other) == other


def test_many_requests_wait_for_libfuse_and_none_is_lost(kernel: FakeKernel) -> None:
    request = asking("FSYNC", 8) + bytes(30_000)
    left = 40

    async def ask() -> None:
        for _ in range(left):
            await kernel.relay.hand_over(21, 8, memoryview(request))

    async def run() -> None:
        nonlocal left
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                assert nursery.child_tasks, "there is room for all of them: it tries nothing"
                while left:
                    await trio.lowlevel.wait_readable(kernel.session_fd)
                    assert os.read(kernel.session_fd, 1 << 20) == request
                    left -= 1

    trio.run(run)


def test_answers_are_passed_on_to_the_last(kernel: FakeKernel) -> None:
    async def run() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.relay.run)
                for number in range(2, 200, 2):
                    os.write(kernel.session_fd, wire.refusal(number, 0))
                    await trio.testing.wait_all_tasks_blocked()
                os.write(kernel.session_fd, wire.refusal(200, 0))
                kernel.relay.end()

    trio.run(run)
    assert list(kernel.codes()) == list(range(2, 202, 2))


def test_requests_do_not_wait_for_libfuse_that_has_ended(kernel: FakeKernel) -> None:
    request = memoryview(asking("FSYNC", 8) + bytes(60_000))

    async def ask() -> None:
        for _ in range(40):
            await kernel.relay.hand_over(21, 8, request)

    async def run() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                assert nursery.child_tasks
                kernel.relay.end()
            await ask()

    trio.run(run)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EINVAL])
def test_whoever_asked_may_be_gone(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def refuse(_fd: int, _parts: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "writev", refuse)
    os.write(kernel.session_fd, wire.refusal(2, 0))
    kernel.relay.pass_answers()
    assert ("refused an answer" in capsys.readouterr().out) == (code == errno.EINVAL)


def test_no_program_that_is_started_inherits_anything(kernel: FakeKernel) -> None:
    for fd in (kernel.device, kernel.session_fd):
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_libfuse_has_its_device_again_and_nobody_else_has() -> None:
    kernel = FakeKernel()
    device = os.fstat(kernel.device)
    assert not os.path.samestat(os.fstat(kernel.session_fd), device)
    kernel.relay.close()
    assert os.path.samestat(os.fstat(kernel.session_fd), device)
    assert os.get_blocking(kernel.session_fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.device)
    kernel.close_rest()


def test_where_there_is_no_socket_libfuse_keeps_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("socket.socketpair", refuse)
    readable, writable = os.pipe()
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="Too many open files"):
        Relay(readable)
    assert set(Path("/proc/self/fd").iterdir()) == before
    os.close(readable)
    os.close(writable)


def test_an_init_that_is_replayed_has_had_its_answer(kernel: FakeKernel) -> None:
    kernel.relay.replay(RECORDED["INIT"])
    assert os.read(kernel.session_fd, 1 << 20) == wire.with_less_offered(RECORDED["INIT"])
    os.write(kernel.session_fd, RECORDED["INIT_ANSWER"])
    kernel.relay.pass_answers()
    assert kernel.answers() == []
    assert answered(kernel, RECORDED["INIT_ANSWER"]) == RECORDED["INIT_ANSWER"], "only once"
    assert kernel.relay.init == RECORDED["INIT"]


def test_the_kernels_own_init_is_kept(kernel: FakeKernel) -> None:
    handed_over(kernel, wire.INIT, 2, RECORDED["INIT"])
    assert kernel.relay.init == RECORDED["INIT"]


def test_the_kernel_is_asked_to_ask_again(kernel: FakeKernel) -> None:
    kernel.relay.ask_again()
    assert kernel.answers() == [wire.resending()]
