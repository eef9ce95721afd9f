"""Where things live by default: one set of names for each origin, found again by the next mount.

A cache may hold the only copy of something, and so may not lie where people and cleaners delete what seems to be worth
nothing.  So it lies, with its metadata, among what programs keep (``$XDG_STATE_HOME``, ``/var/lib``).  What earlier
versions put elsewhere is used where it lies.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusecache.config import MountConfig


ROOT_DIRECTORY: Final = Path("/var/lib/fusecache")
EARLIER_ROOT_DIRECTORY: Final = Path("/var/cache/fusecache")

SCHEMES: Final[frozenset[str]] = frozenset()
"""Of the origins that are no files; what does not begin with one of them is a path."""
_MAX_STEM: Final = 200
"""Bytes of the origin's name that are kept, so that no file name comes near the usual limit of 255."""


@dataclass(frozen=True, slots=True)
class DefaultPaths:
    """The files that belong to one origin where nothing else was said; none of them need exist."""

    cache: Path
    metadata: Path
    log: Path
    note: str = ""
    """What the user should hear of the place."""
    roomy: Path | None = None
    """Where metadata goes that is new, and has no room in its own place; None if it has to be there."""


def scheme_of(address: str) -> str:
    """Return the scheme of an origin's address that is a URL; an empty string for a path."""
    scheme, colon, _ = address.partition("://")
    return scheme if colon and scheme in SCHEMES else ""


def absolute_address(address: str) -> str:
    """Return an origin's address that means the same in any directory."""
    return address if scheme_of(address) else str(Path(address).absolute())


def defaults_for(origin: str, *, environ: Mapping[str, str], is_root: bool) -> DefaultPaths:
    """Name the files for ``origin``: the same ones whatever link or relative path it is reached by.

    Root's are in one place whatever its environment says: a cache that holds dirty data must be found again.

    :raises UsageError: there is no home to put them in.
    """
    directory = own_directory(environ=environ, is_root=is_root)
    usual = _names_in(directory, origin)
    earlier_directory = EARLIER_ROOT_DIRECTORY if is_root else _below(environ, "XDG_CACHE_HOME", ".cache")
    if earlier_directory is None or _has_any(usual):
        return usual
    earlier = _names_in(earlier_directory, origin)
    if not _has_any(earlier):
        return usual
    note = (
        f"cache and metadata lie in {earlier_directory}, which people and cleaners empty: when this is unmounted, move "
        f"{earlier.cache.stem}.* to {directory}"
    )
    return replace(earlier, note=note)


def own_directory(*, environ: Mapping[str, str], is_root: bool) -> Path:
    """Return the directory of all that has no other place; raises UsageError where there is no home to put it in."""
    directory = ROOT_DIRECTORY if is_root else _below(environ, "XDG_STATE_HOME", ".local/state")
    if directory is None:
        msg = "neither XDG_STATE_HOME nor HOME is set: say where to put things with --cache and --metadata"
        raise UsageError(msg)
    return directory


def _names_in(directory: Path, origin: str) -> DefaultPaths:
    real = origin if scheme_of(origin) else os.path.realpath(origin)
    stem = os.fsdecode(os.fsencode(Path(real).name)[:_MAX_STEM])
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:8]
    cache, metadata, log = (directory / f"{stem}-{digest}.{kind}" for kind in ("cache", "metadata", "log"))
    return DefaultPaths(cache, metadata, log)


def claims_directory(*, environ: Mapping[str, str], is_root: bool) -> Path | None:
    """Name the directory for claims on origins that cannot keep them; None without a home."""
    try:
        return own_directory(environ=environ, is_root=is_root) / "claims"
    except UsageError:
        return None


def _has_any(paths: DefaultPaths) -> bool:
    return any(os.path.lexists(path) for path in (paths.cache, paths.metadata))


def log_for(config: MountConfig, *, environ: Mapping[str, str], is_root: bool) -> Path:
    """Name the log of a mount in the background: beside its metadata if that was named, else among the defaults."""
    if config.metadata is not None:
        return config.metadata.with_name(f"{config.metadata.name}.log")
    return defaults_for(config.origin, environ=environ, is_root=is_root).log


def _below(environ: Mapping[str, str], variable: str, in_home: str) -> Path | None:
    """Return fusecache's directory in one of the user's (XDG Base Directory Specification); None without a home."""
    base = Path(environ.get(variable, ""))
    if not base.is_absolute():  # the specification: relative ones are to be ignored
        home = environ.get("HOME", "")
        if not home:
            return None
        base = Path(home, in_home)
    return base / "fusecache"
