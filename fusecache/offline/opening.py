"""Finding and locking the files of a cache that is not mounted.

A mount holds origin, cache and metadata for itself (:mod:`fusecache.attach.lease`), and so does every offline tool:
whoever comes second is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusecache.attach import Location, Origin, default_places, locate, lock
from fusecache.errors import BusyError, RefusedError, UsageError
from fusecache.stores import open_for_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """Where the parts of one cache are; which of them exist is not known yet.  None: not said."""

    metadata: Path
    cache: Path | None
    origin: str | None
    """Its address."""

    def words(self) -> list[str]:
        """Return them as arguments of an offline command."""
        words = [] if self.origin is None else [self.origin]
        if self.cache is not None:
            words += ["--cache", str(self.cache)]
        return [*words, "--metadata", str(self.metadata)]


def find_files(
    origin: str | None, *, cache: Path | None = None, metadata: Path | None = None, environ: Mapping[str, str]
) -> Files:
    """Name the files as ``fusecache mount ORIGIN`` would; without an origin, those that are named.

    :raises UsageError: neither origin nor metadata is given.
    """
    if origin is None:
        if metadata is None:
            msg = "name the cache: by its ORIGIN, or by --metadata FILE"
            raise UsageError(msg)
        return Files(metadata.resolve(), cache and cache.resolve(), None)
    location = locate(origin)
    origin = location.address
    if cache is None or metadata is None:
        defaults = default_places(location, environ=environ, is_root=os.geteuid() == 0)
        cache, metadata = cache or defaults.cache, metadata or defaults.metadata
    return Files(metadata.resolve(), cache.resolve(), origin)


def exists_already(path: Path) -> RefusedError:
    """Return the error for something that is there, and is not to be replaced."""
    return RefusedError(f"{path} exists already, and nothing was changed")


def open_locked(path: Path, resources: ExitStack, *, writable: bool = False) -> int:
    """Open a file or block device, for reading unless said otherwise, and lock it until ``resources`` are closed.

    :raises BusyError: a mount or another command has it.
    :raises StoreError: it is missing, not permitted, or neither a file nor a block device.
    """
    try:
        fd = open_for_store(path, os.O_RDWR if writable else os.O_RDONLY)
        resources.callback(os.close, fd)
        lock(fd, path)
    except BusyError as exc:
        raise _in_use(str(path)) from exc
    return fd


def open_origin(location: Location, resources: ExitStack, *, writable: bool = False) -> Origin:
    """Open an origin, for reading unless said otherwise, and keep others from it until ``resources`` are closed.

    :raises BusyError: a mount or another command has it.
    :raises StoreError: it is missing, not permitted, or cannot be an origin.
    """
    try:
        return location.open(resources, writable=writable)
    except BusyError as exc:
        raise _in_use(location.address) from exc


def _in_use(name: str) -> BusyError:
    return BusyError(f"{name} is in use: unmount it first (or wait for the other command)")
