"""Looking at what a mount is to use, before anything is touched.

Refused are: files that are missing, locked, too small for what is in them, or that do not belong together; metadata
that is foreign or damaged; a cache file that holds something else.

An origin is known again by its :class:`fusecache.metadata.Identity`.  If others changed it since a clean end, what is
cached of it is stale.  Clean blocks are then dropped; with dirty blocks in the cache the mount is refused, unless it is
the same file grown, as a sample of it shows: that explains the change, and what is newer than the origin counts as
before.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from fusecache.attach.cache_file import CacheSpace, is_blank
from fusecache.attach.choice import locate
from fusecache.attach.lease import lock
from fusecache.attach.plan import Plan
from fusecache.attach.resizing import Resize, plan_resize
from fusecache.attach.sizes import image_size, known_geometry, new_geometry
from fusecache.attach.stamp import DATA_START, read_stamp
from fusecache.block import Geometry
from fusecache.config import MIB
from fusecache.errors import MetadataError, RefusedError, UsageError
from fusecache.linux import open_trusted, resolve_trusted, size_of
from fusecache.metadata import Database, packed, region_blocks_for
from fusecache.paths import defaults_for
from fusecache.stores import open_for_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fusecache.attach.origin import Location
    from fusecache.config import MountConfig
    from fusecache.metadata import Superblock

_SAMPLE: Final = 16 * MIB
"""So much of an origin is read to see whether it is still the same."""
_TWICE: Final = 2


def inspect(config: MountConfig, *, environ: Mapping[str, str]) -> Plan:
    """Look at everything that a mount needs; lock it; change nothing.

    :raises FusecacheError: why not, in one line.
    """
    with ExitStack() as resources:
        places = _find(config, environ)
        cache_path, metadata_path = places.cache, places.metadata
        origin = places.origin.open(resources)
        cache_fd = _open(cache_path, resources) if cache_path.exists() else None
        has_metadata = _lock_metadata(metadata_path, resources)
        database, own_uuid = None, ""
        if has_metadata and metadata_path.stat().st_size:
            database, own_uuid = _known_database(config, metadata_path, cache_path, cache_fd, resources)
        if database is None and cache_fd is not None:
            own_uuid = _require_unused(config, cache_path, cache_fd, own_uuid)
        image_bytes = image_size(config, origin)
        if database is None or cache_fd is None:
            geometry = new_geometry(config, image_bytes, cache_path, cache_fd)
        else:
            geometry = known_geometry(config, database.superblock(), image_bytes, cache_path, cache_fd)
        plan = Plan(
            geometry=geometry,
            origin=origin,
            cache_path=cache_path,
            metadata_path=metadata_path,
            resources=resources,
            cache_fd=cache_fd,
            database=database,
            replace_metadata=has_metadata,
            own_directory=places.own_directory,
            uuid=own_uuid,
            notes=[places.note] if places.note else [],
        )
        _verify_claim(config, plan)
        if database is not None:
            plan.resize = _resize(plan, database, stale=_is_stale(plan, database))
        plan.resources = resources.pop_all()
    return plan


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the three parts are, or are to be."""

    origin: Location
    cache: Path
    metadata: Path
    own_directory: Path | None
    """The default directory, if anything is to go there."""
    note: str
    """What the user should hear of that."""


def _find(config: MountConfig, environ: Mapping[str, str]) -> _Places:
    """Find out where the parts are; refuse one file in two roles, whatever its names."""
    try:
        origin, cache, metadata, own_directory = locate(config.origin), config.cache, config.metadata, None
        note = ""
        if cache is None or metadata is None:
            defaults = defaults_for(origin.address, environ=environ, is_root=os.geteuid() == 0)
            cache, metadata = cache or defaults.cache, metadata or defaults.metadata
            own_directory, note = defaults.cache.parent, defaults.note
        places = _Places(origin, resolve_trusted(cache), resolve_trusted(metadata), own_directory, note)
        _require_three(places)
    except (OSError, RuntimeError) as exc:  # RuntimeError: a symbolic link to itself
        msg = f"cannot look at what is to be mounted: {exc}"
        raise RefusedError(msg) from exc
    return places


