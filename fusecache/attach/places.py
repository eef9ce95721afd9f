"""Where the parts of a mount are by default: under the origin's name, or under one that it had before.

A disk may have another name tomorrow: ``/dev/sdb`` becomes ``/dev/sdc``, an image is renamed, and what lies under the
present name may be another disk's.  So where there is nothing, or another one's metadata, that of all default places is
asked whether it knows this origin by its signs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.errors import FusecacheError
from fusecache.metadata import Database, Identity
from fusecache.paths import DefaultPaths, defaults_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fusecache.attach.origin import Location


def default_places(location: Location, *, environ: Mapping[str, str], is_root: bool) -> DefaultPaths:
    """Name the files for an origin where the user named none; raises UsageError without a home."""
    named = defaults_for(location.address, environ=environ, is_root=is_root)
    if not (signs := location.signs()):
        return named
    now = Identity(location.address, place="", version="", size=None, signs=signs)
    if named.metadata.exists():
        before = _recorded_in(named.metadata)
        if before is None or not now.other_signs_than(before):
            return named
    elif named.cache.exists():
        return named
    for metadata in sorted(named.metadata.parent.glob("*.metadata")):
        before = _recorded_in(metadata)
        if before is not None and now.is_known_by_signs(before):
            return DefaultPaths(metadata.with_suffix(".cache"), metadata, metadata.with_suffix(".log"))
    return named


def _recorded_in(metadata: Path) -> Identity | None:
    """Read which origin some metadata knows; nothing if it cannot be read."""
    try:
        with Database.read_only(metadata) as database:
            return database.superblock().origin
    except FusecacheError:
        return None
