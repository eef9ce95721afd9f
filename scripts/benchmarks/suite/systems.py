"""What is compared: fusecache, the least that pyfuse3 can do, and what else one might put in front of a slow disk.

A system is given the image, a directory of its own on the fast file system and the size of its cache, and exposes the
image as a file for as long as its context lasts.  None of them is given time to write back at the end: what was
measured is gone afterwards.  ``FUSECACHE_OPTIONS`` in the environment are given to ``fusecache mount`` as well.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.benchmarks.rig import fusecache, mount_of, python_server, run, server, wait_until

BARE: Final = "bare"
FUSECACHE: Final = "fusecache"
NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Exposed:
    """An image that can be used.

    :ivar image: the file.
    :ivar pids: the processes that serve it.
    :ivar cached_bytes: tells how much is in the cache, where that can be asked.
    """

    image: Path
    pids: Sequence[int] = ()
    cached_bytes: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a cache, and of its blocks where that can be chosen."""

    cache: int
    block: int


Opener = Callable[[Path, Path, Sizes], AbstractContextManager[Exposed]]
"""Given the origin, a directory that is there and empty, and the sizes of the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Something that exposes an image.

    :ivar is_cache: whether it keeps data of a slow origin on the fast file system.
    :ivar programs: what has to be installed.
    """

    name: str
    what: str
    open: Opener
    is_cache: bool = True
    programs: tuple[str, ...] = field(default=())

    @property
    def is_installed(self) -> bool:
        """Whether it can be measured here."""
        return all(shutil.which(program) for program in self.programs)


@contextmanager
def _none(origin: Path, _directory: Path, _sizes: Sizes) -> Iterator[Exposed]:
    yield Exposed(origin)


@contextmanager
def _bare(origin: Path, directory: Path, _sizes: Sizes) -> Iterator[Exposed]:
    with python_server("bare_server", origin, directory / "mnt") as process:
        yield Exposed(directory / "mnt" / "image", (process.pid,))


@contextmanager
def _fusecache(origin: Path, directory: Path, sizes: Sizes) -> Iterator[Exposed]:
    options = (
        "--cache-size",
        f"{sizes.cache}",
        "--block-size",
        f"{sizes.block}",
        *os.environ.get("FUSECACHE_OPTIONS", "").split(),
    )
    with fusecache(origin, directory / "fusecache", *options) as cache:

        def cached_bytes() -> int:
            status = json.loads(run("fusecache", "status", cache.mountpoint, "--json"))
            return int(status["used_blocks"]) * int(status["block_bytes"])

        yield Exposed(cache.image, (cache.pid,), cached_bytes)


@contextmanager
def _storage_daemon(directory: Path, node: str, *block_devices: str) -> Iterator[Exposed]:
    image, log = directory / "image", directory / "log"
    image.touch()
    devices = [word for device in block_devices for word in ("--blockdev", device)]
    export = f"type=fuse,id=export,node-name={node},mountpoint={image},writable=on"
    with ExitStack() as stack:
        process = stack.enter_context(server("qemu-storage-daemon", *devices, "--export", export, log=log))
        stack.enter_context(mount_of(process, image, log))
        yield Exposed(image, (process.pid,))


# Without discard=unmap, a hole punched through these exports would leave the old data where they are.


@contextmanager
def _qemu(origin: Path, directory: Path, _sizes: Sizes) -> Iterator[Exposed]:
    file = f"driver=file,node-name=file,filename={origin},discard=unmap"
    with _storage_daemon(directory, "raw", file, "driver=raw,node-name=raw,file=file,discard=unmap") as exposed:
        yield exposed


@contextmanager
def _qcow2(origin: Path, directory: Path, _sizes: Sizes) -> Iterator[Exposed]:
    overlay = directory / "overlay"
    run("qemu-img", "create", "-q", "-f", "qcow2", overlay, str(origin.stat().st_size))
    with _storage_daemon(
        directory,
        "top",
        f"driver=file,node-name=slow-file,filename={origin},read-only=on",
        "driver=raw,node-name=slow,file=slow-file,read-only=on",
        f"driver=file,node-name=overlay-file,filename={overlay},discard=unmap",
        "driver=qcow2,node-name=overlay,file=overlay-file,backing=slow,discard=unmap",
        "driver=copy-on-read,node-name=top,file=overlay,discard=unmap",
    ) as exposed:
        yield exposed


@contextmanager
def _nbdkit(origin: Path, directory: Path, sizes: Sizes) -> Iterator[Exposed]:
    image, log = directory / "image", directory / "log"
    image.touch()
    limit = f"cache-max-size={sizes.cache}"
    cache = ("--filter=cache", "file", origin, "cache=writeback", limit, "cache-on-read=true")
    with ExitStack() as stack:
        # The path of a socket must be short.
        socket = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fusecache-nbd-", dir="/tmp"))) / "socket"
        command = ("nbdkit", "-f", "-t", "16", "-U", socket, *cache, f"cache-min-block-size={sizes.block}")
        # nbdkit keeps its cache in an unlinked file in TMPDIR.
        process = stack.enter_context(server(*command, log=log, TMPDIR=str(directory)))
        wait_until(socket.exists, process, log)
        bridge = stack.enter_context(server("nbdfuse", "-C", "4", image, f"nbd+unix:///?socket={socket}", log=log))
        stack.enter_context(mount_of(bridge, image, log))
        yield Exposed(image, (process.pid, bridge.pid))


@contextmanager
def _rclone(origin: Path, directory: Path, sizes: Sizes) -> Iterator[Exposed]:
    mountpoint, log = directory / "mnt", directory / "log"
    mountpoint.mkdir()
    limits = ("--vfs-cache-max-size", f"{sizes.cache}B", "--vfs-cache-poll-interval", "1s", "--vfs-write-back", "1s")
    # Without the rest, each random read would start a read-ahead of 16 MiB, and the first open read the whole image.
    chunks = ("--buffer-size", "0", "--vfs-read-chunk-size", "128k", "--vfs-read-chunk-size-limit", "128k")
    checks = ("--dir-cache-time", "1h", "--attr-timeout", "1h", "--no-checksum", "--vfs-fast-fingerprint")
    files = ("--config", "/dev/null", "--cache-dir", directory / "cache", "--vfs-cache-mode", "full")
    with ExitStack() as stack:
        command = ("rclone", "mount", origin.parent, mountpoint, *files, *limits, *chunks, *checks)
        process = stack.enter_context(server(*command, log=log))
        stack.enter_context(mount_of(process, mountpoint, log))
        yield Exposed(mountpoint / origin.name, (process.pid,))


SYSTEMS: Final = {
    system.name: system
    for system in (
        System(name=NONE, what="the origin itself", open=_none, is_cache=False),
        System(name=BARE, what="stock pyfuse3 and one system call a request", open=_bare, is_cache=False),
        System(name=FUSECACHE, what="writeback, smq", open=_fusecache),
        System(
            name="qemu",
            what="FUSE export of qemu-storage-daemon, in C",
            open=_qemu,
            is_cache=False,
            programs=("qemu-storage-daemon",),
        ),
        System(
            name="nbdkit", what="nbdkit's cache filter and nbdfuse, in C", open=_nbdkit, programs=("nbdkit", "nbdfuse")
        ),
        System(
            name="qcow2",
            what="qemu-storage-daemon, copy on read to an overlay that only grows",
            open=_qcow2,
            programs=("qemu-storage-daemon", "qemu-img"),
        ),
        System(name="rclone", what="rclone mount with a cache of files", open=_rclone, programs=("rclone",)),
    )
}
"""In the order of the tables' columns."""
