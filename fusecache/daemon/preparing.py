"""Everything that comes before FUSE: what can be refused is refused, and the record is recovered.

It all happens at once, without the event loop, so whoever waits for it can interrupt it.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from fusecache.attach import DamagedRowError, hint_signature, inspect, recover, remember
from fusecache.block import BlockLocks
from fusecache.config import Mode, Ownership
from fusecache.durability import Durability, read_slate
from fusecache.errors import BusyError, MetadataError, RefusedError
from fusecache.volume import Volume, new_policy

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from fusecache.attach import Binding, Plan
    from fusecache.block import Mapping
    from fusecache.config import MountConfig
    from fusecache.daemon.lifeline import Heir
    from policies import Policy

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is going to be mounted."""

    volume: Volume
    binding: Binding
    suspects: int
    """Blocks that are dirty only because a crash left it open whether they are."""


def prepare(config: MountConfig, resources: ExitStack, *, heir: Heir | None = None) -> Prepared:
    """Open, create and recover what a mount needs; closed with the resources.

    :param heir: if the mount is there already; then nobody answers who asks what its mountpoint is.
    :raises FusecacheError: why it cannot be mounted; nothing was changed.
    """
    if heir is None:
        _require_mountpoint(config.mountpoint)
    _require_right_to_give_away(config.ownership)
    plan = inspect(config, environ=dict(os.environ))
    resources.enter_context(plan.resources)
    new_policy(plan.geometry, config.policy)  # refuse before anything is created
    if heir is not None and _is_dirty_passthrough(plan, config.mode):
        log.warning("writethrough, and no passthrough, as a crash left it open whether the cache is clean")
        config = replace(config, mode=Mode.WRITETHROUGH)
    _refuse_dirty_passthrough(plan, config.mode)
    binding = plan.carry_out(config.page_cache)
    if heir is not None and (notes := read_slate(heir.slate, binding.uuid)):
        binding.make_rows(notes)
        log.info("rows were made of what the last process had noted", blocks=len(notes))
    policy = new_policy(plan.geometry, config.policy)
    superblock = binding.database.superblock()
    remember(policy, superblock)
    try:
        recovered = recover(
            binding.database.rows(),
            binding.database.regions(),
            geometry=binding.geometry,
            region_blocks=binding.region_blocks,
            policy=policy,
            hints_valid=binding.was_clean and superblock.hints == hint_signature(policy),
        )
    except DamagedRowError as exc:
        msg = f"metadata {binding.metadata_path} is damaged: {exc}"
        raise MetadataError(msg) from exc
    policy.allow_migrations(config.mode is not Mode.PASSTHROUGH)
    volume = make_volume(binding, policy, recovered.mapping, recovered.open_regions, config.mode)
    volume.discard_passdown = config.discard_passdown
    if superblock.stats is None:
        log.warning("the counters of earlier mounts cannot be read and begin at 0 again")
    volume.counters.restore(superblock.stats or {})
    if config.policy.migration_threshold is not None:
        volume.migration_threshold = config.policy.migration_threshold
    if binding.read_only:
        dirty = volume.mapping.dirty_count
        stays = f"; {dirty} dirty blocks stay in the cache" if dirty else ""
        binding.notes.append(f"the image is read-only: {binding.read_only}{stays}")
    if not binding.was_clean:
        binding.notes.append(_recovery_note(volume.mapping.dirty_count, recovered.suspects))
    log.info(
        "recovered",
        clean=binding.was_clean,
        blocks=volume.mapping.mapped_count,
        dirty=volume.mapping.dirty_count,
        suspects=recovered.suspects,
    )
    return Prepared(volume, binding, recovered.suspects)


def _recovery_note(dirty: int, suspects: int) -> str:
    doubt = f", {suspects} of them because they may have been written at the time" if suspects else ""
    return f"recovered after a crash: {dirty} blocks are dirty{doubt}"


def make_volume(binding: Binding, policy: Policy, mapping: Mapping, open_regions: set[int], mode: Mode) -> Volume:
    """Put the parts of a volume together."""
    locks = BlockLocks()
    volume = Volume(
        geometry=binding.geometry,
        mapping=mapping,
        locks=locks,
        policy=policy,
        cache=binding.cache,
        origin=binding.origin,
        durability=Durability(
            mapping,
            locks,
            cache=binding.cache,
            origin=binding.origin,
            record=binding.database,
            region_blocks=binding.region_blocks,
            open_regions=open_regions,
        ),
        mode=mode,
    )
    volume.health.origin_read_only = binding.read_only
    return volume


def _require_mountpoint(path: Path) -> None:
    try:
        is_directory = path.is_dir()
        if not is_directory:
            msg = f"mountpoint {path} is not a directory" if path.exists() else f"mountpoint {path} does not exist"
            raise RefusedError(msg)
        is_empty = not any(path.iterdir())  # raises for a mount whose daemon has died
        if os.path.ismount(path):
            msg = f"mountpoint {path} is busy: something is mounted there already"
            raise BusyError(msg)
        if not is_empty:
            msg = f"mountpoint {path} is not empty"
            raise RefusedError(msg)
    except OSError as exc:
        command = shlex.join(["fusermount3", "-u", "--", str(path)])
        msg = f"mountpoint {path}: {exc.strerror} (a dead mount? try: {command})"
        raise RefusedError(msg) from exc


def _require_right_to_give_away(ownership: Ownership) -> None:
    """Refuse what chown(1) would refuse: who gives his image away could neither use nor unmount it any more."""
    if os.geteuid() == 0:
        return
    if ownership.uid not in {None, os.geteuid()}:
        msg = f"only root can give the image to user {ownership.uid}"
        raise RefusedError(msg)
    if ownership.gid not in {None, os.getegid(), *os.getgroups()}:
        msg = f"only root, or who is in group {ownership.gid}, can give the image to that group"
        raise RefusedError(msg)


def _is_dirty_passthrough(plan: Plan, mode: Mode) -> bool:
    return mode is Mode.PASSTHROUGH and plan.database is not None and plan.database.has_suspects()


def _refuse_dirty_passthrough(plan: Plan, mode: Mode) -> None:
    """Refuse passthrough over a cache that has, or after a crash may have, something that the origin does not have."""
    if _is_dirty_passthrough(plan, mode):
        assert plan.database is not None
        count = plan.database.count(dirty_only=True) or "some"
        msg = f"passthrough needs a clean cache, and {count} blocks are dirty: mount writethrough and flush first"
        raise RefusedError(msg)
