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
from dataclasses import replace as replace_fields
from typing import TYPE_CHECKING, BinaryIO

from fusecache.attach import ANY, DAMAGED, DATA_START, Stamp, changed_at, fits, hint_signature, locate, read_stamp
from fusecache.config import MIN_BLOCK_SIZE
from fusecache.errors import MetadataError, RefusedError, UsageError
from fusecache.linux import size_of
from fusecache.metadata import Superblock, packed, region_blocks_for
from fusecache.offline.drafting import Draft, drafted
from fusecache.offline.dumping import CACHE_TIME
from fusecache.offline.interchange import KEPT, Head, read_xml
from fusecache.offline.opening import open_locked, open_origin
from policies import PolicyError, create_policy

if TYPE_CHECKING:
    from fusecache.metadata import Identity
    from fusecache.offline.opening import Files


@dataclass(slots=True)
class Restored:
    """What was made of the XML."""

    blocks: int = 0
    dirty: int = 0
    notes: list[str] = field(default_factory=list)


def restore(source: BinaryIO, name: str, files: Files, *, replace: bool = False, force: bool = False) -> Restored:
    """Make the metadata that the XML describes.

    :param name: what messages call the XML.
    :param replace: put aside the metadata that is there.
    :param force: do so although the cache has been written since the dump.
    :raises FusecacheError: why not; then nothing was changed.
    """
    with ExitStack() as resources:
        surroundings = _Surroundings.of(files, resources)
        restored = Restored()

        def begin(head: Head) -> Draft:
            surroundings.require_current(head, force=force)
            superblock = surroundings.complete(head, name, restored)
            if force:  # whatever cache and origin are like is taken for right
                superblock = replace_fields(superblock, generation="", previous_generation=ANY, origin_claimed=False)
            draft = resources.enter_context(drafted(files.metadata, name, replace=replace))
            draft.superblock(superblock)
            return draft

        restored.blocks, restored.dirty = read_xml(source, name, begin).count()
    return restored


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What is known of the origin and of the cache, where they are named and there."""

    files: Files
    origin: Identity | None
    cache_fd: int | None
    stamp: Stamp | None
    """That of the cache, if there is one that can be read."""

    @classmethod
    def of(cls, files: Files, resources: ExitStack) -> _Surroundings:
        """Look at both, and lock them."""
        origin = None if files.origin is None else open_origin(locate(files.origin), resources).identity()
        if files.cache is None or not files.cache.exists():
            return cls(files, origin, None, None)
        fd = open_locked(files.cache, resources)
        stamp = read_stamp(fd)
        return cls(files, origin, fd, None if stamp == DAMAGED else stamp)

    def require_current(self, head: Head, *, force: bool) -> None:
        """Refuse a dump that is older than the cache, or of another cache, or of a larger one."""
        if self.cache_fd is None:
            return
        path, size, changed = self.files.cache, size_of(self.cache_fd), changed_at(self.cache_fd)
        if self.stamp is not None and head.uuid and self.stamp.uuid != head.uuid:
            msg = f"cache {path} belongs to other metadata, not to what was dumped (uuid {head.uuid})"
            raise RefusedError(msg)
        needed = DATA_START + head.cache_blocks * head.block_size
        if size and size < needed:
            msg = f"cache {path} has {size} bytes, fewer than the {needed} that were dumped"
            raise RefusedError(msg)
        if force:
            return
        if head.notes.get(CACHE_TIME, changed) != changed or self._is_of_another_moment(head):
            msg = (
                f"cache {path} has been written since the dump was made, which no longer says what lies where; "
                "if it was only copied, use --force"
            )
            raise RefusedError(msg)

    def _is_of_another_moment(self, head: Head) -> bool:
        """Tell whether cache and dump are of different generations; see :mod:`fusecache.attach.bond`."""
        if self.stamp is None or not _is_ours(head):
            return False  # dm-cache's own XML says nothing of it
        return not fits(
            self.stamp.generation, head.notes.get("generation", ""), head.notes.get("previous_generation", "")
        )

    def complete(self, head: Head, name: str, restored: Restored) -> Superblock:
        """Add to what the XML says what metadata has to say besides."""
        values = packed(clean_shutdown=True) | {key: head.notes[key] for key in KEPT if key in head.notes}
        if _is_ours(head):
            if self.origin is not None:
                bound = packed(origin=self.origin)
                values |= {key: bound[key] for key in ("origin_path", "origin_inode")}
        elif self.origin is None or self.origin.size is None:
            msg = "the XML does not say whose blocks it describes: name the ORIGIN"
            raise UsageError(msg)
        else:
            values = packed(hints=_hints(head.policy)) | values
            values |= packed(image_bytes=self.origin.size, origin=self.origin, previous_generation=ANY)
            restored.notes.append(f"taken to belong to {self.origin.address} as it is now: that cannot be verified")
        if self.cache_fd is not None and self.stamp is None:
            restored.notes.append(
                f"cache {self.files.cache} has no stamp: if its blocks begin at byte {DATA_START}, "
                "put one there with `fusecache check --write-stamp`"
            )
        values |= packed(
            uuid=head.uuid or (self.stamp.uuid if self.stamp is not None else str(uuid.uuid4())),
            block_size=head.block_size,
            cache_blocks=head.cache_blocks,
            region_blocks=region_blocks_for(head.cache_blocks),
            needs_check=False,
        )
        try:
            return Superblock.unpack(values)
        except MetadataError as exc:
            msg = f"{name} is no dump of a cache: {exc}"
            raise MetadataError(msg) from exc


def _is_ours(head: Head) -> bool:
    """Tell whether `fusecache dump` wrote the XML, and not a tool of dm-cache."""
    return "image_bytes" in head.notes


def _hints(policy: str) -> str:
    """Say whose hints they are; nobody's, if there is no such policy here."""
    try:
        return hint_signature(create_policy(policy, cache_blocks=1, origin_blocks=1, block_size=MIN_BLOCK_SIZE))
    except PolicyError:
        return ""
