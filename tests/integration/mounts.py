"""Real mounts for tests: each thing made here knows how to go away again, whatever state it is in."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMMAND_SECONDS = 60
"""No command under test may take longer; a hang is a failure, and is told as one."""


def run(*command: str | Path, timeout: float = COMMAND_SECONDS, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command; a failure shows what it printed."""
    result = subprocess.run(  # noqa: PLW1510 - checked below, with its output
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
    if check and result.returncode:
        words = " ".join(map(str, command))
        msg = f"{words}: exit {result.returncode}\n{result.stdout}{result.stderr}"
        raise AssertionError(msg)
    return result


def fusecache(*arguments: str | Path, timeout: float = COMMAND_SECONDS, check: bool = True) -> str:
    """Run ``fusecache``, as installed beside this Python, and return what it printed on stdout."""
    return run(program(), *arguments, timeout=timeout, check=check).stdout


def program() -> str:
    """Find the installed ``fusecache``."""
    found = shutil.which("fusecache", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "fusecache is not installed: scripts/setup does that"
    return found


def wait_until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    """Poll until ``condition()`` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout} s still not: {what}"
        time.sleep(0.05)


PAGE_CACHE = os.environ.get("FUSECACHE_PAGE_CACHE", "stores")
"""What the page cache is to hold where a test does not say."""

POLICY = os.environ.get("FUSECACHE_POLICY", "smq")
"""The policy where a test does not say.  Tests that count know what smq does; ``test_default_policy.py`` has what
a mount takes by itself."""

GATE = {"yes": (), "no": ("--no-gate",)}[os.environ.get("FUSECACHE_GATE", "yes")]
"""Options that say who reads the kernel's requests."""

MAPS_EVERYWHERE = not GATE and tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) >= (6, 6)
"""Whether the image can be mapped without ``--page-cache image`` as well."""

NOTHING_UNASKED = ("--dirty-age", "0", "--dirty-limit", "100%")
"""Options with which only the policy, and who asks for it, have anything written back, but for an idle origin."""


@dataclass
class Mount:
    """An origin, its cache and metadata, and where they are mounted (or were)."""

    origin: Path
    cache: Path
    metadata: Path
    mountpoint: Path
    options: list[str] = field(default_factory=list)
    """For ``fusecache mount``, on top of the four paths; :meth:`remount` uses them again."""
    command: list[str | Path] = field(default_factory=list)
    """What to mount with in the place of the installed ``fusecache``."""

    @property
    def image(self) -> Path:
        """The one file of the mount."""
        return self.mountpoint / "image"

    def mount(self, *options: str) -> None:
        """Mount; ``options`` hold for this time only."""
        run(*self.mount_command(*options))

    def mount_command(self, *options: str) -> list[str | Path]:
        """Spell the command that mounts."""
        files: list[str | Path] = ["--cache", self.cache, "--metadata", self.metadata]
        unless_told = ["--page-cache", PAGE_CACHE, "--policy", POLICY]
        command = self.command or [program()]
        return [*command, "mount", self.origin, self.mountpoint, *files, *unless_told, *GATE, *self.options, *options]

    def unmount(self, timeout: float = COMMAND_SECONDS) -> None:
        """Unmount the proper way: when this returns, everything is safe."""
        fusecache("unmount", self.mountpoint, timeout=timeout)

    def remount(self, *options: str) -> None:
        """Unmount the proper way and mount again."""
        self.unmount()
        self.mount(*options)

    def kill9(self) -> None:
        """Let the server die on the spot, and nobody go on; the mountpoint is free then, and :meth:`mount` recovers."""
        self.end_survival()
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _is_alive(pid), f"process {pid} is gone")
        run("fusermount3", "-uz", self.mountpoint)

    def end_survival(self) -> None:
        """Kill -9 whoever would start another server."""
        if holder := self.count("holder"):
            os.kill(holder, signal.SIGKILL)
            wait_until(lambda: not self.count("holder"), f"the server misses its holder {holder}")

    def crash(self) -> None:
        """Kill -9 whatever serves, mounts or unmounts this, in whatever state; the mountpoint is free afterwards."""
        killprocesses_of(self.mountpoint)
        while is_mounted(self.mountpoint):
            run("fusermount3", "-uz", self.mountpoint)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.count("pid")

    def status(self) -> dict[str, int | float | str | bool]:
        """Ask the running mount for its figures."""
        figures = json.loads(self.getxattr("stats"))
        assert isinstance(figures, dict)
        return figures

    def count(self, name: str) -> int:
        """Ask for one figure that is a whole number."""
        value = self.status()[name]
        assert isinstance(value, int)
        return value

    def getxattr(self, name: str) -> str:
        """Read ``user.fusecache.NAME``."""
        return os.getxattr(self.image, f"user.fusecache.{name}").decode()

    def setxattr(self, name: str, value: str) -> None:
        """Set ``user.fusecache.NAME``, and wait until a change that this began has ended."""
        self.begin(name, value)
        kind = "invalidate" if "invalidate" in value else name
        if kind in {"mode", "policy", "invalidate"}:
            wait_until(lambda: kind not in self.getxattr("job"), f"{name} {value} is done", COMMAND_SECONDS)
            assert self.status()[f"outcome.{kind}"] == "done"

    def begin(self, name: str, value: str) -> None:
        """Set ``user.fusecache.NAME``, and wait for nothing."""
        os.setxattr(self.image, f"user.fusecache.{name}", value.encode())

    def message(self, *words: str) -> None:
        """Send one of dm-cache's messages."""
        self.setxattr("message", " ".join(words))

    def read(self, offset: int, length: int) -> bytes:
        """Read from the image."""
        with self._opened(os.O_RDONLY) as fd:
            return os.pread(fd, length, offset)

    def write(self, offset: int, data: bytes, *, sync: bool = False) -> None:
        """Write to the image, all of it."""
        with self._opened(os.O_WRONLY) as fd:
            assert os.pwrite(fd, data, offset) == len(data)
            if sync:
                os.fsync(fd)

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        fd = os.open(self.image, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Leave nothing behind: no mount, no process.  For clean-up; data may be lost."""
        discard_mount(self.mountpoint)


def discard_mount(mountpoint: Path) -> None:
    """Unmount lazily and kill the processes that serve or use this mountpoint."""
    while is_mounted(mountpoint):
        run("fusermount3", "-uz", mountpoint)
    killprocesses_of(mountpoint)


def killprocesses_of(mountpoint: Path, timeout: float = 30) -> None:
    """Kill -9 the processes that serve or use this mountpoint, and wait until they are gone."""
    deadline = time.monotonic() + timeout
    while pids := [pid for pid in processes_of(mountpoint) if _is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes {pids} do not die"
        for pid in pids:  # one of them may have forked since
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def is_mounted(path: Path) -> bool:
    """Tell without touching the file system, which may be dead."""
    return any(mountpoint == path for mountpoint in fuse_mountpoints())


def fuse_mountpoints() -> list[Path]:
    """List where FUSE file systems are mounted."""
    fields = (line.split(" ") for line in _mounts().split("\n") if line)
    return [Path(words[1].replace("\\040", " ")) for words in fields if words[2].startswith("fuse")]


def _mounts() -> str:
    return Path("/proc/self/mounts").read_text(errors="surrogateescape")


def processes_of(mountpoint: Path) -> list[int]:
    """Find processes that name it in their command lines."""
    pids = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit() and int(directory.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (directory / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(mountpoint) in words:
                    pids.append(int(directory.name))
    return pids


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it may go while it is looked at
        return False
    return state != "Z"


class LoopDevices:
    """Loop devices, and the file systems mounted from them."""

    def __init__(self) -> None:
        self._devices: list[Path] = []
        self._mounted: dict[Path, Path] = {}
        """What is mounted where: the device by the mountpoint."""

    def attach(self, file: Path, *, direct_io: bool = True, timeout: float = 60) -> Path:
        """Attach a file; waits for a free device, as the machine has few (kernel default: 8)."""
        option = f"--direct-io={'on' if direct_io else 'off'}"
        deadline = time.monotonic() + timeout
        while (result := run("losetup", "--find", "--show", option, file, check=False)).returncode:
            assert time.monotonic() < deadline, f"no loop device for {file}: {result.stderr.strip()}"
            time.sleep(0.5)
        device = Path(result.stdout.strip())
        self.adopt(device)
        return device

    def adopt(self, device: Path) -> None:
        """Take charge of a device that somebody else attached."""
        self._devices.append(device)

    def mount(self, device: Path, mountpoint: Path, *options: str) -> None:
        """Mount the file system on a device."""
        mountpoint.mkdir(exist_ok=True)
        run("mount", *options, device, mountpoint)
        self._mounted[mountpoint] = device

    def is_mounted(self, mountpoint: Path) -> bool:
        """Tell whether :meth:`mount` mounted something there."""
        return mountpoint in self._mounted

    def unmount(self, mountpoint: Path) -> None:
        """Unmount what :meth:`mount` mounted, for good.

        Whoever has made a mount namespace meanwhile has the file system in it; until that ends, it has not written all.
        """
        run("umount", mountpoint)
        known = Path("/sys/fs/ext4", self._mounted.pop(mountpoint).name)
        wait_until(lambda: not known.exists(), f"{mountpoint} is unmounted in all mount namespaces", COMMAND_SECONDS)

    def detach(self, device: Path) -> None:
        """Detach, which flushes."""
        run("losetup", "--detach", device)
        self.wait_until_free(device)

    def wait_until_free(self, device: Path) -> None:
        """Wait until a device is detached, whoever does that."""
        wait_until(lambda: not _backing_file(device), f"{device} is free")
        self._devices.remove(device)

    def discard(self) -> None:
        """Leave nothing behind."""
        for mountpoint in reversed(self._mounted):
            run("umount", "--lazy", mountpoint, check=False)
        for device in self._devices:
            run("losetup", "--detach", device, check=False)


def sweep_aborted_runs(runs: Path) -> None:
    """Remove mounts below ``runs`` (the home of all runs' temporary directories) whose test run is no longer alive.

    A run, and each of its workers, leaves its process number in the file ``owner`` of its temporary directory; without
    one, nothing is touched.
    """
    for mountpoint in fuse_mountpoints():
        if not mountpoint.is_relative_to(runs):
            continue
        below = [directory for directory in mountpoint.parents if directory.is_relative_to(runs)]
        owners = [directory / "owner" for directory in below if (directory / "owner").exists()]
        if owners and not _is_alive(int(owners[-1].read_text())):
            _detach_loops_below(mountpoint)
            discard_mount(mountpoint)


def _backing_file(device: Path | str) -> str:
    """Return what a loop device is attached to, or nothing; losetup lists free devices too."""
    return run("losetup", "--list", "--noheadings", "--output", "BACK-FILE", device, check=False).stdout.strip()


def _detach_loops_below(mountpoint: Path) -> None:
    result = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE", check=False)
    for line in result.stdout.splitlines():
        device, _, file = line.partition(" ")
        if Path(file.strip()).is_relative_to(mountpoint):
            run("umount", "--lazy", "--all-targets", device, check=False)
            run("losetup", "--detach", device, check=False)
