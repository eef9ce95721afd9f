"""The holder: a small process that keeps a mount while it has no daemon, and starts the next one.

Theory of operation
-------------------
A mount of FUSE lasts as long as somebody has its device open.  So the holder has it open, and reads nothing from it.
It sleeps until its daemon ends.  It is told so by a *pidfd*, which becomes readable when nothing of the process is
left: no thread, no I/O under way, no lock.  Then it starts a successor, and gives it the device when that has opened
and recovered the cache.  So whoever hangs in an origin that does not answer has no device, and can be given up.

This file runs as a program of its own, with the standard library alone and without ``site``: what kills a daemon (a
fault in it, a lack of memory) should not find the same thing here.  The two talk by a socket that keeps messages apart.
A message is a JSON object with its ``word``:

=========== ======== ==================================================================================================
word        from     meaning
=========== ======== ==================================================================================================
hold        first    here are the device, my pidfd and the memory of my slate; ``config`` is what to start the next
                     one with, ``init`` the kernel's first request, ``log`` where to complain
config      either   to a successor: your options; from a daemon: they have changed
loaded      next     I have loaded the program and understood my options
begin       holder   there is no other daemon any more, and here is what was on its slate; ``crashes``, ``restarts``
                     and ``restart`` are for your status, and ``holder`` is my number
prepared    next     I have opened and recovered everything; here is my slate
device      holder   here it is, with ``init``
ready       next     I serve
restart     daemon   load a successor with ``config``
go          holder   it is loaded: leave
refused     either   ``why`` there will be no such successor
left        daemon   I end now, everything is safe; the next one, please
end         daemon   the mount ends: close the device, and end
=========== ======== ==================================================================================================

*There is never a second daemon.*
  What must hold: ``begin`` is sent when the pidfd of the one before has become readable, and the locks on cache and
  metadata are asked for as in any mount.

*No program waits for ever.*
  What must hold: each step of a successor has a time limit, and the attempts are counted.  Whoever gives up ends, and
  with that the device is closed: the kernel answers every request with an error.

*Nobody is kept from unmounting.*
  What must hold: the device is closed when a daemon says ``end``; a mount that goes while there is no daemon shows in
  poll(2) as an error of the device.  It is not polled while there is one: each request of a program would wake us up.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

PAUSES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before an attempt, by how many failed before it; after as many the mount is given up."""
LIVED_SECONDS = 1.0
"""Who served that long has not failed, whatever ended it: a request that is deadly comes again at once."""
LOAD_SECONDS = 60.0
PREPARE_SECONDS = 120.0
READY_SECONDS = 60.0
DIE_SECONDS = 10.0
_MOST_BYTES = 128 * 1024
_MOST_DESCRIPTORS = 3
_OOM_SCORE = "/proc/self/oom_score_adj"
_NEVER = "-1000"


TYPE_CHECKING = False  # typing is larger than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Message = dict[str, Any]


class LetGoError(Exception):
    """The mount has ended, or is about to: nothing is to be held any more."""


class GivenUpError(Exception):
    """There will be no successor."""


def send(line: socket.socket, word: str, descriptors: Sequence[int] = (), **values: object) -> None:
    """Send a message; raises OSError if nobody is there."""
    socket.send_fds(line, [json.dumps({"word": word, **values}).encode()], descriptors)


def receive(line: socket.socket) -> tuple[Message, list[int]]:
    """Receive a message and the descriptors that came with it; its word is ``end of line`` if nobody is there."""
    try:
        data, descriptors, _, _ = socket.recv_fds(line, _MOST_BYTES, _MOST_DESCRIPTORS)
    except ConnectionError:
        data, descriptors = b"", []
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return (json.loads(data) if data else {"word": "end of line"}), descriptors


def ready_among(*wanted: int, seconds: float | None = None, device: int = -1) -> set[int]:
    """Wait until some descriptors can be read; ``device`` is among them if its mount has gone."""
    poll = select.poll()
    for fd in wanted:
        poll.register(fd, select.POLLIN)
    if device >= 0:
        poll.register(device, 0)
    return {fd for fd, _ in poll.poll(None if seconds is None else max(0, round(seconds * 1000)))}