def _require_three(places: _Places) -> None:
    """Raise UsageError if two of the parts are one file, OSError if that cannot be told."""
    origin, cache, metadata = places.origin, places.cache, places.metadata
    for name, path in (("cache", cache), ("metadata", metadata)):
        if origin.is_at(path):
            msg = f"origin and {name} are the same: {origin.address}"
            raise UsageError(msg)
    if cache == metadata or (cache.exists() and metadata.exists() and cache.samefile(metadata)):
        msg = f"cache and metadata are the same: {cache}"
        raise UsageError(msg)


def _open(path: Path, resources: ExitStack) -> int:
    fd = open_for_store(path, trusted=True)
    resources.callback(os.close, fd)
    lock(fd, path, resources)
    return fd


def _lock_metadata(path: Path, resources: ExitStack) -> bool:
    """Lock a metadata file, an empty one too; returns whether there is one."""
    if not path.exists():
        return False
    if not path.is_file():
        msg = f"metadata {path} is not a file"
        raise MetadataError(msg)
    try:
        fd = open_trusted(path, os.O_RDWR)
    except OSError as exc:
        msg = f"cannot open metadata {path}: {exc.strerror}"
        raise MetadataError(msg) from exc
    resources.callback(os.close, fd)
    lock(fd, path, resources)
    return True


def _verify_claim(config: MountConfig, plan: Plan) -> None:
    """Refuse an origin whose newest data is in another cache, unless told twice to give that up."""
    claim = plan.origin.claim()
    own_uuid = plan.database.superblock().uuid if plan.database is not None else plan.uuid
    if claim is None or claim.uuid == own_uuid or config.format >= _TWICE:
        return
    if claim.holds(plan.origin.identity()):
        msg = (
            f"newer data of origin {plan.origin.address} is in the cache that metadata {claim.metadata} describes: "
            "mount it with that one, or give that data up with --format twice"
        )
        raise RefusedError(msg)


# What is known of an existing cache


def _known_database(
    config: MountConfig, metadata_path: Path, cache_path: Path, cache_fd: int | None, resources: ExitStack
) -> tuple[Database | None, str]:
    """Open existing metadata and hold the cache against it; returns it, and its uuid.

    None in its place if cache and metadata are to be made anew.
    """
    try:
        database = Database.open(metadata_path)
    except MetadataError as exc:
        if config.format >= _TWICE:
            return None, ""
        msg = f"{exc}; nothing was changed (--format twice makes it anew and throws away what the cache holds)"
        raise MetadataError(msg) from exc
    with ExitStack() as opened:
        opened.callback(database.close)
        if config.format:
            _require_disposable(config, database, cache_path)
            return None, database.values().get("uuid", "")  # of metadata that is given up, damaged or not
        superblock = database.superblock()
        _require_healthy(database, superblock)
        _verify_cache(database, superblock, cache_path, cache_fd)
        resources.push(opened.pop_all())
    return database, ""


def _require_disposable(config: MountConfig, database: Database, cache_path: Path) -> None:
    """Refuse to reformat a cache that holds dirty data, or may hold some, unless told so twice."""
    if config.format < _TWICE and database.has_suspects():
        dirty = database.count(dirty_only=True)
        msg = f"cache {cache_path} holds dirty data ({dirty} blocks known): --format a second time to throw it away"
        raise RefusedError(msg)


def _require_healthy(database: Database, superblock: Superblock) -> None:
    if superblock.needs_check:
        command = f"fusecache check --metadata {database.path} --clear-needs-check"
        msg = f"metadata {database.path} needs a check before it can be used: {command}"
        raise MetadataError(msg)


def _verify_cache(database: Database, superblock: Superblock, cache_path: Path, cache_fd: int | None) -> None:
    blocks = database.count(dirty_only=False)
    if cache_fd is None:
        msg = f"cache {cache_path} is missing, and metadata {database.path} has {blocks} blocks in it"
        raise RefusedError(msg)
    stamp = read_stamp(cache_fd)
    if stamp != superblock.uuid and (stamp or blocks or not is_blank(cache_fd)):
        msg = f"cache {cache_path} does not belong to metadata {database.path}"
        raise RefusedError(msg)


