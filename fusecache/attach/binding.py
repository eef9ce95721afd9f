"""The three files that belong together: origin, cache and metadata.

Theory of operation
-------------------
The metadata carries a uuid, the sizes, and the origin's identity; the cache begins with a *stamp* with the same uuid
(:mod:`fusecache.attach.stamp`), and holds its blocks behind it.  :func:`fusecache.attach.inspection.inspect` looks at
everything, locks what is there, and makes a :class:`Plan`; it changes nothing.  :meth:`Plan.carry_out` creates what is
missing, and resizes what is to have another size (:mod:`fusecache.attach.resizing`).  So whatever is refused is refused
before anything was touched.

Locks are ``flock`` on all three, held until :attr:`Plan.resources` is closed: none of them can be used by two mounts.
What a plan found missing it creates only if it is missing still.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from fusecache.attach.claim import Claim, remove_claim, write_claim
from fusecache.attach.stamp import DATA_START, read_stamp, write_stamp
from fusecache.config import PageCache
from fusecache.errors import BusyError, MetadataError, StoreError
from fusecache.linux import sync_directory
from fusecache.metadata import Database, Identity, Superblock, packed, region_blocks_for
from fusecache.stores import FileStore, make_engine, open_past_page_cache, size_of
from fusecache.units import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.attach.resizing import Resize
    from fusecache.block import Geometry
    from fusecache.stores import Engine, Store


_LAST_IO_SECONDS: Final = 1.0


def lock(fd: int, path: Path) -> None:
    """Lock an open file for this mount alone, until it is closed; raises BusyError.

    Of a process that was killed the last I/O may go on, and the lock with it, when the process is gone already; so that
    much time is given.
    """
    deadline = monotonic() + _LAST_IO_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno != errno.EWOULDBLOCK:
                msg = f"cannot lock {path}: {exc.strerror}"
                raise StoreError(msg) from exc
            if monotonic() > deadline:
                raise _in_use(path) from exc
            sleep(_LAST_IO_SECONDS / 100)
        else:
            return


def _in_use(path: Path) -> BusyError:
    return BusyError(f"{path} is in use by another mount")


def identify(path: Path, fd: int) -> Identity:
    """Find out by what an open origin is known again."""
    status = os.fstat(fd)
    is_device = stat.S_ISBLK(status.st_mode)
    return Identity(
        path=str(path),
        inode=f"device {status.st_rdev}" if is_device else f"{status.st_dev}:{status.st_ino}",
        mtime_ns="0" if is_device else str(status.st_mtime_ns),
        size=size_of(fd),
    )


@dataclass(slots=True)
class Binding:
    """Origin, cache and metadata of one mount, open and locked."""

    origin: Store
    cache: Store
    database: Database
    geometry: Geometry
    engine: str
    """What does the I/O that waits."""
    region_blocks: int
    uuid: str
    was_clean: bool
    """Whether the last mount ended cleanly."""
    notes: list[str]
    """What the user should hear."""
    origin_path: Path
    cache_path: Path
    metadata_path: Path
    _origin_fd: int
    _cache_fd: int
    _created: ExitStack
    """What would remove the files made for this mount."""

    def begin(self) -> None:
        """Record, durably, that a mount has begun: until it ends cleanly, it counts as crashed.  New files stay."""
        self.database.set_values(
            packed(
                clean_shutdown=False,
                image_bytes=self.geometry.image_bytes,
                cache_bytes=size_of(self._cache_fd),
                origin=identify(self.origin_path, self._origin_fd),
            )
        )
        write_claim(self._origin_fd, Claim(self.uuid, str(self.metadata_path)))
        self._created.pop_all()

    def end_values(self) -> dict[str, str]:
        """Return what to record at a clean end; raises StoreError."""
        try:
            os.fsync(self._origin_fd)  # its time of modification: fdatasync leaves that out
        except OSError as exc:
            msg = f"flush of origin {self.origin_path} failed: {exc.strerror}"
            raise StoreError(msg) from exc
        return packed(clean_shutdown=True, origin=identify(self.origin_path, self._origin_fd))

    def release_origin(self) -> None:
        """Note on the origin that no cache has newer data of it any more."""
        remove_claim(self._origin_fd)


def _require_space(fd: int, size: int) -> None:
    """Raise OSError where there is not enough by far, instead of filling the file system before that shows."""
    free = os.fstatvfs(fd)
    if size > free.f_bavail * free.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True, slots=True)
class CacheSpace:
    """The length of an open cache; see :class:`fusecache.attach.resizing.Space`."""

    fd: int
    path: Path
    block_size: int

    def room(self) -> int:
        """Return how many blocks it has room for behind the stamp."""
        return max(0, size_of(self.fd) - DATA_START) // self.block_size

    def extend(self, blocks: int) -> None:
        """Make it long enough for so many blocks, the space its own, durably; raises StoreError, soon if it can."""
        before = size_of(self.fd)
        size = DATA_START + blocks * self.block_size
        try:
            _require_space(self.fd, size - before)
            os.posix_fallocate(self.fd, before, size - before)
            os.fsync(self.fd)
        except OSError as exc:
            with suppress(OSError):
                os.ftruncate(self.fd, before)
            msg = f"no space for a cache of {format_size(size)} at {self.path}: {exc.strerror}"
            raise StoreError(msg) from exc

    def cut(self, blocks: int) -> None:
        """Give the space of a file back; a device keeps it."""
        if stat.S_ISREG(os.fstat(self.fd).st_mode):
            os.ftruncate(self.fd, DATA_START + blocks * self.block_size)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a mount will use, verified as far as it exists."""

    geometry: Geometry
    origin_path: Path
    cache_path: Path
    metadata_path: Path
    resources: ExitStack
    """Everything open and locked; the caller closes it in the end, whether the plan was carried out or not."""
    origin_fd: int
    cache_fd: int | None
    """None if there is no file; it may also be an empty one."""
    database: Database | None
    """None if metadata is to be made."""
    replace_metadata: bool
    """Whether there is a file in its place, which is to go."""
    own_directory: Path | None = None
    """Where files go that the user gave no place; it is made if need be, unlike any other."""
    uuid: str = ""
    """That of the metadata which is given up, whose stamp the cache has."""
    notes: list[str] = field(default_factory=list)
    resize: Resize | None = None
    """What has to change before the known cache can be used."""

    def carry_out(self, page_cache: PageCache = PageCache.STORES) -> Binding:
        """Create what is missing and open the rest.

        What was created is removed again when the resources are closed, unless the binding has begun by then.
        """
        size = self.geometry.cache_blocks * self.geometry.block_size
        with ExitStack() as undo:
            cache_fd = self._provide_cache(undo)
            engine = self._make_engine(self.origin_fd)
            origin = self._open_store(
                page_cache, engine, self.origin_fd, f"origin {self.origin_path}", self.geometry.image_bytes
            )
            cache = self._open_store(
                page_cache, self._make_engine(cache_fd), cache_fd, f"cache {self.cache_path}", size, DATA_START
            )
            database = self.database if self.database is not None else self._create_metadata(undo)
            if self.resize is not None:
                self.resize.carry_out(database, CacheSpace(cache_fd, self.cache_path, self.geometry.block_size))
            superblock = database.superblock()
            if read_stamp(cache_fd) != superblock.uuid:
                write_stamp(cache_fd, superblock.uuid)
            created = self.resources.enter_context(undo.pop_all())
        return Binding(
            origin=origin,
            cache=cache,
            database=database,
            geometry=self.geometry,
            engine=engine.name,
            region_blocks=superblock.region_blocks,
            uuid=superblock.uuid,
            was_clean=superblock.clean_shutdown,
            notes=self.notes,
            origin_path=self.origin_path,
            cache_path=self.cache_path,
            metadata_path=self.metadata_path,
            _origin_fd=self.origin_fd,
            _cache_fd=cache_fd,
            _created=created,
        )

    def _make_engine(self, fd: int) -> Engine:
        engine = make_engine(fd)
        self.resources.callback(engine.close)
        return engine

    def _open_store(
        self, page_cache: PageCache, engine: Engine, fd: int, name: str, size: int, start: int = 0
    ) -> Store:
        if page_cache is PageCache.STORES:
            return FileStore(fd, name=name, size=size, start=start, engine=engine)
        return open_past_page_cache(fd, name=name, size=size, start=start, resources=self.resources, engine=engine)

    def _provide_cache(self, undo: ExitStack) -> int:
        """Return the cache's descriptor, with its space taken if it is a new one."""
        blocks, block_size = self.geometry.cache_blocks, self.geometry.block_size
        if self.cache_fd is None:
            fd = self._create_cache_file(undo)
        elif self.database is not None or CacheSpace(self.cache_fd, self.cache_path, block_size).room() >= blocks:
            return self.cache_fd
        else:
            fd = self.cache_fd
            undo.callback(os.ftruncate, fd, size_of(fd))
        CacheSpace(fd, self.cache_path, block_size).extend(blocks)
        self.notes.append(f"created cache {self.cache_path} ({format_size(blocks * block_size)})")
        return fd

    def _create_cache_file(self, undo: ExitStack) -> int:
        path = self.cache_path
        try:
            self._make_own_directory()
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as exc:
            raise _in_use(path) from exc  # it was not there a moment ago
        except OSError as exc:
            msg = f"cannot create cache {path}: {exc.strerror}"
            raise StoreError(msg) from exc
        self.resources.callback(os.close, fd)
        lock(fd, path)
        undo.callback(path.unlink)
        sync_directory(path.parent)  # its name has to be there before the metadata tells of it
        return fd

    def _make_own_directory(self) -> None:
        if self.own_directory is not None:
            self.own_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self.own_directory.parent)

    def _create_metadata(self, undo: ExitStack) -> Database:
        path = self.metadata_path
        blocks = self.geometry.cache_blocks
        superblock = Superblock(
            uuid=self.uuid or str(uuid.uuid4()),
            block_size=self.geometry.block_size,
            cache_blocks=blocks,
            region_blocks=region_blocks_for(blocks),
            image_bytes=self.geometry.image_bytes,
            origin=identify(self.origin_path, self.origin_fd),
            clean_shutdown=True,
        )
        try:
            self._make_own_directory()
            database = Database.create(path, superblock.pack(), replace=self.replace_metadata)
        except FileExistsError as exc:
            raise _in_use(path) from exc  # it was not there a moment ago
        except OSError as exc:
            msg = f"cannot create metadata {path}: {exc.strerror}"
            raise MetadataError(msg) from exc
        if not self.replace_metadata:
            undo.callback(path.unlink)
        undo.callback(database.close)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.resources.callback(os.close, fd)
        self.resources.callback(database.close)
        lock(fd, path)
        self.notes.append(f"created metadata {path}")
        return database