class Daemon:
    """A process that serves, or is going to.

    :param child: its number if it is our child, or 0.
    """

    def __init__(self, line: socket.socket, pidfd: int, child: int = 0) -> None:
        self.line = line
        self.pidfd = pidfd
        self.child = child
        self.is_loaded = False
        self.given: list[int] = []
        """Descriptors that came with the word that was expected."""
        self.ready_at = time.monotonic()

    def expect(self, word: str, seconds: float, device: int = -1) -> str:
        """Wait for a word; returns why it does not come, or nothing.  Raises LetGoError."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ready = ready_among(self.line.fileno(), self.pidfd, seconds=left, device=device)
            if device in ready:
                raise LetGoError
            if self.line.fileno() in ready:
                message, self.given = receive(self.line)
                if message["word"] == word:
                    return ""
                if message["word"] == "refused":
                    return str(message["why"])
                if message["word"] == "end":
                    raise LetGoError
                if message["word"] == "end of line":
                    return f"it died before it was {word}; the log may say why"
            elif ready:
                return f"it died before it was {word}; the log may say why"
        return f"it was not {word} after {seconds:g} s"

    def end(self) -> None:
        """See to it that nothing of it is left; raises GivenUpError if that takes too long."""
        self.line.close()
        if self.child:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            if not ready_among(self.pidfd, seconds=DIE_SECONDS):
                msg = f"process {self.child} cannot be killed"
                raise GivenUpError(msg)
            os.waitpid(self.child, 0)
        os.close(self.pidfd)


class Holder:
    """Keeps one mount.

    :param line: to the first daemon, which says ``hold`` first.
    :param start: starts a process that is going to be a daemon.
    """

    def __init__(self, line: socket.socket, start: Callable[[], Daemon]) -> None:
        self._start = start
        message, descriptors = receive(line)
        if message["word"] != "hold":
            raise LetGoError
        self._device, pidfd, self._slate = descriptors
        self._init: str = message["init"]
        self._config: str = message["config"]
        self._log: str = message["log"]
        self._daemon = Daemon(line, pidfd)
        self._next: Daemon | None = None
        """A successor that was loaded while the daemon serves."""
        self._wanted = ""
        """Its options."""
        self._crashes = 0
        self._restarts = 0
        self._outcome = ""
        self._failures = 0

    def run(self) -> int:
        """Hold until the mount ends; returns the exit code."""
        try:
            while True:
                self._replace(has_left=self._attend())
        except LetGoError:
            return 0
        except GivenUpError as exc:
            self._complain("critical", f"the mount is given up, and every request ends in an error: {exc}")
            return 1
        finally:
            os.close(self._device)  # before anybody can see that we have ended
            self._forget_next()

    # While there is a daemon

    def _attend(self) -> bool:
        """Listen to the daemon until it has ended; returns whether it has left, with everything safe."""
        daemon, has_left = self._daemon, False
        watched = [daemon.line.fileno(), daemon.pidfd]
        while True:
            ready = ready_among(*watched)
            if daemon.line.fileno() not in ready:  # whatever it said was heard
                return has_left
            message, _ = receive(daemon.line)
            match message["word"]:
                case "end":
                    raise LetGoError
                case "config":
                    self._config = message["config"]
                case "restart":
                    self._load(message["config"])
                case "left":
                    has_left = True
                case "end of line":
                    watched = [daemon.pidfd]

    def _load(self, config: str) -> None:
        """Load a successor; tell the daemon to leave, or why it need not."""
        successor = self._start()
        why = self._loaded(successor, config)
        if why:
            successor.end()
        else:
            self._next, self._wanted = successor, config
        with suppress(OSError):  # that it has just died is seen next
            send(self._daemon.line, "refused" if why else "go", why=why)

    @staticmethod
    def _loaded(successor: Daemon, config: str) -> str:
        """Wait until a successor is loaded; returns why it is not."""
        if successor.is_loaded:
            return ""
        try:
            send(successor.line, "config", config=config)
        except OSError:
            return "it died at once; the log may say why"
        why = successor.expect("loaded", LOAD_SECONDS)
        successor.is_loaded = not why
        return why

    # While there is none

    def _replace(self, *, has_left: bool) -> None:
        """Have a successor serve.  Raises LetGoError, GivenUpError."""
        if has_left:
            self._restarts += 1
        else:
            self._crashes += 1
            self._forget_next()
        has_lived = has_left or time.monotonic() - self._daemon.ready_at >= LIVED_SECONDS
        self._failures = 0 if has_lived else self._failures + 1
        self._daemon.end()
        if not has_left and not self._is_gone():
            self._complain("error", f"the daemon died; crashes so far: {self._crashes}")
        why = f"{self._failures} daemons in a row died at once"
        while self._failures < len(PAUSES):
            if self._is_gone(PAUSES[self._failures]):
                raise LetGoError
            successor = self._next or self._start()
            config, self._next = self._wanted or self._config, None
            try:
                why = self._install(successor, config)
            except LetGoError:
                successor.end()
                raise
            if not why:
                self._daemon, self._config, self._wanted = successor, config, ""
                return
            self._complain("error", f"no daemon: {why}")
            successor.end()
            if self._wanted:  # the options from before follow at once
                self._wanted, self._outcome = "", f"failed: {why}; the options are what they were"
            else:
                self._failures += 1
        raise GivenUpError(why)

    def _forget_next(self) -> None:
        """Do without a successor that was loaded with other options: its daemon died before it could leave."""
        if self._next is not None:
            self._next.end()
            self._next, self._wanted = None, ""
            self._outcome = "failed: the daemon died meanwhile; the options are what they were"

    def _install(self, successor: Daemon, config: str) -> str:
        """Have a successor recover, then give it the device; returns why it does not serve.  Raises LetGoError."""
        try:
            if why := self._loaded(successor, config):
                return why
            outcome = "done" if self._wanted else self._outcome
            counts = {"crashes": self._crashes, "restarts": self._restarts}
            send(successor.line, "begin", [self._slate], holder=os.getpid(), restart=outcome, **counts)
            if why := successor.expect("prepared", PREPARE_SECONDS, self._device):
                return why
            os.close(self._slate)  # it has rows of all that was on it
            (self._slate,) = successor.given
            send(successor.line, "device", [self._device], init=self._init)
        except OSError:
            return "it died; the log may say why"
        why = successor.expect("ready", READY_SECONDS)
        successor.ready_at = time.monotonic()
        if why:
            self._crashes += 1
        else:
            self._outcome = outcome
        return why

    def _is_gone(self, seconds: float = 0) -> bool:
        """Tell whether the mount goes within a time."""
        return bool(ready_among(seconds=seconds, device=self._device))

    def _complain(self, level: str, text: str) -> None:
        """Write a line as the daemon's log has them; where the log's name has gone, to what it was when we began."""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} [{level:8}] holder: {text}\n".encode()
        try:
            fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(fd if os.fstat(fd).st_uid == os.geteuid() else 2, line)
            finally:
                os.close(fd)
        except OSError:
            with suppress(OSError):
                os.write(2, line)


def start(mountpoint: str, oom_score: str) -> Daemon:
    """Start a process that is going to be a daemon; ``mountpoint`` is there to be seen in the list of processes.

    :param oom_score: what it had before we were made to outlive it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            write_oom_score(oom_score)
            os.set_inheritable(theirs.fileno(), True)
            arguments = ["-P", "-m", "fusecache.daemon.successor", mountpoint, str(theirs.fileno())]
            os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - our own program
        finally:
            os._exit(127)
    theirs.close()
    return Daemon(ours, os.pidfd_open(child), child)


def write_oom_score(score: str) -> None:
    """Have the kernel prefer others, or not, when memory runs out; only root may ask for less than there was."""
    with suppress(OSError), open(_OOM_SCORE, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is large
        file.write(score)


def main() -> None:
    """Hold the mount that the daemon at the other end of the line tells of."""
    _, mountpoint, fd = sys.argv
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with open(_OOM_SCORE, encoding="ascii") as file:  # noqa: PTH123 - likewise
        oom_score = file.read().strip()
    write_oom_score(_NEVER)
    try:
        holder = Holder(socket.socket(fileno=int(fd)), lambda: start(mountpoint, oom_score))
    except LetGoError:
        sys.exit(0)
    sys.exit(holder.run())


if __name__ == "__main__":
    main()