def _is_stale(plan: Plan, database: Database) -> bool:
    """Refuse an origin that is not the one cached; tell whether others changed it since."""
    superblock = database.superblock()
    cached, now = superblock.origin, plan.origin.identity()
    if not now.is_same_origin(cached):
        msg = f"cache {plan.cache_path} belongs to another origin, {cached.address}"
        raise RefusedError(msg)
    if not superblock.clean_shutdown or not now.has_changed_since(cached):
        return False
    dirty = database.count(dirty_only=True)
    has_grown = now.has_grown_since(cached) and _is_as_cached(plan, database)
    if dirty and not has_grown:
        msg = (
            f"origin {plan.origin.address} was changed by others while {dirty} newer blocks of it are in the cache; "
            "--format twice throws those away"
        )
        raise RefusedError(msg)
    if clean := database.count(dirty_only=False) - dirty:
        what = "grown" if has_grown else "changed"
        plan.notes.append(f"the origin was {what} outside fusecache: {clean} cached blocks were dropped")
    return True


def _is_as_cached(plan: Plan, database: Database) -> bool:
    """Tell whether some blocks of an origin that is longer now are as before; else another one was put in its place."""
    geometry = plan.geometry
    clean = (row for row in database.rows() if not row.dirty and 0 <= row.oblock < geometry.origin_blocks)
    summed = ((row.oblock * geometry.block_size, row.crc) for row in clean if row.crc is not None)
    sample = islice(summed, max(1, _SAMPLE // geometry.block_size))
    return all(crc32c(plan.origin.read_now(start, geometry.block_size)) == crc for start, crc in sample)


def _resize(plan: Plan, database: Database, *, stale: bool) -> Resize | None:
    """Find out what has to change because of other sizes, or because clean blocks are stale; None if nothing has to."""
    superblock = database.superblock()
    new = plan.geometry
    old = Geometry(superblock.image_bytes, new.block_size, superblock.cache_blocks)
    assert plan.cache_fd is not None
    room = CacheSpace(plan.cache_fd, plan.cache_path, new.block_size).room()
    cache_stays = old.cache_blocks == new.cache_blocks <= room
    if cache_stays and old.image_bytes <= new.image_bytes and not stale:
        return None
    regions = database.regions()
    resize = plan_resize(
        database.rows(), regions, region_blocks=superblock.region_blocks, old=old, new=new, room=room, stale=stale
    )
    if not regions:  # those that are open are numbered by the old size
        resize.transaction.values |= packed(region_blocks=region_blocks_for(new.cache_blocks))
    size = DATA_START + new.cache_blocks * new.block_size
    resize.transaction.values |= packed(cache_bytes=max(size_of(plan.cache_fd), size))
    if not cache_stays:
        dropped = len(resize.transaction.unmapped)
        had = min(old.cache_blocks, room)
        what = f"the cache had {had} blocks, and now has {new.cache_blocks}"
        plan.notes.append(f"{what}: {dropped} cached blocks were dropped" if dropped else what)
    return resize


def _require_unused(config: MountConfig, cache_path: Path, cache_fd: int, own_uuid: str) -> str:
    """Refuse to put a new cache over something else.

    :param own_uuid: that of the metadata which is given up.
    :return: it, if the cache has its stamp, so that the new metadata can go on with it; else nothing.
    """
    stamp = read_stamp(cache_fd)
    if stamp and stamp == own_uuid:
        return own_uuid
    if config.format < _TWICE and stamp:
        msg = f"cache {cache_path} belongs to metadata that is not here; --format twice throws away what it holds"
        raise RefusedError(msg)
    if not config.format and not is_blank(cache_fd):
        msg = f"{cache_path} holds data that is not a fusecache cache; --format to overwrite it"
        raise RefusedError(msg)
    return ""
