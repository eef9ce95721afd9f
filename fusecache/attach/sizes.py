"""How large image and cache are to be.

The cache has the size that is asked for, else the one that it had.  One that filled its file or device follows it: if
others have extended that, the cache grows, if they have cut it, it shrinks.  A cache gets no more blocks than the image
has, unless it has them already: more would never be used.  The image is as long as the origin, or as the table says; an
origin that has shrunk is taken only if a table says so.  What a new size means for what is cached is in
:mod:`fusecache.attach.resizing`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from fusecache.attach.cache_file import CacheSpace, is_device
from fusecache.attach.stamp import DATA_START
from fusecache.block import Geometry
from fusecache.config import DEFAULT_BLOCK_SIZE
from fusecache.errors import RefusedError
from fusecache.linux import size_of
from fusecache.metadata import metadata_size
from fusecache.units import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.attach.origin import Origin
    from fusecache.config import MountConfig
    from fusecache.metadata import Superblock

_STATUS_BLOCK: Final = 512
"""Bytes of the blocks that stat(2) counts."""
_DEFAULT_SHARE: Final = 10
"""A cache of no stated size takes a tenth of the image."""


def image_size(config: MountConfig, origin: Origin) -> int:
    """Return how many bytes of an origin are the image; raises RefusedError if it has fewer."""
    size = origin.size
    if config.image_size is None:
        return size
    if config.image_size > size:
        msg = f"origin {origin.address} has {size} bytes, fewer than the {config.image_size} of the table"
        raise RefusedError(msg)
    return config.image_size


def known_geometry(
    config: MountConfig, superblock: Superblock, image_bytes: int, cache_path: Path, cache_fd: int
) -> Geometry:
    """Return the sizes for a cache that is there; raises RefusedError if they cannot be had."""
    block_size, old_bytes = superblock.block_size, superblock.image_bytes
    if config.block_size not in {None, block_size}:
        msg = f"the cache has blocks of {block_size} bytes, not {config.block_size}: that cannot be changed"
        raise RefusedError(msg)
    if image_bytes < old_bytes and config.image_size is None:
        msg = (
            f"the origin has shrunk from {old_bytes} to {image_bytes} bytes: mount it with a table of that length if "
            "that is meant"
        )
        raise RefusedError(msg)
    space = CacheSpace(cache_fd, cache_path, block_size)
    blocks = _known_blocks(config, superblock, space)
    most = max(superblock.cache_blocks, _blocks_of(image_bytes, block_size))
    return Geometry(image_bytes, block_size, min(blocks, most))


def _known_blocks(config: MountConfig, superblock: Superblock, space: CacheSpace) -> int:
    """Return how many blocks a known cache is to have, if the image has as many."""
    blocks, room, size = superblock.cache_blocks, space.room(), size_of(space.fd)
    if config.cache_size is not None:
        wanted = config.cache_size // space.block_size
        if wanted > room and is_device(space.fd):
            msg = f"{space.path} has room for {room * space.block_size} bytes of cache, not {config.cache_size}"
            raise RefusedError(msg)
        return wanted
    if not size:  # an empty file: nothing is cached, and its space is taken anew
        return blocks
    last_size = size if superblock.cache_bytes is None else superblock.cache_bytes
    filled = (last_size - DATA_START) // space.block_size == blocks
    return room if room < blocks or (filled and size > last_size) else blocks


def new_geometry(config: MountConfig, image_bytes: int, cache_path: Path, cache_fd: int | None) -> Geometry:
    """Return the sizes for a cache that is to be made; raises RefusedError if there is too little room."""
    block_size = config.block_size or DEFAULT_BLOCK_SIZE
    size = config.cache_size
    if cache_fd is not None and (size_of(cache_fd) or is_device(cache_fd)):
        available = size_of(cache_fd) - DATA_START
        grows = not is_device(cache_fd)  # perhaps a mount was killed while it made the file
        if size is not None and size > available and not grows:
            msg = f"{cache_path} has room for {max(0, available)} bytes of cache, not {size}"
            raise RefusedError(msg)
        size = available if size is None else size
    elif size is None:
        size = _default_cache_size(image_bytes, block_size, cache_path)
    return Geometry(image_bytes, block_size, min(max(0, size) // block_size, _blocks_of(image_bytes, block_size)))


def told_of_size(config: MountConfig, geometry: Geometry) -> str:
    """Tell the user that a cache does not get the size that he asked for; nothing if it does."""
    size = geometry.cache_blocks * geometry.block_size
    if config.cache_size is None or config.cache_size < size + geometry.block_size:
        return ""
    return f"the cache has {format_size(size)}, not {format_size(config.cache_size)}: the image has no more"


def has_room_beside(cache_path: Path, cache_fd: int | None, geometry: Geometry) -> bool:
    """Tell whether the file system of a cache that is to be made has room for the most that its metadata may take."""
    status = os.statvfs(next(parent for parent in cache_path.parents if parent.exists()))
    taken = 0 if cache_fd is None else os.fstat(cache_fd).st_blocks * _STATUS_BLOCK
    missing = max(0, DATA_START + geometry.cache_blocks * geometry.block_size - taken)
    needed = missing + metadata_size(geometry.cache_blocks, geometry.block_size)
    return status.f_bavail * status.f_frsize >= needed


def _blocks_of(image_bytes: int, block_size: int) -> int:
    return max(1, -(-image_bytes // block_size))


def _default_cache_size(image_bytes: int, block_size: int, cache_path: Path) -> int:
    """Take a tenth of the image, but at least a block and at most half of what is free."""
    directory = next(parent for parent in cache_path.parents if parent.exists())
    status = os.statvfs(directory)
    return max(block_size, min(image_bytes // _DEFAULT_SHARE, status.f_bavail * status.f_frsize // 2))
