"""Metadata from dm-cache's XML.

Theory of operation
-------------------
The XML says which block lies where and what is dirty.  Metadata of a cache also needs to know whose it is:

* ``uuid``, which the cache's stamp has too: the XML's; if that has none (dm-cache's tools write none) the stamp's.
* The origin's identity, and the size of the image: those in the comment that ``fusecache dump`` writes; if there is
  none, or an origin is named, the origin as it is now.

The cache itself is not written.  So what was dumped can be restored and is mounted again as it was, for as long as
the cache has not been written since: its time of modification is in the dump, and a dump that is out of date is
refused.

XML of a real dm-cache describes a cache device whose blocks begin at byte 0; here they begin behind the stamp.  Its
data has to be moved there first, and a stamp be put before it (``fusecache check --write-stamp``).
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from fusecache.attach import DAMAGED, DATA_START, changed_at, hint_signature, locate, read_stamp
from fusecache.config import MIN_BLOCK_SIZE
from fusecache.errors import MetadataError, RefusedError, UsageError
from fusecache.linux import size_of
from fusecache.metadata import Row, Superblock, packed, region_blocks_for
from fusecache.offline.drafting import Draft, drafted
from fusecache.offline.dumping import CACHE_TIME, KEPT
from fusecache.offline.facts import contested, geometry_of
from fusecache.offline.interchange import Head, HintItem, MappingItem, read_xml
from fusecache.offline.opening import open_locked, open_origin
from policies import PolicyError, create_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.attach import Origin
    from fusecache.offline.interchange import Item
    from fusecache.offline.opening import Files


@dataclass(slots=True)
class Restored:
    """What was made of the XML."""

    blocks: int = 0
    dirty: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Cache:
    """What is known of the cache file; nothing, if there is none."""

    stamp: str = ""
    size: int | None = None
    mtime_ns: str = "0"


def restore(source: BinaryIO, name: str, files: Files, *, replace: bool = False, force: bool = False) -> Restored:
    """Make the metadata that the XML describes.

    :param name: what messages call the XML.
    :param replace: put aside the metadata that is there.
    :param force: do so although the cache has been written since the dump.
    :raises FusecacheError: why not; then nothing was changed.
    """
    with ExitStack() as resources:
        origin = None if files.origin is None else open_origin(locate(files.origin), resources)
        cache = _look_at_cache(files, resources)
        items = read_xml(source, name)
        head = _head(items, name)
        restored = Restored()
        _require_current(head, cache, files, force=force)
        superblock = _superblock(_values(head, files, origin, cache, restored), name)
        with drafted(files.metadata, replace=replace) as draft:
            draft.set_values(superblock.pack())
            _fill(draft, items, superblock, name, restored)
    return restored


def _look_at_cache(files: Files, resources: ExitStack) -> _Cache:
    if files.cache is None or not files.cache.exists():
        return _Cache()
    fd = open_locked(files.cache, resources)
    return _Cache(read_stamp(fd), size_of(fd), changed_at(fd))


def _head(items: Iterator[Item], name: str) -> Head:
    head = next(items, None)
    if not isinstance(head, Head):
        msg = f"{name} is no dump of a cache: it has no superblock"
        raise MetadataError(msg)
    return head


def _require_current(head: Head, cache: _Cache, files: Files, *, force: bool) -> None:
    """Refuse a dump that is older than the cache, or of another cache, or of a larger one."""
    if cache.size is None:
        return
    if cache.stamp not in {"", DAMAGED, head.uuid} and head.uuid:
        msg = f"cache {files.cache} belongs to other metadata, not to what was dumped (uuid {head.uuid})"
        raise RefusedError(msg)
    needed = DATA_START + head.cache_blocks * head.block_size
    if cache.size and cache.size < needed:
        msg = f"cache {files.cache} has {cache.size} bytes, fewer than the {needed} that were dumped"
        raise RefusedError(msg)
    if head.extras.get(CACHE_TIME, cache.mtime_ns) != cache.mtime_ns and not force:
        msg = (
            f"cache {files.cache} has been written since the dump was made, which no longer says what lies where; "
            "if it was only copied, use --force"
        )
        raise RefusedError(msg)


def _values(
    head: Head,
    files: Files,
    origin: Origin | None,
    cache: _Cache,
    restored: Restored,
) -> dict[str, str]:
    kept = {name: head.extras[name] for name in KEPT if name in head.extras}
    if origin is None:
        if "image_bytes" not in kept:
            msg = "the XML does not say whose blocks it describes: name the ORIGIN"
            raise UsageError(msg)
        bound = {}
    else:
        bound = {name: packed(origin=origin.identity())[name] for name in ("origin_path", "origin_inode")}
        if "image_bytes" not in kept:
            bound = packed(origin=origin.identity(), image_bytes=origin.size)
            restored.notes.append(f"taken to belong to {origin.address} as it is now: that cannot be verified")
    return {
        **packed(
            uuid=_uuid(head, files, cache, restored),
            block_size=head.block_size,
            cache_blocks=head.cache_blocks,
            region_blocks=region_blocks_for(head.cache_blocks),
            clean_shutdown=True,
            needs_check=False,
        ),
        **({} if "image_bytes" in kept else packed(hints=_hints(head.policy))),
        **kept,
        **bound,
    }


def _hints(policy: str) -> str:
    """Say whose hints they are; nobody's, if there is no such policy here."""
    try:
        return hint_signature(create_policy(policy, cache_blocks=1, origin_blocks=1, block_size=MIN_BLOCK_SIZE))
    except PolicyError:
        return ""


def _uuid(head: Head, files: Files, cache: _Cache, restored: Restored) -> str:
    if cache.stamp in {"", DAMAGED} and cache.size is not None:
        restored.notes.append(
            f"cache {files.cache} has no stamp: if its blocks begin at byte {DATA_START}, "
            "put one there with `fusecache check --write-stamp`"
        )
    stamp = "" if cache.stamp == DAMAGED else cache.stamp
    return head.uuid or stamp or str(uuid.uuid4())


def _superblock(values: dict[str, str], name: str) -> Superblock:
    try:
        return Superblock.unpack(values)
    except MetadataError as exc:
        msg = f"{name} is no dump of a cache: {exc}"
        raise MetadataError(msg) from exc


def _fill(draft: Draft, items: Iterator[Item], superblock: Superblock, name: str, restored: Restored) -> None:
    """Put blocks and hints into a draft."""
    geometry = geometry_of(superblock)
    for item in items:
        complaint = ""
        if isinstance(item, MappingItem):
            if item.cblock >= geometry.cache_blocks:
                complaint = f"cache block {item.cblock} lies outside the cache's {geometry.cache_blocks} blocks"
            elif item.oblock >= geometry.origin_blocks:
                complaint = f"block {item.oblock} lies outside the image's {geometry.origin_blocks} blocks"
            else:
                draft.add(Row(*item, hint=None, crc=None))
                restored.blocks += 1
                restored.dirty += item.dirty
        elif isinstance(item, HintItem) and not draft.set_hint(item.cblock, item.hint):
            complaint = f"a hint for cache block {item.cblock}, which is not mapped before it"
        if complaint:
            msg = f"{name}: {complaint}"
            raise MetadataError(msg)
    for row in contested(draft.connection):
        msg = f"{name}: block {row.oblock} of the image is mapped twice"
        raise MetadataError(msg)
