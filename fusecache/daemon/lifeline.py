"""The daemon's side of what makes a mount outlive it; the other side is :mod:`fusecache.daemon.holder`.

Theory of operation
-------------------
The first daemon of a mount starts the holder when the image is ready, and hands it the device.  A successor was started
by the holder, opens and recovers everything, and gets the device only then.  From there on both are alike.

*The end of a mount* begins with :meth:`Lifeline.let_go`: when it returns, nobody but us has the device open, as if
there had never been a holder.  A holder that does not listen is killed.

*A restart* is a clean end after which the mount stays.  The holder loads the successor first, and refuses what that
refuses; then it says ``go``, we settle and say ``left``.

*A holder that dies* takes nothing with it but this: the mount ends with its daemon again.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from typing import TYPE_CHECKING, Final, final

import structlog
import trio

from fusecache.control import Survival
from fusecache.daemon import holder
from fusecache.durability import Slate, slate_bytes
from fusecache.errors import BusyError, RefusedError, StoreError
from fusecache.frontends.fuse import Kept
from fusecache.grammar import write_config

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.attach import Binding
    from fusecache.config import MountConfig

log = structlog.get_logger(__name__)

_LET_GO_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Heir:
    """What a successor was told when it began."""

    line: socket.socket
    """To the holder, which is our parent."""
    holder: int
    """The holder's number, in its own words."""
    crashes: int
    restarts: int
    restart: str
    """What became of the last restart that was asked for."""
    slate: mmap | bytes
    """What the process before has noted (:mod:`fusecache.durability.slate`)."""


