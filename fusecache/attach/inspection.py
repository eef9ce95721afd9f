"""Looking at what a mount is to use, before anything is touched.

Refused are: files that are missing, locked, too small for what is in them, or that do not belong together; metadata
that is foreign or damaged; a cache file that holds something else.

Whether the origin is the one that is cached, and unchanged, :mod:`fusecache.attach.agreement` decides.  If it was
changed, what is cached of it is stale: clean blocks are dropped; with newer blocks in the cache the mount is refused.
"""

from __future__ import annotations

import os
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusecache.attach.agreement import Verdict, judge_origin, require_no_other_claim, require_one_moment
from fusecache.attach.bond import require_same_generation
from fusecache.attach.cache_file import CacheSpace
from fusecache.attach.choice import locate
from fusecache.attach.claim import Claim
from fusecache.attach.claims import Claims
from fusecache.attach.contents import found_on
from fusecache.attach.findings import look_at_origin
from fusecache.attach.image_formats import HEAD, format_of, refusal
from fusecache.attach.lease import lock
from fusecache.attach.places import default_places
from fusecache.attach.plan import Plan
from fusecache.attach.resizing import Resize, plan_resize
from fusecache.attach.sizes import has_room_beside, image_size, known_geometry, new_geometry, told_of_size
from fusecache.attach.stamp import DATA_START, read_stamp
from fusecache.attach.times import times_at_mount
from fusecache.block import Geometry
from fusecache.errors import MetadataError, RefusedError, UsageError
from fusecache.linux import open_trusted, resolve_trusted, size_of
from fusecache.metadata import Database, packed, region_blocks_for
from fusecache.stores import open_for_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fusecache.attach.origin import Location, Origin
    from fusecache.config import MountConfig
    from fusecache.metadata import Superblock

_TWICE: Final = 2


def inspect(config: MountConfig, *, environ: Mapping[str, str]) -> Plan:
    """Look at everything that a mount needs; lock it; change nothing.

    :raises FusecacheError: why not, in one line.
    """
    with ExitStack() as resources:
        places = _find(config, environ)
        cache_path, metadata_path = places.cache, places.metadata
        origin = places.origin.open(resources, writable=False)
        cache_fd = _open(cache_path, resources) if cache_path.exists() else None
        has_metadata = _lock_metadata(metadata_path, resources)
        looking = resources.enter_context(ExitStack())
        database, given_up = None, None
        if has_metadata and metadata_path.stat().st_size:
            database, given_up = _known_database(config, metadata_path, cache_path, cache_fd, looking)
        own_uuid = given_up.uuid if given_up is not None else ""
        claims = Claims.of(origin, environ)
        notes = [places.note] if places.note else []
        if database is None and cache_fd is not None:
            own_uuid = _require_unused(config, cache_path, cache_fd, own_uuid, claims)
        image_bytes = image_size(config, origin)
        if database is None or cache_fd is None:
            geometry = new_geometry(config, image_bytes, cache_path, cache_fd)
        else:
            geometry = known_geometry(config, database.superblock(), image_bytes, cache_path, cache_fd)
        if note := told_of_size(config, geometry):
            notes.append(note)
        if not has_metadata and places.roomy is not None and not has_room_beside(cache_path, cache_fd, geometry):
            metadata_path = places.roomy
        verdict = Verdict.SAME
        if database is not None:
            found = look_at_origin(claims, database)
            verdict = judge_origin(database.superblock(), found, arguments=_arguments(config))
            notes += _other_cache(found.claim, database.superblock().uuid)
        elif config.format < _TWICE:
            _require_no_claim(claims, given_up)
            notes += _other_cache(claims.read(), own_uuid)
        if database is None or verdict is Verdict.CHANGED:
            _require_raw(config, origin)
        plan = Plan(
            geometry=geometry,
            origin=origin,
            claims=claims,
            cache_path=cache_path,
            metadata_path=metadata_path,
            resources=resources,
            looking=looking,
            cache_fd=cache_fd,
            database=database,
            replace_metadata=has_metadata,
            own_directory=places.own_directory,
            uuid=own_uuid,
            read_only="asked for with -o ro" if config.read_only else origin.unwritable,
            notes=notes,
            image_times=times_at_mount(
                None if database is None else database.superblock(),
                origin.times(),
                unchanged=verdict is Verdict.SAME,
                newer=database is not None and database.count_newer() > 0,
                now_ns=time.time_ns(),
            ),
        )
        if database is not None:
            _note_change(plan, database, verdict)
            plan.resize = _resize(plan, database, stale=verdict is not Verdict.SAME)
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
    roomy: Path | None
    """Where new metadata goes that has no room in its place."""


