"""Where the parts of a mount are by default: under the origin's name, or under one that it had before.

A disk may have another name tomorrow: ``/dev/sdb`` becomes ``/dev/sdc``, an image is renamed.  Where nothing lies under
the present name, the metadata of all default places is asked whether it knows this origin by its signs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusecache.errors import FusecacheError
from fusecache.metadata import Database, Identity
from fusecache.paths import DefaultPaths, defaults_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusecache.attach.origin import Location


def default_places(location: Location, *, environ: Mapping[str, str], is_root: bool) -> DefaultPaths:
    """Name the files for an origin where the user named none; raises UsageError without a home."""
    named = defaults_for(location.address, environ=environ, is_root=is_root)
    if named.metadata.exists() or named.cache.exists() or not (signs := location.signs()):
        return named
    now = Identity(location.address, place="", version="", size=None, signs=signs)
    for metadata in sorted(named.metadata.parent.glob("*.metadata")):
        try:
            with Database.read_only(metadata) as database:
                is_its = now.is_known_by_signs(database.superblock().origin)
        except FusecacheError:
            continue
        if is_its:
            return DefaultPaths(metadata.with_suffix(".cache"), metadata, metadata.with_suffix(".log"))
    return named