@final
class Lifeline:
    """Ties one daemon to the holder of its mount, if there is one.

    :param heir: if the mount is taken over.
    :ivar survival: what the status says of it.
    """

    __slots__ = ("_child", "_config", "_go", "_holder", "_line", "_slate", "_started", "heir", "survival")

    def __init__(self, heir: Heir | None = None) -> None:
        self.heir = heir
        self.survival = Survival()
        self._line: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        """The holder, if we have started it."""
        self._holder = -1
        """A pidfd."""
        self._config = ""
        """What the holder would start the next one with."""
        self._slate = -1
        self._started = trio.Event()
        self._go = trio.Event()
        if heir is not None:
            self.survival = Survival(crashes=heir.crashes, restarts=heir.restarts, restart=heir.restart)
            self._attach(heir.line, heir.holder)

    # Beginning

    def make_slate(self, binding: Binding) -> Slate | None:
        """Make a slate that outlives this process as soon as the holder has it; None if there is no memory for it.

        :raises StoreError: there is none for an heir, who cannot do without.
        """
        try:
            self._slate = os.memfd_create("fusecache-slate")
            geometry = binding.geometry
            os.truncate(self._slate, slate_bytes(geometry.cache_blocks, geometry.block_size))
            return Slate(mmap(self._slate, 0), geometry.block_size, binding.uuid)
        except OSError as exc:
            msg = f"no memory that outlives this process: {exc.strerror}"
            if self.heir is not None:
                raise StoreError(msg) from exc
            self.do_without(msg)
            return None

    def obtain(self) -> Kept:
        """Say that everything is prepared, and take the device; waits for it.  For heirs.

        :raises RefusedError: the mount has gone, or its holder has.
        """
        assert self._line is not None
        assert self.heir is not None
        if os.getppid() != self.heir.holder:  # and what we would end some day is another process
            msg = "the holder of the mount has gone"
            raise RefusedError(msg)
        try:
            holder.send(self._line, "prepared", [self._slate])
            message, descriptors = holder.receive(self._line)
        except OSError as exc:
            msg = f"the holder of the mount has gone: {exc.strerror}"
            raise RefusedError(msg) from exc
        if message["word"] != "device":
            msg = "the mount, or its holder, has gone"
            raise RefusedError(msg)
        return Kept(descriptors[0], bytes.fromhex(message["init"]))

    def ready(self, config: MountConfig) -> None:
        """Say that we serve; for heirs."""
        self._config = write_config(config)
        self._say("ready")
        self._started.set()

    def begin(self, kept: Kept, config: MountConfig, log_path: Path) -> None:
        """Start the holder of a mount that has none; that there is none is no reason not to serve.

        :param config: what the next daemon is to be; its paths are absolute, and the mountpoint has no links in it.
        """
        if self._slate < 0:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", holder.__file__, str(config.mountpoint), str(theirs.fileno())]
        try:
            with theirs:
                self._child = subprocess.Popen(  # noqa: S603 - our own
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/", start_new_session=True
                )
            self._attach(ours, self._child.pid)
            own = os.pidfd_open(os.getpid())
        except OSError as exc:
            ours.close()
            self.do_without(f"no holder can be started: {exc.strerror}")
            return
        self._config = write_config(config)
        self._say("hold", [kept.device, own, self._slate], init=kept.init.hex(), config=self._config, log=str(log_path))
        os.close(own)
        self._started.set()

    def do_without(self, why: str) -> None:
        """Serve without a holder."""
        self.survival.holder, self.survival.unheld = 0, why
        log.info("the mount ends with its daemon", reason=why)

    # Serving

    async def run(self) -> None:
        """Listen to the holder, until cancelled."""
        await self._started.wait()
        assert self._line is not None
        self._line.setblocking(False)
        while self.survival.holder:
            await trio.lowlevel.wait_readable(self._line)
            with suppress(BlockingIOError):
                message, _ = holder.receive(self._line)
                match message["word"]:
                    case "go":
                        self._go.set()
                    case "refused":
                        self.survival.restart = f"failed: {message['why']}"
                        log.error("no restart", reason=message["why"])
                    case "end of line" if self.survival.holder:  # and we have not ended it ourselves
                        self._lose()

    async def told_to_leave(self) -> None:
        """Wait until a successor is loaded, and waits for us to leave."""
        await self._go.wait()

    @property
    def is_to_leave(self) -> bool:
        """Whether a successor waits for us to leave."""
        return self._go.is_set() and bool(self.survival.holder)

    def note(self, config: MountConfig) -> None:
        """Note what this mount is by now, so that the next daemon is the same."""
        if self.survival.holder and (text := write_config(config)) != self._config:
            self._config = text
            self._say("config", config=text)

    def restart(self, config: MountConfig) -> None:
        """Have another process go on, with other options; returns at once.

        :raises RefusedError: nobody would start it, or somebody has asked for one already.
        """
        if not self.survival.holder:
            msg = f"no restart: {self.survival.unheld or 'the image is not ready yet'}"
            raise RefusedError(msg)
        if self.survival.restart == Survival.UNDER_WAY:
            msg = "a restart is under way"
            raise BusyError(msg)
        self.survival.restart = Survival.UNDER_WAY
        self._say("restart", config=write_config(config))

    # Ending

    def let_go_unless_leaving(self, signal_name: str) -> None:
        """Let go, unless a successor waits for us to leave and nobody has asked for an end meanwhile."""
        if signal_name or not self._go.is_set():
            self.let_go()

    def let_go(self) -> None:
        """Have the holder close the device and end; it has when this returns."""
        if not self.survival.holder:
            return
        self._say("end")
        if not self._has_ended(_LET_GO_SECONDS):
            log.warning("the holder does not listen, and is killed", holder=self.survival.holder)
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._holder, signal.SIGKILL)
            self._has_ended(_LET_GO_SECONDS)
        self._reap()
        self.survival.holder, self.survival.unheld = 0, "the mount is ending"

    def leave(self) -> None:
        """Say that everything is safe, as the last thing before this process ends."""
        self._say("left")

    def close(self) -> None:
        """Say nothing more: a holder that is still there hears of nothing but our end."""
        if self._slate >= 0:
            os.close(self._slate)
            self._slate = -1
        if self._line is not None:
            if self.heir is None:
                self._line.close()
            os.close(self._holder)
            self._line = None
            self.survival.holder = 0

    def _attach(self, line: socket.socket, holder_pid: int) -> None:
        self._line = line
        self._holder = os.pidfd_open(holder_pid)
        self.survival.holder = holder_pid

    def _say(self, word: str, descriptors: tuple[int, ...] | list[int] = (), **values: object) -> None:
        """Send a message; that nobody is there is seen by whoever listens."""
        if self._line is None:
            return
        with suppress(OSError):
            holder.send(self._line, word, descriptors, **values)

    def _lose(self) -> None:
        """Take notice that the holder has died."""
        pid = self.survival.holder
        self._reap()
        self.survival.holder, self.survival.unheld = 0, f"its holder (pid {pid}) has died"
        if self.survival.restart == Survival.UNDER_WAY:
            self.survival.restart = "failed: the holder has died"
        log.error("the holder has died: the mount ends with its daemon from now on", holder=pid)

    def _has_ended(self, seconds: float) -> bool:
        return bool(holder.ready_among(self._holder, seconds=seconds))

    def _reap(self) -> None:
        """Leave no zombie if it was our child."""
        if self._child is not None:
            self._child.poll()