def _find(config: MountConfig, environ: Mapping[str, str]) -> _Places:
    """Find out where the parts are; refuse one file in two roles, whatever its names."""
    try:
        origin, metadata, own_directory, note, roomy = locate(config.origin), config.metadata, None, "", None
        cache = config.cache and resolve_trusted(config.cache)
        if cache is None or metadata is None:
            named = cache if metadata is None else None
            defaults = default_places(origin, cache=named, environ=environ, is_root=os.geteuid() == 0)
            own_directory, note = defaults.cache.parent, defaults.note
            roomy = defaults.roomy and resolve_trusted(defaults.roomy)
            cache, metadata = cache or resolve_trusted(defaults.cache), metadata or defaults.metadata
        places = _Places(origin, cache, resolve_trusted(metadata), own_directory, note, roomy)
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
        msg = f"metadata {path} is not a file: name one, which is made if it is not there"
        raise MetadataError(msg)
    try:
        fd = open_trusted(path, os.O_RDWR)
    except OSError as exc:
        msg = f"cannot open metadata {path}: {exc.strerror}"
        raise MetadataError(msg) from exc
    resources.callback(os.close, fd)
    lock(fd, path, resources)
    return True


# Whether an origin may be used with this cache


def _require_raw(config: MountConfig, origin: Origin) -> None:
    """Refuse a disk that is wrapped up; what has come to an origin by mounts of this cache is not asked about."""
    if config.raw:
        return
    head, tail = origin.read_now(0, HEAD), origin.read_now(max(0, origin.size - HEAD), HEAD)
    if (found := format_of(head, tail)) is not None:
        raise RefusedError(refusal(origin.address, found))


def _require_no_claim(claims: Claims, given_up: Superblock | None) -> None:
    """Refuse to put a new cache in front of an origin whose newest data may be elsewhere."""
    claim = claims.read()
    if given_up is not None:
        require_one_moment(given_up, claim)
    own_uuid = given_up.uuid if given_up is not None else ""
    require_no_other_claim(
        own_uuid,
        claim,
        now=claims.origin.identity(),
        is_disproved=Claim.is_disproved,
        last_cache=Claim.last_cache,
    )


def _other_cache(claim: Claim | None, own_uuid: str) -> list[str]:
    """Tell of another cache that the origin had, and that has nothing newer; else it would have been refused."""
    if claim is None or claim.uuid == own_uuid or not (last := claim.last_cache()):
        return []
    return [f"last used: {last}, which has nothing that the origin lacks; this is another one"]


def _note_change(plan: Plan, database: Database, verdict: Verdict) -> None:
    clean = database.count(dirty_only=False) - database.count_newer()
    if verdict is not Verdict.SAME and clean:
        plan.notes.append(f"the origin was {verdict.value} outside fusecache: {clean} cached blocks were dropped")


def _arguments(config: MountConfig) -> str:
    """Return the words by which a command is told the files of this mount."""
    words = [config.origin]
    words += ["--cache", str(config.cache)] if config.cache is not None else []
    words += ["--metadata", str(config.metadata)] if config.metadata is not None else []
    return shlex.join(words)


