"""Finding and locking the files of a cache that is not mounted.

A mount holds origin, cache and metadata for itself (:mod:`fusecache.attach.lease`), and so does every offline tool:
whoever comes second is refused.
"""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusecache.attach import Claim, Claims, Location, Origin, default_places, hold, locate, lock, metadata_beside
from fusecache.errors import BusyError, FusecacheError, RefusedError, StoreError, UsageError
from fusecache.linux import resolve_trusted
from fusecache.stores import open_for_store, open_to_read

if TYPE_CHECKING:
    from collections.abc import Mapping
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

    :raises UsageError: neither origin nor metadata is given, and no metadata lies beside the cache.
    :raises RefusedError: one of them cannot be looked at.
    """
    if origin is None:
        if metadata is None and cache is not None and (beside := metadata_beside(_resolved(cache))) and beside.exists():
            metadata = beside
        if metadata is None:
            msg = "name the cache: by its ORIGIN, or by --metadata FILE"
            raise UsageError(msg)
        return Files(_resolved(metadata), cache and _resolved(cache), None)
    location = locate(origin)
    cache = cache and _resolved(cache)
    if cache is None or metadata is None:
        named = cache if metadata is None else None
        defaults = default_places(location, cache=named, environ=environ, is_root=os.geteuid() == 0)
        cache, metadata = cache or _resolved(defaults.cache), metadata or defaults.metadata
    return Files(_resolved(metadata), cache, location.address)


def _resolved(path: Path) -> Path:
    try:
        return resolve_trusted(path)
    except (OSError, RuntimeError) as exc:  # RuntimeError: a symbolic link to itself
        msg = f"cannot look at {path}: {exc}"
        raise RefusedError(msg) from exc


def exists_already(path: Path) -> RefusedError:
    """Return the error for something that is there, and is not to be replaced."""
    return RefusedError(f"{path} exists already, and nothing was changed")


def open_locked(path: Path, resources: ExitStack, *, writable: bool = False) -> int:
    """Open a cache or metadata, for reading unless said otherwise, and lock it until ``resources`` are closed.

    :raises BusyError: a mount or another command has it.
    :raises StoreError: it is missing, not permitted, or neither a file nor a block device.
    :raises UntrustedError: others may have made it, or may change it.
    """
    try:
        fd = (open_for_store if writable else open_to_read)(path, trusted=True)
        resources.callback(os.close, fd)
        lock(fd, path, resources)
    except BusyError as exc:
        raise _in_use(str(path), exc) from exc
    return fd


def open_metadata(files: Files, resources: ExitStack) -> None:
    """Lock the metadata until ``resources`` are closed.

    :raises FusecacheError: it is missing, or what :func:`open_locked` raises.
    """
    try:
        open_locked(files.metadata, resources)
    except StoreError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            raise no_metadata(files.metadata, _claim_on(files.origin)) from exc
        raise


def no_metadata(path: Path, claim: Claim | None) -> RefusedError:
    """Return the error for metadata that is not where it should be.

    :param claim: the one on the origin, if there is one.
    """
    last = ""
    if claim is not None:
        cache = claim.last_cache()
        last = (
            f"last used: {f'--cache {shlex.quote(cache)} ' if cache else ''}--metadata {shlex.quote(claim.metadata)}; "
        )
    return RefusedError(
        f"there is no metadata {path}: nothing is cached, or it is elsewhere ({last}name --metadata and --cache as at "
        "the mount; if their disk is not mounted, mount that first)"
    )


def _claim_on(address: str | None) -> Claim | None:
    """Read the claim on an origin; None if there is none, or if it cannot be read now."""
    if address is None:
        return None
    try:
        with ExitStack() as resources:
            return Claims.of(locate(address).open(resources, writable=False), os.environ).read()
    except (FusecacheError, OSError):
        return None


def open_origin(location: Location, resources: ExitStack, *, writable: bool = False) -> Origin:
    """Open an origin, for reading unless said otherwise, and keep others from it until ``resources`` are closed.

    :raises BusyError: a mount or another command has it.
    :raises StoreError: it is missing, not permitted, or cannot be an origin.
    """
    try:
        return location.open(resources, writable=writable)
    except BusyError as exc:
        raise _in_use(location.address, exc) from exc


def open_draft(path: Path, resources: ExitStack) -> Path:
    """Make an empty file beside ``path``, in which what is to be there can be made; one at a time.

    What one that was killed left there is made anew.  The file goes with the resources, unless it was renamed.

    :raises BusyError: another command makes the same.
    :raises UntrustedError: others could put something in its place.
    :raises OSError: it cannot be made.
    """
    draft = path.with_name(f"{path.name}.draft")
    try:
        os.truncate(hold(draft, resources), 0)
    except BusyError as exc:
        raise _in_use(str(draft), exc) from exc
    return draft


def _in_use(name: str, exc: BusyError) -> BusyError:
    by = exc.holder and f" ({exc.holder})"
    return BusyError(f"{name} is in use: unmount it first (or wait for the other command){by}")
