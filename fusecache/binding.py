"""The three files that belong together: found, created if missing, verified, locked.

Theory of operation
-------------------
The metadata carries a uuid, the sizes, and the origin's identity; the cache begins with a *stamp*, one page of text
with the same uuid, and holds its blocks behind it.  :func:`inspect` looks at everything, locks what is there, and
decides; it changes nothing.  :meth:`Plan.carry_out` then creates what is missing.  So whatever is refused is refused
before anything was touched.

* The origin is the one known if its path or its inode is.  After a clean end its time of modification is known too:
  if it was changed since, by others, what is cached of it is stale.  A clean cache is then emptied; with dirty
  blocks in it the mount is refused.
* Locks are ``flock`` on all three, held until :attr:`Plan.resources` is closed: neither can be used by two mounts.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fusecache.config import DEFAULT_BLOCK_SIZE
from fusecache.durability import region_blocks_for
from fusecache.errors import BusyError, MetadataError, RefusedError, StoreError, UsageError
from fusecache.geometry import Geometry
from fusecache.metadata.database import Database
from fusecache.paths import defaults_for
from fusecache.sizes import format_size
from fusecache.stamp import DATA_START, clear_stamp, read_stamp, write_stamp
from fusecache.stores.file import FileStore, open_for_store, size_of

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.config import MountConfig

_REQUIRED: Final = {
    *("uuid", "block_size", "cache_blocks", "region_blocks", "image_bytes", "clean_shutdown", "needs_check"),
    *("origin_path", "origin_inode", "origin_mtime_ns"),
}
_DEFAULT_SHARE: Final = 10
"""A cache of no stated size takes a tenth of the image."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """By which an origin is known again."""

    path: str
    inode: str
    mtime_ns: str

    @classmethod
    def of(cls, path: Path, fd: int) -> _Identity:
        status = os.fstat(fd)
        is_device = status.st_rdev != 0
        return cls(
            path=str(path),
            inode=f"device {status.st_rdev}" if is_device else f"{status.st_dev}:{status.st_ino}",
            mtime_ns="0" if is_device else str(status.st_mtime_ns),
        )

    def values(self) -> dict[str, str]:
        return {"origin_path": self.path, "origin_inode": self.inode, "origin_mtime_ns": self.mtime_ns}


@dataclass(slots=True)
class Binding:
    """Origin, cache and metadata of one mount, open and locked."""

    origin: FileStore
    cache: FileStore
    database: Database
    geometry: Geometry
    region_blocks: int
    was_clean: bool
    """Whether the last mount ended cleanly."""
    notes: list[str]
    """What the user should hear."""
    origin_path: Path
    cache_path: Path
    metadata_path: Path
    _origin_fd: int

    def begin(self) -> None:
        """Record, durably, that a mount has begun: until it ends cleanly, it counts as crashed."""
        identity = _Identity.of(self.origin_path, self._origin_fd)
        self.database.set_values(
            {"clean_shutdown": "0", "image_bytes": str(self.geometry.image_bytes), **identity.values()}
        )

    def end_values(self) -> dict[str, str]:
        """Return what to record at a clean end."""
        return {"clean_shutdown": "1", **_Identity.of(self.origin_path, self._origin_fd).values()}


@dataclass(slots=True)
class Plan:
    """What a mount will use, verified as far as it exists."""

    config: MountConfig
    geometry: Geometry
    origin_path: Path
    cache_path: Path
    metadata_path: Path
    resources: ExitStack
    """Everything open and locked; the caller closes it in the end, whether the plan was carried out or not."""
    origin_fd: int
    cache_fd: int | None
    database: Database | None
    notes: list[str] = field(default_factory=list)
    drop_blocks: bool = False

    def carry_out(self) -> Binding:
        """Create what is missing and open the rest; on failure what was created is removed again."""
        with ExitStack() as undo:
            cache_fd = self.cache_fd if self.cache_fd is not None else self._create_cache(undo)
            database = self.database if self.database is not None else self._create_metadata(undo)
            if self.database is None:
                self.resources.callback(database.close)
            _lock_path(self.metadata_path, self.resources)
            values = database.values()
            if self.drop_blocks:
                database.forget_blocks()
            if not read_stamp(cache_fd):
                write_stamp(cache_fd, values["uuid"])
            undo.pop_all()
        size = self.geometry.cache_blocks * self.geometry.block_size
        return Binding(
            origin=FileStore(self.origin_fd, name=f"origin {self.origin_path}", size=self.geometry.image_bytes),
            cache=FileStore(cache_fd, name=f"cache {self.cache_path}", size=size, start=DATA_START),
            database=database,
            geometry=self.geometry,
            region_blocks=int(values["region_blocks"]),
            was_clean=values["clean_shutdown"] == "1",
            notes=self.notes,
            origin_path=self.origin_path,
            cache_path=self.cache_path,
            metadata_path=self.metadata_path,
            _origin_fd=self.origin_fd,
        )

    def _create_cache(self, undo: ExitStack) -> int:
        size = DATA_START + self.geometry.cache_blocks * self.geometry.block_size
        try:
            self.cache_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.cache_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            msg = f"cannot create cache {self.cache_path}: {exc.strerror}"
            raise StoreError(msg) from exc
        self.resources.callback(os.close, fd)
        undo.callback(self.cache_path.unlink)
        _lock(fd, self.cache_path)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as exc:
            msg = f"no space for a cache of {format_size(size)} at {self.cache_path}: {exc.strerror}"
            raise StoreError(msg) from exc
        self.notes.append(f"created cache {self.cache_path} ({format_size(size - DATA_START)})")
        return fd

    def _create_metadata(self, undo: ExitStack) -> Database:
        try:
            self.metadata_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            msg = f"cannot create {self.metadata_path.parent}: {exc.strerror}"
            raise MetadataError(msg) from exc
        blocks = self.geometry.cache_blocks
        identity = _Identity.of(self.origin_path, self.origin_fd)
        if self.cache_fd is not None:
            clear_stamp(self.cache_fd)
        database = Database.create(
            self.metadata_path,
            {
                "uuid": str(uuid.uuid4()),
                "block_size": str(self.geometry.block_size),
                "cache_blocks": str(blocks),
                "region_blocks": str(region_blocks_for(blocks)),
                "clean_shutdown": "1",
                "needs_check": "0",
                "image_bytes": str(self.geometry.image_bytes),
                **identity.values(),
            },
        )
        undo.callback(self.metadata_path.unlink)
        undo.callback(database.close)
        self.notes.append(f"created metadata {self.metadata_path}")
        return database


def inspect(config: MountConfig, *, environ: dict[str, str]) -> Plan:
    """Look at everything that a mount needs; lock it; change nothing.

    :raises FusecacheError: why not, in one line.
    """
    with ExitStack() as resources:
        origin_path = config.origin.resolve()
        defaults = defaults_for(origin_path, environ=environ, is_root=os.geteuid() == 0)
        cache_path = config.cache or defaults.cache
        metadata_path = config.metadata or defaults.metadata
        origin_fd = _open(origin_path, resources)
        cache_fd = _open(cache_path, resources) if _is_there(cache_path) else None
        if cache_fd is not None and os.path.sameopenfile(origin_fd, cache_fd):
            msg = f"origin and cache are the same: {origin_path}"
            raise UsageError(msg)
        image_bytes = _image_bytes(config, origin_path, origin_fd)
        plan_database: Database | None = None
        own = ""
        if _is_there(metadata_path):
            plan_database, own = _known_database(config, metadata_path, cache_path, cache_fd)
        if plan_database is not None:
            resources.callback(plan_database.close)
        elif cache_fd is not None:
            _require_unused(config, cache_path, cache_fd, own)
        geometry = (
            _known_geometry(config, plan_database, image_bytes, cache_path, cache_fd)
            if plan_database is not None
            else _new_geometry(config, image_bytes, cache_path, cache_fd)
        )
        plan = Plan(
            config=config,
            geometry=geometry,
            origin_path=origin_path,
            cache_path=cache_path,
            metadata_path=metadata_path,
            resources=ExitStack(),
            origin_fd=origin_fd,
            cache_fd=cache_fd,
            database=plan_database,
        )
        if plan_database is not None:
            _verify_origin(plan, plan_database)
        plan.resources = resources.pop_all()
    return plan


# Looking


def _is_there(path: Path) -> bool:
    """Tell whether there is anything at ``path``; an empty file is as good as none."""
    return path.exists() and not (path.is_file() and path.stat().st_size == 0)


def _open(path: Path, resources: ExitStack) -> int:
    fd = open_for_store(path)
    resources.callback(os.close, fd)
    _lock(fd, path)
    return fd


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno != errno.EWOULDBLOCK:
            msg = f"cannot lock {path}: {exc.strerror}"
            raise StoreError(msg) from exc
        msg = f"{path} is in use by another mount"
        raise BusyError(msg) from exc


def _lock_path(path: Path, resources: ExitStack) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    resources.callback(os.close, fd)
    _lock(fd, path)


def _image_bytes(config: MountConfig, path: Path, fd: int) -> int:
    size = size_of(fd)
    if config.image_size is None:
        return size
    if config.image_size > size:
        msg = f"origin {path} has {size} bytes, fewer than the {config.image_size} of the table"
        raise RefusedError(msg)
    return config.image_size


def _known_database(
    config: MountConfig, metadata_path: Path, cache_path: Path, cache_fd: int | None
) -> tuple[Database | None, str]:
    """Open existing metadata and hold the cache against it; returns it with its uuid.

    None in its place if cache and metadata are to be made anew.
    """
    try:
        with metadata_path.open("rb") as file:
            _lock(file.fileno(), metadata_path)
        database = Database.open(metadata_path)
    except MetadataError as exc:
        if config.format > 1:
            return None, ""
        msg = f"{exc}; nothing was changed (--format twice makes it anew and throws away what the cache holds)"
        raise MetadataError(msg) from exc
    try:
        values = database.values()
        if config.format:
            _require_disposable(config, database, cache_path)
            database.close()
            return None, values.get("uuid", "")
        _require_healthy(database, values)
        _verify_cache(database, values, cache_path, cache_fd)
    except BaseException:
        database.close()
        raise
    return database, values["uuid"]


def _require_disposable(config: MountConfig, database: Database, cache_path: Path) -> None:
    """Refuse to reformat a cache that holds dirty data, or may hold some, unless told so twice."""
    dirty = database.count(dirty_only=True)
    if config.format < 2 and (dirty or database.regions()):  # noqa: PLR2004 - twice
        msg = f"cache {cache_path} holds dirty data ({dirty} blocks known): --format a second time to throw it away"
        raise RefusedError(msg)


def _require_healthy(database: Database, values: dict[str, str]) -> None:
    if missing := _REQUIRED - values.keys():
        msg = f"metadata {database.path} is damaged: it does not say {', '.join(sorted(missing))}"
        raise MetadataError(msg)
    if values["needs_check"] != "0":
        msg = f"metadata {database.path} needs a check before it can be used"
        raise MetadataError(msg)


def _verify_cache(database: Database, values: dict[str, str], cache_path: Path, cache_fd: int | None) -> None:
    blocks = database.count(dirty_only=False)
    if cache_fd is None:
        msg = f"cache {cache_path} is missing, and metadata {database.path} has {blocks} blocks in it"
        raise RefusedError(msg)
    stamp = read_stamp(cache_fd)
    if stamp != values.get("uuid") and (stamp or blocks):
        msg = f"cache {cache_path} does not belong to metadata {database.path}"
        raise RefusedError(msg)


def _verify_origin(plan: Plan, database: Database) -> None:
    """Refuse an origin that is not the one cached; drop what is cached of it if others changed it since."""
    values = database.values()
    now = _Identity.of(plan.origin_path, plan.origin_fd)
    if values["origin_path"] != now.path and values["origin_inode"] != now.inode:
        msg = f"cache {plan.cache_path} belongs to another origin, {values['origin_path']}"
        raise RefusedError(msg)
    if values["clean_shutdown"] != "1" or values["origin_mtime_ns"] == now.mtime_ns:
        return
    dirty = database.count(dirty_only=True)
    if dirty:
        msg = (
            f"origin {plan.origin_path} was changed by others while {dirty} newer blocks of it are in the cache; "
            "--format twice throws those away"
        )
        raise RefusedError(msg)
    plan.drop_blocks = True
    if blocks := database.count(dirty_only=False):
        plan.notes.append(f"the origin was changed outside fusecache: {blocks} cached blocks were dropped")


def _require_unused(config: MountConfig, cache_path: Path, cache_fd: int, own: str) -> None:
    """Refuse to put a new cache over something else; ``own`` is the uuid of the metadata that is given up with it."""
    stamp = read_stamp(cache_fd)
    if config.format > 1 or (stamp and stamp == own):
        return
    if stamp:
        msg = f"cache {cache_path} belongs to metadata that is not here; --format twice throws away what it holds"
        raise RefusedError(msg)
    if not config.format and os.pread(cache_fd, DATA_START, 0).strip(b"\0"):
        msg = f"{cache_path} holds data that is not a fusecache cache; --format to overwrite it"
        raise RefusedError(msg)


# Sizes


def _known_geometry(
    config: MountConfig, database: Database, image_bytes: int, cache_path: Path, cache_fd: int | None
) -> Geometry:
    values = database.values()
    try:
        block_size, blocks, old_bytes = (int(values[name]) for name in ("block_size", "cache_blocks", "image_bytes"))
    except ValueError as exc:
        msg = f"metadata {database.path} is damaged: {exc}"
        raise MetadataError(msg) from exc
    if config.block_size not in {None, block_size}:
        msg = f"the cache has blocks of {block_size} bytes, not {config.block_size}: that cannot be changed"
        raise RefusedError(msg)
    if config.cache_size is not None and config.cache_size // block_size != blocks:
        msg = f"the cache has {blocks} blocks ({blocks * block_size} bytes), not {config.cache_size} bytes"
        raise RefusedError(msg)
    if image_bytes < old_bytes:
        msg = f"the origin has shrunk from {old_bytes} to {image_bytes} bytes"
        raise RefusedError(msg)
    if cache_fd is not None and size_of(cache_fd) < DATA_START + blocks * block_size:
        msg = f"cache {cache_path} has shrunk: {blocks} blocks of {block_size} bytes no longer fit"
        raise RefusedError(msg)
    return Geometry(image_bytes, block_size, blocks)


def _new_geometry(config: MountConfig, image_bytes: int, cache_path: Path, cache_fd: int | None) -> Geometry:
    block_size = config.block_size or DEFAULT_BLOCK_SIZE
    size = config.cache_size
    if cache_fd is not None:
        available = size_of(cache_fd) - DATA_START
        if size is not None and size > available:
            msg = f"{cache_path} has room for {max(0, available)} bytes of cache, not {size}"
            raise RefusedError(msg)
        size = available if size is None else size
    elif size is None:
        size = _default_cache_size(image_bytes, block_size, cache_path)
    return Geometry(image_bytes, block_size, max(0, size) // block_size)


def _default_cache_size(image_bytes: int, block_size: int, cache_path: Path) -> int:
    """Take a tenth of the image, but at least a block and at most half of what is free."""
    directory = next(parent for parent in cache_path.parents if parent.exists())
    status = os.statvfs(directory)
    return max(block_size, min(image_bytes // _DEFAULT_SHARE, status.f_bavail * status.f_frsize // 2))
