"""libfuse's side of the gate: it takes the requests that we leave to it from a socket, and answers to that.

Theory of operation
-------------------
libfuse reads and writes one descriptor, which it has mounted with.  That number is given another meaning (dup2(2)): one
end of a pair of sockets that keep messages apart.  We hold the other end, and the kernel's device.  So libfuse needs no
change, nothing private of it is touched, and it is none the wiser.

Two of its answers are *amended* on their way (:mod:`fusecache.frontends.fuse.wire`).  INIT: how many asynchronous
requests the kernel may send at a time, for which no privilege is needed here; no writes that are larger than our
memory; and what libfuse knows no bit for.  OPEN: writes of one file may be under way side by side.

A libfuse that takes a mount over from another process has never seen the kernel's INIT, and the kernel sends no second
one.  So it is given a copy (:meth:`Relay.replay`), and its answer goes no further: the kernel has had one.

*libfuse never waits for room in its socket.*
  What must hold: its answers are taken in every pass of the scheduler.  pyfuse3 gives a few small ones in a pass, and
  there is room for a hundred.

*The device is libfuse's again before it unmounts* (:meth:`Relay.close`).
  What must hold: when libfuse closes its descriptor, nobody else has the device open.  Otherwise unmounting would ask
  a file system that is not served any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final, final

import structlog
import trio

from fusecache.frontends.fuse import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

log = structlog.get_logger(__name__)

MAX_BACKGROUND: Final = 64
"""Asynchronous requests that the kernel sends at a time; 12 unless it is told."""
CONGESTED: Final = 48
"""Beyond these the kernel calls us congested, and reads ahead less."""
_LARGEST_ANSWER: Final = 256 * 1024
"""Bytes; a socket takes no larger message."""
_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ECONNABORTED})


@final
class Relay:
    """Stands between libfuse and the kernel.

    :param session_fd: libfuse's descriptor, on which nothing has been received yet; unchanged if OSError is raised.
    :ivar device: a descriptor of the kernel's device, non-blocking; ours until :meth:`close`.
    :ivar init: the kernel's INIT; empty before it was received.
    """

    __slots__ = ("_answer", "_offers", "_over", "_replayed", "_session_fd", "_socket", "_watched", "device", "init")

    def __init__(self, session_fd: int) -> None:
        self._session_fd = session_fd
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.device = fcntl.fcntl(session_fd, fcntl.F_DUPFD_CLOEXEC, 0)
            os.dup2(theirs.fileno(), session_fd, inheritable=False)
        os.set_blocking(self.device, False)
        self._socket.setblocking(False)
        self._answer = memoryview(bytearray(_LARGEST_ANSWER))
        self._watched: dict[int, int] = {}
        """Opcodes of requests whose answers are to be amended, by number."""
        self._offers = 0
        self._over = False
        self._replayed: int | None = None
        """The number of the INIT of which the kernel has had an answer already, until libfuse has given its own."""
        self.init = b""

    def replay(self, init: bytes) -> None:
        """Give libfuse the INIT that the kernel sent to another process, before anything else."""
        self.init = init
        _, self._replayed, *_ = wire.REQUEST.unpack_from(init.ljust(wire.REQUEST.size, b"\0"))
        self._socket.send(wire.with_less_offered(init))

    def ask_again(self) -> None:
        """Have the kernel send again what others have received and not answered."""
        self.answer((wire.resending(),))

    async def hand_over(self, opcode: int, number: int, request: memoryview) -> None:
        """Leave a request to libfuse; once that has ended nobody takes it, and it ends with the mount."""
        message: bytes | memoryview = request
        if opcode == wire.INIT:
            self.init = bytes(request)
            self._offers = wire.offered(request)
            message = wire.with_less_offered(request)
        if opcode in {wire.INIT, wire.OPEN}:
            self._watched[number] = opcode
        with suppress(trio.ClosedResourceError):
            while not self._over:
                try:
                    self._socket.send(message)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                else:
                    return

    async def run(self) -> None:
        """Pass libfuse's answers to the kernel until it has ended."""
        with suppress(trio.ClosedResourceError):
            while not self._over:
                await trio.lowlevel.wait_readable(self._socket)
                self.pass_answers()
        self.pass_answers()

    def end(self) -> None:
        """Take notice that libfuse has ended: it receives nothing any more, and has given all its answers."""
        self._over = True
        trio.lowlevel.notify_closing(self._socket)

    def pass_answers(self) -> None:
        """Pass on the answers that are there."""
        while True:
            try:
                length = self._socket.recv_into(self._answer)
            except BlockingIOError:
                return
            answer = self._answer[:length]
            _, code, number = wire.ANSWER.unpack_from(answer)
            opcode = self._watched.pop(number, None)
            if number == self._replayed:
                self._replayed = None
            elif code == 0 and opcode == wire.OPEN:
                self.answer((wire.amended_open(answer),))
            elif code == 0 and opcode == wire.INIT:
                init = wire.amended_init(answer, self._offers, background=MAX_BACKGROUND, congested=CONGESTED)
                self.answer((init,))
            else:
                self.answer((answer,))

    def answer(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """Give the kernel an answer; whoever asked may be gone."""
        try:
            os.writev(self.device, tuple(parts))
        except OSError as exc:
            self.unanswered(exc)

    @staticmethod
    def unanswered(error: OSError) -> None:
        """Judge why an answer was not taken: the request was given up (ENOENT), or all of them with the mount."""
        if error.errno not in _GONE:
            log.error("the kernel refused an answer", error=error.strerror)

    def close(self) -> None:
        """Give libfuse its device back; nothing of ours may be under way."""
        os.set_blocking(self.device, True)
        os.dup2(self.device, self._session_fd, inheritable=False)
        os.close(self.device)
        self._socket.close()
