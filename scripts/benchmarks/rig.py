"""What a measurement stands on: a slow disk, fusecache on top, and a file system on the image, all gone afterwards.

Each part is a context manager that leaves nothing mounted or running, whether its body ends well, fails or is
interrupted.  Only what was started here is ever stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
"""Of the project."""
COMMAND_SECONDS: Final = 170
"""No command may take longer unless it is known to: a measurement that hangs is worth nothing."""
START_SECONDS: Final = 20
"""No server may take longer to start."""


class RigError(Exception):
    """Some part could not be set up or taken down; one line that says which and why."""


def run(*command: str | Path, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
    """Run a command and return its output; raises RigError with the last line of what it said, or after ``seconds``."""
    words = [str(word) for word in command]
    try:
        result = subprocess.run(
            words, check=False, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        msg = f"{' '.join(words)}: not done after {seconds:.0f} s"
        raise RigError(msg) from None
    if check and result.returncode:
        message = (result.stderr or result.stdout).strip().splitlines()
        msg = f"{' '.join(words)}: {message[-1] if message else f'exit {result.returncode}'}"
        raise RigError(msg)
    return result.stdout


@dataclass(frozen=True, slots=True)
class SlowDisk:
    """A simulated disk that runs."""

    path: Path

    def operations(self) -> dict[str, int]:
        """Count what has reached the disk so far: reads, writes, flushes and their bytes."""
        counters: dict[str, int] = json.loads(os.getxattr(self.path, "user.stats"))
        return counters


@contextmanager
def slow_disk(profile: str, backing: Path, mountpoint: Path) -> Iterator[SlowDisk]:
    """Serve ``backing`` as a disk of that profile (see slow_disk.py)."""
    with python_server("slow_disk", profile, backing, mountpoint):
        yield SlowDisk(mountpoint / "disk")


@contextmanager
def python_server(program: str, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of this package that mounts at its last argument, made here, and says a line when it is ready."""
    mountpoint = Path(arguments[-1])
    mountpoint.mkdir()
    words = [word.absolute() if isinstance(word, Path) else word for word in arguments]
    command = [sys.executable, "-m", f"{__package__}.{program}", *words]
    # In a session of its own: Ctrl-C must not take the disk away before those who use it are gone.
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            if not server.stdout or not server.stdout.readline():
                msg = f"{program} does not start"
                raise RigError(msg)
            yield server
        finally:
            _end(server)
            _unmount_lazily(mountpoint)


@contextmanager
def server(*command: str | Path, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run any other server for as long as the body lasts; what it says goes to the end of ``log``.

    :param variables: added to the environment.
    """
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [str(word) for word in command],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


@contextmanager
def mount_of(process: subprocess.Popen[bytes], mountpoint: Path, log: Path) -> Iterator[None]:
    """Wait until a server has mounted; unmount at the end.  Raises RigError with the last line of its log."""
    try:
        wait_until(lambda: _is_mounted(mountpoint), process, log)
        yield
    finally:
        _unmount_lazily(mountpoint)


def wait_until(done: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for what a server does soon after its start; raises RigError with the last line of its log."""
    deadline = time.monotonic() + START_SECONDS
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines()
            msg = f"it does not start: {lines[-1] if lines else 'it says nothing'}"
            raise RigError(msg)
        time.sleep(0.02)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


class Cache:
    """A running fusecache."""

    def __init__(self, mountpoint: Path, cache: Path) -> None:
        self.mountpoint = mountpoint
        self.image = mountpoint / "image"
        self.pid = self.figure("pid")
        self._cache = cache

    def figure(self, name: str) -> int:
        """Read one figure of ``fusecache status --json``."""
        return int(json.loads(run("fusecache", "status", self.mountpoint, "--json"))[name])

    def hits_and_accesses(self) -> tuple[int, int]:
        """Count the hits, and the hits and misses together, of reads and writes."""
        figures = json.loads(run("fusecache", "status", self.mountpoint, "--json"))
        hits = figures["read_hits"] + figures["write_hits"]
        return hits, hits + figures["read_misses"] + figures["write_misses"]

    def forget_memory(self) -> None:
        """Have the kernel drop the cache file's pages, so that the next reads come from the file, not from memory."""
        fd = os.open(self._cache, os.O_RDWR)
        try:
            os.fdatasync(fd)  # dirty pages stay
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


@contextmanager
def fusecache(origin: Path, directory: Path, *options: str) -> Iterator[Cache]:
    """Mount ``origin`` below ``directory``; the body may unmount by itself (all good), else it is torn down."""
    mountpoint, cache_file = directory / "mnt", directory / "cache"
    mountpoint.mkdir(parents=True)
    cache = None
    try:
        files = ("--cache", cache_file, "--metadata", directory / "metadata")
        run("fusecache", "mount", origin, mountpoint, *files, *options)
        cache = Cache(mountpoint, cache_file)
        yield cache
    finally:
        if _unmount_lazily(mountpoint) and cache is not None:
            _kill(cache.pid)


def _kill(pid: int) -> None:
    """Give a server whose mountpoint is gone the time to end by itself."""
    with contextlib.suppress(ProcessLookupError):
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)


@contextmanager
def file_system(image: Path, mountpoint: Path) -> Iterator[Path]:
    """Mount the ext4 in ``image`` through a loop device; needs root."""
    mountpoint.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", "--direct-io=on", image).strip()
    try:
        run("mount", "-t", "ext4", "-o", "noatime", device, mountpoint)
        try:
            yield mountpoint
        finally:
            run("umount", mountpoint)
    finally:
        run("losetup", "--detach", device)


def _unmount_lazily(mountpoint: Path) -> bool:
    """Unmount if it is mounted, whatever its server's state; tell whether it was."""
    mounted = _is_mounted(mountpoint)
    if mounted:
        run("fusermount3", "-u", "-z", mountpoint)
    return mounted


def _is_mounted(mountpoint: Path) -> bool:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split(" ")[1] == str(mountpoint) for line in mounts)
