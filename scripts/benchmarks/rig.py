"""What a measurement stands on: commands, servers, and fusecache, all gone afterwards.

Each part is a context manager that leaves nothing mounted or running, whether its body ends well, fails or is
interrupted.  Only what was started here is ever stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fusecache.paths import own_directory

ROOT: Final = Path(__file__).parents[2]
"""Of the project."""
MIB: Final = 2**20
COMMAND_SECONDS: Final = 170
"""No command may take longer unless it is known to: a measurement that hangs is worth nothing."""
PATIENCE_SECONDS: Final = 20
"""No server may take longer to start or to end."""


class RigError(Exception):
    """Some part could not be set up or taken down; one line that says which and why."""


def run(*command: str | Path, seconds: float = COMMAND_SECONDS, cwd: Path | None = None, **variables: str) -> str:
    """Run a command and return its output; raises RigError with the last line of what it said, or after ``seconds``.

    :param variables: added to the environment.
    """
    words = [str(word) for word in command]
    try:
        result = subprocess.run(
            words,
            env=os.environ | variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired as exc:
        raise _failure(words, f"not done after {seconds:.0f} s") from exc
    if result.returncode:
        raise _failure(words, result.stderr or result.stdout)
    return result.stdout


def _failure(words: list[str], said: str) -> RigError:
    last = (said.strip().splitlines() or ["it says nothing"])[-1]
    return RigError(f"{' '.join(words[:3])}: {last}")


@contextmanager
def server(*command: str | Path, at: Path, **variables: str) -> Iterator[int]:
    """Run a server for as long as the body lasts, which begins once something is mounted, or a socket is, at ``at``.

    :param variables: added to the environment.
    """
    log = at.with_name(f"{at.name}.log")
    words = [str(word) for word in command]
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C must not take the server away before those who use it are gone.
        process = subprocess.Popen(
            words,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until(lambda: is_mounted(at) or at.is_socket() or process.poll() is not None)
        if process.poll() is not None:
            raise _failure(words, log.read_text(errors="replace"))
        yield process.pid
    finally:
        unmount_lazily(at)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
        process.kill()
        process.wait()


def _wait_until(done: Callable[[], bool]) -> None:
    """Wait for what a server does soon; raises RigError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        if time.monotonic() > deadline:
            msg = f"a server takes more than {PATIENCE_SECONDS} s"
            raise RigError(msg)
        time.sleep(0.02)


@contextmanager
def python_server(program: str, *arguments: str | Path) -> Iterator[int]:
    """Run a module of this package that mounts at its last argument, a directory that is made here."""
    mountpoint = Path(arguments[-1])
    mountpoint.mkdir()
    command = (sys.executable, "-P", "-m", f"{__package__}.{program}", *arguments)
    with server(*command, at=mountpoint, PYTHONPATH=str(ROOT)) as pid:
        yield pid


@contextmanager
def c_server(*arguments: str | Path) -> Iterator[int]:
    """Compile bare_server.c, and run it; it mounts at its last argument, a directory that is made here."""
    mountpoint = Path(arguments[-1])
    mountpoint.mkdir()
    program = mountpoint.with_name("bare_server_c")
    libfuse = run("pkg-config", "--cflags", "--libs", "fuse3").split()
    run("gcc", "-O2", "-o", program, Path(__file__).with_name("bare_server.c"), *libfuse)
    with server(program, *arguments, at=mountpoint) as pid:
        yield pid


@contextmanager
def slow_disk(profile: str, backing: Path, mountpoint: Path) -> Iterator[Path]:
    """Serve ``backing`` as a disk of that profile (see slow_disk.py)."""
    with python_server("slow_disk", profile, backing, mountpoint):
        yield mountpoint / "disk"


def operations(disk: Path) -> dict[str, int]:
    """Count what has reached a slow disk so far: reads, writes, flushes and their bytes."""
    counters: dict[str, int] = json.loads(os.getxattr(disk, "user.stats"))
    return counters


@dataclass(frozen=True, slots=True)
class Cache:
    """A running fusecache.

    :ivar mount_seconds: how long the mount took.
    """

    mountpoint: Path
    file: Path
    mount_seconds: float = 0

    @property
    def image(self) -> Path:
        """The cached image."""
        return self.mountpoint / "image"

    def status(self) -> dict[str, Any]:
        """Read what ``fusecache status --json`` shows."""
        status: dict[str, Any] = json.loads(os.getxattr(self.image, "user.fusecache.stats"))
        return status

    @property
    def pid(self) -> int:
        """The server's."""
        return int(self.status()["pid"])


@contextmanager
def fusecache(
    origin: Path, directory: Path, *options: str, cache_file: Path | None = None, checkout: Path = ROOT
) -> Iterator[Cache]:
    """Mount ``origin`` below ``directory``; the body may unmount by itself (all good), else it is torn down.

    :param checkout: whose fusecache it is: what is imported is found there first.
    """
    mountpoint, file = directory / "mnt", cache_file or directory / "cache"
    mountpoint.mkdir(parents=True, exist_ok=True)
    process = Path("/proc/none")
    try:
        began = time.perf_counter()
        files = ("--cache", file, "--metadata", directory / "metadata")
        run("fusecache", "mount", origin, mountpoint, *files, *options, PYTHONPATH=str(checkout))
        cache = Cache(mountpoint, file, time.perf_counter() - began)
        process = Path(f"/proc/{cache.pid}")
        yield cache
    finally:
        if unmount_lazily(mountpoint):
            try:
                _wait_until(lambda: not process.exists())
            except RigError:
                os.kill(int(process.name), signal.SIGKILL)
                raise
        _forget_claims(directory)


def _forget_claims(directory: Path) -> None:
    """Remove the claims of a cache that is going to be removed, whatever is dirty in it."""
    kept = own_directory(environ=os.environ, is_root=os.geteuid() == 0) / "claims"
    for claim in kept.glob("*.claim"):
        with suppress(OSError):
            if os.fsencode(directory) in claim.read_bytes():
                claim.unlink()


def unmount_lazily(mountpoint: Path) -> bool:
    """Unmount if it is mounted, whatever its server's state; tell whether it was."""
    mounted = is_mounted(mountpoint)
    if mounted:
        run("fusermount3", "-u", "-z", mountpoint)
    return mounted


def is_mounted(mountpoint: Path) -> bool:
    """Tell whether something is mounted there."""
    return mountpoint in mounts()


def mounts() -> list[Path]:
    """List where something is mounted."""
    lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    return [Path(line.split(" ")[1]) for line in lines]


def make_image(path: Path, size: int) -> None:
    """Write random bytes into a file whose space is taken first, as that of a cache file is.

    Where the space of a file is taken by writing it in one go, the kernel may keep it in larger pieces of memory, and
    large reads of it are up to a quarter faster: whoever serves the image itself would seem so.
    """
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
