"""What is compared: fusecache, the least that pyfuse3 can do, and what else one might put in front of a slow disk.

A system is given the image, a directory of its own on the fast file system and the size of its cache, and exposes the
image as a file for as long as its context lasts.  None of them is given time to write back at the end: what was
measured is gone afterwards.  ``FUSECACHE_OPTIONS`` in the environment are given to ``fusecache mount`` as well.

fusecache itself may be several systems: with other policies (``fusecache:NAME``), or of another checkout (``old``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import ROOT, Cache, c_server, fusecache, python_server, run, server

BARE: Final = "bare"
C: Final = "c"
NO_GATE: Final = "no-gate"
FUSECACHE: Final = "fusecache"
NONE: Final = "none"
NBDKIT: Final = "nbdkit"
QCOW2: Final = "qcow2"
OLD: Final = "old"


@dataclass(frozen=True, slots=True)
class Exposed:
    """An image that can be used.

    :ivar image: the file.
    :ivar pids: the processes that serve it.
    :ivar cache: fusecache, if that is what it is.
    """

    image: Path
    pids: Sequence[int] = ()
    cache: Cache | None = None


Opener = Callable[[Path, Path, int, int], AbstractContextManager[Exposed]]
"""Given the origin, a directory that is there and empty, the bytes of the cache, and of its blocks if it has any."""


@dataclass(frozen=True, slots=True)
class System:
    """Something that exposes an image.

    :ivar is_cache: whether it keeps data of a slow origin on the fast file system.
    :ivar programs: what has to be installed.
    :ivar options: for ``fusecache mount``, if that is what it is.
    """

    name: str
    what: str
    open: Opener
    is_cache: bool
    programs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        """Whether it can be measured here."""
        return all(map(shutil.which, self.programs))


@contextmanager
def _none(origin: Path, _directory: Path, _cache: int, _block: int) -> Iterator[Exposed]:
    yield Exposed(origin)


@contextmanager
def _bare(origin: Path, directory: Path, _cache: int, _block: int) -> Iterator[Exposed]:
    with python_server("bare_server", origin, directory / "mnt") as pid:
        yield Exposed(directory / "mnt" / "image", (pid,))


@contextmanager
def _c(origin: Path, directory: Path, _cache: int, _block: int) -> Iterator[Exposed]:
    with c_server(origin, directory / "mnt") as pid:
        yield Exposed(directory / "mnt" / "image", (pid,))


def _fusecache(*options: str, checkout: Path = ROOT) -> Opener:
    @contextmanager
    def opened(origin: Path, directory: Path, cache: int, block: int) -> Iterator[Exposed]:
        words = [*os.environ.get("FUSECACHE_OPTIONS", "").split(), *options]
        limits = ("--cache-size", str(cache), "--block-size", str(block))
        with fusecache(origin, directory / "fusecache", *limits, *words, checkout=checkout) as mount:
            yield Exposed(mount.image, (mount.pid,), mount)

    return opened


@contextmanager
def _storage_daemon(directory: Path, node: str, *block_devices: str) -> Iterator[Exposed]:
    image = directory / "image"
    image.touch()
    devices = [word for device in block_devices for word in ("--blockdev", device)]
    export = f"type=fuse,id=export,node-name={node},mountpoint={image},writable=on"
    with server("qemu-storage-daemon", *devices, "--export", export, at=image) as pid:
        yield Exposed(image, (pid,))


# Without discard=unmap, a hole punched through these exports would leave the old data where they are.


def _qemu(origin: Path, directory: Path, _cache: int, _block: int) -> AbstractContextManager[Exposed]:
    file = f"driver=file,node-name=file,filename={origin},discard=unmap"
    return _storage_daemon(directory, "raw", file, "driver=raw,node-name=raw,file=file,discard=unmap")


def _qcow2(origin: Path, directory: Path, _cache: int, _block: int) -> AbstractContextManager[Exposed]:
    overlay = directory / "overlay"
    run("qemu-img", "create", "-q", "-f", "qcow2", overlay, str(origin.stat().st_size))
    return _storage_daemon(
        directory,
        "top",
        f"driver=file,node-name=slow-file,filename={origin},read-only=on",
        "driver=raw,node-name=slow,file=slow-file,read-only=on",
        f"driver=file,node-name=overlay-file,filename={overlay},discard=unmap",
        "driver=qcow2,node-name=overlay,file=overlay-file,backing=slow,discard=unmap",
        "driver=copy-on-read,node-name=top,file=overlay,discard=unmap",
    )


@contextmanager
def _nbdkit(origin: Path, directory: Path, cache: int, block: int) -> Iterator[Exposed]:
    image = directory / "image"
    image.touch()
    limits = (f"cache-max-size={cache}", f"cache-min-block-size={block}")
    filters = ("--filter=cache", "file", origin, "cache=writeback", "cache-on-read=true", *limits)
    # The path of a socket must be short.  nbdkit keeps its cache in an unlinked file in TMPDIR.
    with tempfile.TemporaryDirectory(prefix="fusecache-nbd-", dir="/tmp") as short:
        socket = Path(short, "socket")
        with (
            server("nbdkit", "-f", "-t", "16", "-U", socket, *filters, at=socket, TMPDIR=str(directory)) as pid,
            server("nbdfuse", "-C", "4", image, f"nbd+unix:///?socket={socket}", at=image) as bridge,
        ):
            yield Exposed(image, (pid, bridge))


@contextmanager
def _rclone(origin: Path, directory: Path, cache: int, _block: int) -> Iterator[Exposed]:
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    limits = ("--vfs-cache-max-size", f"{cache}B", "--vfs-cache-poll-interval", "1s", "--vfs-write-back", "1s")
    # Without the rest, each random read would start a read-ahead of 16 MiB, and the first open read the whole image.
    chunks = ("--buffer-size", "0", "--vfs-read-chunk-size", "128k", "--vfs-read-chunk-size-limit", "128k")
    checks = ("--dir-cache-time", "1h", "--attr-timeout", "1h", "--no-checksum", "--vfs-fast-fingerprint")
    files = ("--config", "/dev/null", "--cache-dir", directory / "cache", "--vfs-cache-mode", "full")
    command = ("rclone", "mount", origin.parent, mountpoint, *files, *limits, *chunks, *checks)
    with server(*command, at=mountpoint) as pid:
        yield Exposed(mountpoint / origin.name, (pid,))


SYSTEMS: Final[dict[str, System]] = {
    system.name: system
    for system in (
        System(NONE, "the origin itself", _none, is_cache=False),
        System(BARE, "stock pyfuse3 and one system call a request", _bare, is_cache=False),
        System(C, "libfuse and one system call a request, in C, one thread", _c, False, ("gcc", "pkg-config")),
        System(FUSECACHE, "writeback, adaptive", _fusecache(), is_cache=True),
        System(
            NO_GATE, "likewise, and pyfuse3 reads the requests", _fusecache("--no-gate"), True, options=("--no-gate",)
        ),
        System("qemu", "FUSE export of qemu-storage-daemon, in C", _qemu, False, ("qemu-storage-daemon",)),
        System(NBDKIT, "nbdkit's cache filter and nbdfuse, in C", _nbdkit, True, ("nbdkit", "nbdfuse")),
        System(QCOW2, "likewise qemu's, copy on read", _qcow2, True, ("qemu-storage-daemon", "qemu-img")),
        System("rclone", "rclone mount with a cache of files", _rclone, True, ("rclone",)),
    )
}
"""In the order of the tables' columns."""


def use_policies(policies: Sequence[str]) -> tuple[str, ...]:
    """Have fusecache run with the first of these, and add a system for each of the others; return their names.

    :param policies: as ``fusecache mount --policy`` takes them.
    """
    names = [FUSECACHE, *(f"{FUSECACHE}:{policy}" for policy in policies[1:])]
    for name, policy in zip(names, policies, strict=False):
        words = ("--policy", policy)
        SYSTEMS[name] = System(name, f"writeback, {policy}", _fusecache(*words), is_cache=True, options=words)
    return tuple(names[1:])


def use_checkout(checkout: Path) -> None:
    """Add the fusecache of another checkout as a system.

    It needs no environment of its own: it runs with ours, and finds its own modules first.

    :param checkout: an absolute path.
    """
    SYSTEMS[OLD] = System(OLD, f"fusecache of {checkout}", _fusecache(checkout=checkout), is_cache=True)
