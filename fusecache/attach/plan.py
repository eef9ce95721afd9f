"""What a mount is going to use and make: the step between looking and being bound.

Theory of operation
-------------------
:func:`fusecache.attach.inspection.inspect` looks at everything, locks what is there, and makes a :class:`Plan`; it
changes nothing.  :meth:`Plan.carry_out` creates what is missing, and resizes what is to have another size
(:mod:`fusecache.attach.resizing`); the result is a :class:`fusecache.attach.binding.Binding`.  So whatever is refused
is refused before anything was touched.

Origin, cache and metadata are held until :attr:`Plan.resources` is closed: none of them can be used by two mounts.
What a plan found missing it creates only if it is missing still.
"""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fusecache.attach.binding import Binding
from fusecache.attach.cache_file import CacheSpace
from fusecache.attach.generation import ANY
from fusecache.attach.lease import in_use, lock
from fusecache.attach.stamp import DATA_START, Stamp, read_stamp, write_stamp
from fusecache.config import PageCache
from fusecache.errors import MetadataError, StoreError
from fusecache.linux import create_trusted, open_trusted, size_of, sync_directory
from fusecache.metadata import Database, ImageTimes, Superblock, region_blocks_for
from fusecache.stores import ReadOnlyStore, open_file_store
from fusecache.units import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.attach.claims import Claims
    from fusecache.attach.origin import Origin
    from fusecache.attach.resizing import Resize
    from fusecache.block import Geometry


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a mount will use, verified as far as it exists."""

    geometry: Geometry
    origin: Origin
    claims: Claims
    cache_path: Path
    metadata_path: Path
    resources: ExitStack
    """Everything open and locked; the caller closes it in the end, whether the plan was carried out or not."""
    looking: ExitStack
    """Closes the database that was opened for reading."""
    cache_fd: int | None
    """None if there is no file; it may also be an empty one."""
    database: Database | None
    """Open for reading until the plan is carried out; None if metadata is to be made."""
    replace_metadata: bool
    """Whether there is a file in its place, which is to go."""
    own_directory: Path | None = None
    """Where files go that the user gave no place; it is made if need be, unlike any other."""
    uuid: str = ""
    """That of the metadata which is given up, whose stamp the cache has."""
    read_only: str = ""
    """Why nothing is to be written to the origin; empty if it is."""
    notes: list[str] = field(default_factory=list)
    image_times: ImageTimes
    """Those with which the image begins."""
    resize: Resize | None = None
    """What has to change before the known cache can be used."""

    def carry_out(self, page_cache: PageCache = PageCache.STORES) -> Binding:
        """Create what is missing and open the rest.

        What was created is removed again when the resources are closed, unless the binding has begun by then.
        """
        size = self.geometry.cache_blocks * self.geometry.block_size
        with ExitStack() as undo:
            cache_fd = self._provide_cache(undo)
            origin = self.origin.open_store(self.geometry.image_bytes, page_cache)
            cache, _ = open_file_store(
                cache_fd,
                name=f"cache {self.cache_path}",
                size=size,
                start=DATA_START,
                page_cache=page_cache,
                resources=self.resources,
            )
            database = self._create_metadata(undo) if self.database is None else self._open_metadata()
            if self.resize is not None:
                self.resize.carry_out(database, CacheSpace(cache_fd, self.cache_path, self.geometry.block_size))
            superblock = database.superblock()
            stamp = read_stamp(cache_fd)
            if stamp is None or stamp.uuid != superblock.uuid:
                write_stamp(cache_fd, Stamp(superblock.uuid, superblock.generation))
            created = self.resources.enter_context(undo.pop_all())
        return Binding(
            origin=ReadOnlyStore(origin.store, self.read_only) if self.read_only else origin.store,
            cache=cache,
            database=database,
            geometry=self.geometry,
            engine=origin.engine,
            strengths=origin.strengths,
            region_blocks=superblock.region_blocks,
            was_clean=superblock.clean_shutdown,
            read_only=self.read_only,
            notes=self.notes,
            cache_path=self.cache_path,
            metadata_path=self.metadata_path,
            image_times=self.image_times,
            _origin=self.origin,
            _cache_fd=cache_fd,
            _created=created,
            _bond=self.claims.bond(database, cache_fd=cache_fd, keeps_claim=bool(self.read_only)),
        )

    def _open_metadata(self) -> Database:
        """Open the database that was looked at for writing."""
        self.looking.close()
        database = Database.open(self.metadata_path)
        self.resources.callback(database.close)
        self.database = database
        return database

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
            fd = create_trusted(path)
        except FileExistsError as exc:
            raise in_use(path) from exc  # it was not there a moment ago
        except OSError as exc:
            msg = f"cannot create cache {path}: {exc.strerror}"
            raise StoreError(msg) from exc
        self.resources.callback(os.close, fd)
        lock(fd, path, self.resources)
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
            origin=self.origin.identity(),
            cache_path=str(self.cache_path),
            clean_shutdown=True,
            previous_generation=ANY if self.uuid else "",  # that cache and claim had with the metadata given up
        )
        try:
            self._make_own_directory()
            database = Database.create(path, superblock.pack(), replace=self.replace_metadata)
        except FileExistsError as exc:
            raise in_use(path) from exc  # it was not there a moment ago
        except OSError as exc:
            msg = f"cannot create metadata {path}: {exc.strerror}"
            raise MetadataError(msg) from exc
        if not self.replace_metadata:
            undo.callback(path.unlink)
        undo.callback(database.close)
        fd = open_trusted(path, os.O_RDWR)
        self.resources.callback(os.close, fd)
        self.resources.callback(database.close)
        lock(fd, path, self.resources)
        self.notes.append(f"created metadata {path}")
        return database
