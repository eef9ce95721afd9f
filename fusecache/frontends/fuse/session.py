"""One mount, from its making to its end: who reads its requests.

pyfuse3 mounts, and answers what comes rarely.  Requests are read by the gate (:mod:`fusecache.frontends.fuse.gate`); by
pyfuse3 itself where nobody wants the gate, or where its descriptor cannot be found.

A mount may be *taken over* from a process that has died, or has left: then there is nothing to mount, libfuse is told
the kernel's INIT by us, and the kernel is asked to send again what was not answered.  Who keeps the device meanwhile is
no business of this room (:mod:`fusecache.daemon.lifeline`).
"""

from __future__ import annotations

import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, final

import pyfuse3
import structlog

from fusecache.frontends.fuse import wire
from fusecache.frontends.fuse.attributes import IMAGE_INODE
from fusecache.frontends.fuse.connection import raise_request_limit
from fusecache.frontends.fuse.gate import Gate
from fusecache.frontends.fuse.loop import serve_requests
from fusecache.frontends.fuse.relay import Relay
from fusecache.linux import take_away

if TYPE_CHECKING:
    from collections.abc import Collection

    from fusecache.datapath import Disk
    from fusecache.frontends.fuse.operations import Operations

log = structlog.get_logger(__name__)

_DESCRIPTORS: Final = Path("/proc/self/fd")
_DEVICE: Final = os.makedev(10, 229)
"""FUSE's device, whatever its name is here."""


class Kept(NamedTuple):
    """What is left of a mount whose process has ended."""

    device: int
    """A descriptor of FUSE's device."""
    init: bytes
    """The first request that the kernel sent by it."""


@final
class Session:
    """Mounts and serves an image.

    :param gated: whether the gate is to read the requests, if it can.
    """

    def __init__(self, disk: Disk, *, gated: bool) -> None:
        self._disk = disk
        self._gated = gated
        self._relay: Relay | None = None
        self._gate: Gate | None = None
        self._taken_over: Path | None = None
        """Where the mount is that was taken over: libfuse does not know that."""

    @property
    def is_gated(self) -> bool:
        """Whether the gate reads the requests; known when it is mounted."""
        return self._gate is not None

    def mount(self, operations: Operations, mountpoint: Path, options: Collection[str]) -> list[str]:
        """Have FUSE mount it; returns lines that the user should see.

        :raises RuntimeError: FUSE refuses.
        :raises UnicodeEncodeError: pyfuse3 takes nothing but ASCII.
        """
        place = mountpoint.resolve()  # before it is ours to answer what it is
        before = _device_descriptors()
        pyfuse3.init(operations, str(mountpoint), {*pyfuse3.default_options, *options})
        if self._gated:
            self._open_gate(before)
        return [] if self.is_gated else raise_request_limit(place)

    def take_over(self, operations: Operations, mountpoint: Path, options: Collection[str], kept: Kept) -> None:
        """Go on with a mount that another process has served; its descriptor is ours from here on.

        :param mountpoint: without symbolic links; it is not looked at, since nobody would answer.
        :raises RuntimeError: FUSE refuses.
        :raises OSError: there is no descriptor left for the gate.
        """
        pyfuse3.init(operations, f"/dev/fd/{kept.device}", {*pyfuse3.default_options, *options})
        self._relay = Relay(kept.device)
        self._relay.replay(kept.init)
        self._gate = Gate(self._disk, self._relay, pyfuse3.main, pyfuse3.terminate)
        self._taken_over = mountpoint

    def kept(self) -> Kept | None:
        """Return what another process needs to take the mount over; None if that cannot be.  For a mount in use."""
        if self._relay is None or not wire.can_resend(self._relay.init):
            return None
        return Kept(self._relay.device, self._relay.init)

    async def serve(self) -> None:
        """Serve until it is unmounted or :meth:`end` is called."""
        if self._relay is not None and self._taken_over is not None:
            self._relay.ask_again()
        if self._gate is not None:
            await self._gate.serve()
        else:
            await serve_requests()

    def end(self) -> None:
        """Have :meth:`serve` answer what it has, and return."""
        if self._gate is not None:
            self._gate.end()
        else:
            pyfuse3.terminate()

    def drop_pages(self) -> None:
        """Have the kernel drop its pages of the image; waits for it, so a thread has to do it; raises OSError."""
        if self._relay is not None:
            os.write(self._relay.device, wire.invalidation(IMAGE_INODE))
        else:
            pyfuse3.invalidate_inode(IMAGE_INODE, attr_only=False)

    def close(self, *, unmount: bool) -> None:
        """Leave FUSE, and the mount dead unless it is to be unmounted; nothing may be under way."""
        is_there = self._relay is not None and not _is_gone(self._relay.device)
        if self._relay is not None:
            self._relay.close()
        pyfuse3.close(unmount=unmount)
        if unmount and is_there and self._taken_over is not None:
            take_away(self._taken_over)

    def _open_gate(self, before: set[int]) -> None:
        ours = _device_descriptors() - before
        if len(ours) != 1:
            log.warning("no gate: pyfuse3 reads the requests", reason=f"{len(ours)} descriptors of FUSE's device")
            return
        try:
            self._relay = Relay(ours.pop())
        except OSError as exc:
            log.warning("no gate: pyfuse3 reads the requests", reason=exc.strerror)
        else:
            self._gate = Gate(self._disk, self._relay, pyfuse3.main, pyfuse3.terminate)


def _is_gone(device: int) -> bool:
    """Tell whether it is unmounted already: what is there by now is not ours to take away."""
    poll = select.poll()
    poll.register(device, 0)  # an error is told in any case
    return bool(poll.poll(0))


def _device_descriptors() -> set[int]:
    """Find this process's descriptors of FUSE's device; none where there is no /proc."""
    found: set[int] = set()
    with suppress(OSError):
        for entry in _DESCRIPTORS.iterdir():
            with suppress(OSError):  # the one by which they are listed
                status = os.fstat(int(entry.name))
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE:
                    found.add(int(entry.name))
    return found
