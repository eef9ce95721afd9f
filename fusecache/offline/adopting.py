"""Binding a cache to an origin that was copied, moved or restored, after it was shown that the two agree.

Theory of operation
-------------------
A mount knows its origin by what it is (:mod:`fusecache.metadata.identity`), so it refuses a copy, though that has every
byte.  Here every clean block is read from the origin and held against its sum.  One that differs shows that this is
another origin, or the same one at another time: what is dirty in the cache must not be written over it.  If all agree
the record takes the origin as it is now, under a new generation, in all three parts.  So of two copies of one cache
that are both used from now on, no part fits the other's.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusecache.attach import (
    Claim,
    Claims,
    Origin,
    held_against,
    is_claim_accepted,
    locate,
    read_stamp,
    require_no_other_claim,
    require_one_moment,
    require_same_generation,
)
from fusecache.errors import RefusedError
from fusecache.metadata import Database, packed
from fusecache.offline.opening import open_locked, open_metadata, open_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fusecache.metadata import Superblock
    from fusecache.offline.opening import Files

    Progress = Callable[[int, int], None]
    """Hears how many blocks are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was found."""

    origin: str
    compared: int
    newer: int
    """Blocks that the origin lacks."""


def adopt(files: Files, environ: Mapping[str, str], progress: Progress, *, force: bool = False) -> Adopted:
    """Bind the cache to the origin that the files name.

    :param force: also where nothing of what is cached can be compared, or where the origin may have been written since.
    :raises FusecacheError: the parts do not agree; nothing was changed.
    """
    assert files.origin is not None
    assert files.cache is not None
    with ExitStack() as resources:
        open_metadata(files, resources)
        cache_fd = open_locked(files.cache, resources, writable=True)
        origin = open_origin(locate(files.origin), resources, writable=True)
        claims = Claims.of(origin, environ)
        with Database.read_only(files.metadata) as looked_at:
            superblock = looked_at.superblock()
            _require_parts(files, superblock, cache_fd, claims, looked_at.count_newer())
            adopted = _compare(origin, looked_at, progress)
            is_empty = not looked_at.count(dirty_only=False)
        if not force:
            _require_certain(adopted, superblock, claims, is_empty=is_empty)
        database = resources.enter_context(closing(Database.open(files.metadata)))
        bond = claims.bond(database, cache_fd=cache_fd)
        origin.make_identity_durable()
        database.set_values(packed(origin=origin.identity(), origin_claimed=False) | bond.renewed())
        bond.settle(clean=not adopted.newer, empty=is_empty)
    return adopted


def _require_certain(adopted: Adopted, superblock: Superblock, claims: Claims, *, is_empty: bool) -> None:
    """Refuse what no comparison can show; raises RefusedError."""
    if not (adopted.compared or is_empty):
        msg = (
            f"nothing that is cached can be compared with {adopted.origin}: if you know that it is the right one, "
            "use --force"
        )
        raise RefusedError(msg)
    now, claim = claims.origin.identity(), claims.read()
    reason = ""
    if claim is not None and claim.uuid != superblock.uuid:
        reason = f"another cache was in front of {adopted.origin}"
    elif superblock.clean_shutdown and now.has_changed_since(superblock.origin):
        reason = f"{adopted.origin} was written after the last mount, or is a copy without the original's time"
    if reason and adopted.newer:
        msg = (
            f"{reason}: {adopted.newer} newer blocks in the cache would go over what was written since; if nothing "
            "was, use --force"
        )
        raise RefusedError(msg)


def _require_parts(files: Files, superblock: Superblock, cache_fd: int, claims: Claims, newer: int) -> None:
    """Refuse parts that are not of one moment, and an origin that is too short; raises RefusedError."""
    assert files.cache is not None
    stamp = read_stamp(cache_fd)
    if stamp is None or stamp.uuid != superblock.uuid:
        msg = f"cache {files.cache} does not belong to metadata {files.metadata}"
        raise RefusedError(msg)
    require_same_generation(stamp, superblock, cache=files.cache, metadata=files.metadata)
    origin, claim = claims.origin, claims.read()
    if origin.size < superblock.image_bytes:
        msg = f"origin {origin.address} has {origin.size} bytes, fewer than the image's {superblock.image_bytes}"
        raise RefusedError(msg)
    require_no_other_claim(superblock.uuid, claim, now=origin.identity(), is_disproved=Claim.is_disproved)
    require_one_moment(superblock, claim)
    is_ours = claim is not None and claim.uuid == superblock.uuid
    if newer and claim is not None and is_ours and not is_claim_accepted(claim.generation, superblock):
        msg = (
            f"{origin.address} was used by a copy of this cache, of generation {claim.generation} (metadata {claim}), "
            f"and {newer} blocks here are newer than what that copy began with: one of the two has to give way"
        )
        raise RefusedError(msg)


def _compare(origin: Origin, database: Database, progress: Progress) -> Adopted:
    """Read every clean block; raises RefusedError if one is not what it was."""
    size, total = database.superblock().block_size, database.count(dirty_only=False)
    newer = database.count_newer()
    compared = differing = 0
    for agrees in held_against(origin, database.sums(), size):
        compared += 1
        differing += not agrees
        progress(compared, total - newer)
    if differing:
        msg = (
            f"{differing} of {compared} clean blocks are not what {origin.address} has, so it is not the one that is "
            f"cached, or not as it was; {newer} blocks in the cache are newer than that one was"
        )
        raise RefusedError(msg)
    return Adopted(origin.address, compared, newer)


def describe_adoption(adopted: Adopted) -> Iterator[str]:
    """Yield what to tell the user, line by line."""
    yield f"{adopted.compared} clean blocks were compared with {adopted.origin}, and agree"
    if adopted.newer:
        yield f"{adopted.newer} blocks in the cache are newer, and stay dirty"
    yield f"the cache belongs to {adopted.origin} from now on"
