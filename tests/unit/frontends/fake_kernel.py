"""A kernel and libfuse for tests of the gate: sockets that keep messages apart, as FUSE's device does."""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusecache.frontends.fuse import wire
from fusecache.frontends.fuse.relay import Relay

RECORDED = {
    name: bytes.fromhex(message)
    for name, message in (
        line.split()
        for line in Path(__file__).with_name("recorded_requests.txt").read_text().splitlines()
        if not line.startswith("#")
    )
}


def asking(name: str, number: int, offset: int | None = None, size: int | None = None, data: bytes = b"") -> bytes:
    """A recorded request, with another number; of reads and writes perhaps with another range, and data."""
    request = bytearray(RECORDED[name])
    request[8:16] = number.to_bytes(8, "little")
    if offset is not None:
        request[48:56] = offset.to_bytes(8, "little")
    if data:
        request[wire.WRITE_HEADER_BYTES :] = data
        size = len(data)
    if size is not None:
        request[56:60] = size.to_bytes(4, "little")
    return bytes(request)


class FakeKernel:
    """One end is the device; what is asked here is received there.

    :ivar errors: errno values that the next readv(2) of the device ends with.
    :ivar gone: numbers of requests that were given up: their answers are refused.
    """

    def __init__(self) -> None:
        self._socket, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self.session_fd = device.detach()
        self.relay = Relay(self.session_fd)
        self.device = self.relay.device
        self.errors: deque[int] = deque()
        self.gone: set[int] = set()
        self._readv, self._writev = os.readv, os.writev

    def ask(self, *requests: bytes) -> None:
        """Let requests arrive."""
        for request in requests:
            self._socket.send(request)

    def answers(self) -> list[bytes]:
        """Take the answers that have come."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(2 * wire.MOST_WRITTEN))
            except BlockingIOError:
                return found

    def codes(self) -> dict[int, int]:
        """Take them, and return their errno values by number."""
        answers = [wire.ANSWER.unpack_from(answer) for answer in self.answers()]
        codes = {number: -code for _, code, number in answers}
        assert len(codes) == len(answers), "answered twice"
        return codes

    def readv(self, fd: int, buffers: Sequence[memoryview]) -> int:
        """Stand in for os.readv."""
        if fd == self.device and self.errors:
            code = self.errors.popleft()
            raise OSError(code, os.strerror(code))
        return self._readv(fd, buffers)

    def writev(self, fd: int, buffers: Sequence[bytes]) -> int:
        """Stand in for os.writev."""
        if fd == self.device and wire.ANSWER.unpack_from(buffers[0])[2] in self.gone:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._writev(fd, buffers)

    def close(self) -> None:
        """End everything."""
        self.relay.close()
        self.close_rest()

    def close_rest(self) -> None:
        """End everything but the relay, which is closed."""
        os.close(self.session_fd)
        self._socket.close()


@contextmanager
def faked(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """Have a kernel within this block."""
    kernel = FakeKernel()
    monkeypatch.setattr(os, "readv", kernel.readv)
    monkeypatch.setattr(os, "writev", kernel.writev)
    try:
        yield kernel
    finally:
        kernel.close()