# What is known of an existing cache


def _known_database(
    config: MountConfig, metadata_path: Path, cache_path: Path, cache_fd: int | None, looking: ExitStack
) -> tuple[Database | None, Superblock | None]:
    """Look at existing metadata and hold the cache against it.

    Returns it, open for reading; or None and, if it can be read, what it says, if cache and metadata are to be made
    anew.
    """
    try:
        database = looking.enter_context(Database.read_only(metadata_path))
        superblock = database.superblock()
    except MetadataError as exc:
        if config.format >= _TWICE:
            return None, None
        msg = f"{exc}; nothing was changed (--format twice makes it anew and throws away what the cache holds)"
        raise MetadataError(msg) from exc
    if config.format:
        _require_disposable(config, database, cache_path)
        return None, superblock
    _require_healthy(database, superblock)
    _verify_cache(database, superblock, cache_path, cache_fd)
    return database, superblock


def _require_disposable(config: MountConfig, database: Database, cache_path: Path) -> None:
    """Refuse to reformat a cache that holds dirty data, or may hold some, unless told so twice."""
    if config.format < _TWICE and database.has_suspects():
        dirty = database.count(dirty_only=True)
        msg = f"cache {cache_path} holds dirty data ({dirty} blocks known): --format a second time to throw it away"
        raise RefusedError(msg)


def _require_healthy(database: Database, superblock: Superblock) -> None:
    if superblock.needs_check:
        command = shlex.join(["fusecache", "check", "--metadata", str(database.path), "--clear-needs-check"])
        msg = f"metadata {database.path} needs a check before it can be used: {command}"
        raise MetadataError(msg)


def _format_for(database: Database) -> str:
    """Say what it takes to give up what this metadata describes."""
    return "mount --format twice, which gives up what is dirty" if database.has_suspects() else "mount --format"


def _verify_cache(database: Database, superblock: Superblock, cache_path: Path, cache_fd: int | None) -> None:
    blocks = database.count(dirty_only=False)
    last = _last_used(superblock, cache_path)
    if cache_fd is None:
        msg = (
            f"cache {cache_path} is missing, and metadata {database.path} has {blocks} blocks in it{last}: name it "
            "with --cache if it is elsewhere (if its disk is not mounted, mount that first), or begin anew with "
            f"{_format_for(database)}"
        )
        raise RefusedError(msg)
    stamp = read_stamp(cache_fd)
    if stamp is None and not blocks and not found_on(cache_fd):
        return
    if stamp is None or stamp.uuid != superblock.uuid:
        msg = f"cache {cache_path} does not belong to metadata {database.path}{last}"
        raise RefusedError(msg)
    require_same_generation(stamp, superblock, cache=cache_path, metadata=database.path)


def _last_used(superblock: Superblock, cache_path: Path) -> str:
    """Say which cache some metadata was last used with, if it was another one."""
    last = superblock.cache_path
    return f"; last used: {last}" if last and last != str(cache_path) else ""


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


def _require_unused(config: MountConfig, cache_path: Path, cache_fd: int, own_uuid: str, claims: Claims) -> str:
    """Refuse to put a new cache over something else.

    :param own_uuid: that of the metadata which is given up.
    :return: it, if the cache has its stamp, so that the new metadata can go on with it; else nothing.
    """
    stamp = read_stamp(cache_fd)
    if stamp is not None and stamp.uuid == own_uuid:
        return own_uuid
    if config.format < _TWICE and stamp is not None:
        claim = claims.read()
        last = f" (last used: --metadata {claim.metadata})" if claim is not None and claim.uuid == stamp.uuid else ""
        msg = f"cache {cache_path} belongs to metadata that is not here{last}; --format twice throws away what it holds"
        raise RefusedError(msg)
    if not config.format and (found := found_on(cache_fd)):
        msg = f"{cache_path} holds {found}; --format to overwrite it"
        raise RefusedError(msg)
    return ""
