"""Where the parts of a mount are that the user did not name.

Theory of operation
-------------------
*Neither cache nor metadata was named.*  Both lie among the default files, under the origin's name, or under one that it
had before.  A disk may have another name tomorrow: ``/dev/sdb`` becomes ``/dev/sdc``, an image is renamed, and what
lies under the present name may be another disk's.  So where there is nothing, or another one's metadata, that of all
default places is asked whether it knows this origin by its signs.

*The cache alone was named.*  Its metadata lies beside it, as ``CACHE.metadata``.  Earlier versions put it among the
default files, and there it still goes where it cannot lie beside its cache: a device has no such place, not every
directory may be written, and a cache may fill its file system.  So there are two places, and a record in one of them
must not be passed by for a new one in the other.  What lies there is asked whether it is this cache's: whether it has
the uuid of the cache's stamp, or, where no stamp can be read, whether it names this cache as the one that it was last
used with.  If both are, one of them is a copy; the stamp's generation says which one is older, and if it does not,
nothing is decided here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fusecache.attach.generation import is_accepted
from fusecache.attach.stamp import DAMAGED, Stamp, read_stamp
from fusecache.errors import FusecacheError, RefusedError
from fusecache.metadata import Database, Identity, Superblock
from fusecache.paths import DefaultPaths, defaults_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusecache.attach.origin import Location

_DEVICES: Final = Path("/dev")
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - it is asked about, not used
"""Below :data:`_DEVICES`, and yet a place for files."""


def metadata_beside(cache: Path) -> Path | None:
    """Name the metadata that lies beside a cache; None beside a device.

    :param cache: absolute, without links; it need not exist.
    """
    is_device = cache.is_relative_to(_DEVICES) and not cache.is_relative_to(_MEMORY)
    return None if is_device or cache.is_block_device() else cache.with_name(f"{cache.name}.metadata")


def default_places(
    location: Location, *, cache: Path | None = None, environ: Mapping[str, str], is_root: bool
) -> DefaultPaths:
    """Name the files for an origin where the user named none.

    :param cache: the one that the user named, absolute and without links.
    :raises UsageError: there is no home to put them in.
    :raises RefusedError: two records are of the same cache, and which of them is right cannot be told.
    """
    usual = _usual_places(location, environ=environ, is_root=is_root)
    if cache is None or (beside := metadata_beside(cache)) is None:
        return usual
    return _places_of(cache, beside, usual)


def _usual_places(location: Location, *, environ: Mapping[str, str], is_root: bool) -> DefaultPaths:
    """Name the default files of an origin, whatever it is called today."""
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
    superblock = _Record.read(metadata).superblock
    return None if superblock is None else superblock.origin


@dataclass(frozen=True, slots=True)
class _Record:
    """Metadata that lies somewhere."""

    path: Path
    superblock: Superblock | None
    """None if it cannot be read."""

    @classmethod
    def read(cls, path: Path) -> _Record:
        """Look at a file, in whatever state."""
        try:
            with Database.read_only(path) as database:
                return cls(path, database.superblock())
        except FusecacheError:
            return cls(path, None)

    def is_of(self, cache: Path, stamp: Stamp | None) -> bool:
        """Tell whether it is the record of a cache."""
        if self.superblock is None:
            return False
        return self.superblock.cache_path == str(cache) if stamp is None else self.superblock.uuid == stamp.uuid

    def must_be_seen(self, stamp: Stamp | None) -> bool:
        """Tell whether there may be more to it: it is damaged, may be of this cache after all, or has dirty blocks."""
        if self.superblock is None or (stamp is None and not self.superblock.cache_path):  # as earlier versions wrote
            return True
        with Database.read_only(self.path) as database:
            return database.has_suspects()


def _places_of(cache: Path, beside: Path, usual: DefaultPaths) -> DefaultPaths:
    """Find the metadata of a cache, or a place for it."""
    stamp = _stamp_of(cache)
    found = [_Record.read(path) for path in (beside, usual.metadata) if _is_there(path)]
    match [record for record in found if record.is_of(cache, stamp)]:
        case [record]:
            chosen, note = record.path, ""
        case [one, other]:
            chosen, note = _newer(cache, stamp, one, other)
        case _:
            chosen, note = _place_for_new(beside, usual.metadata, found, stamp), ""
            if not found and chosen == beside:
                roomy = None if os.path.lexists(usual.metadata) else usual.metadata
                return replace(usual, metadata=beside, note="", roomy=roomy)
    return usual if chosen == usual.metadata and not note else replace(usual, metadata=chosen, note=note)


def _newer(cache: Path, stamp: Stamp | None, *records: _Record) -> tuple[Path, str]:
    """Choose from two records of one cache that which is of one moment with it, and say so; raises RefusedError."""
    fitting = [
        record.path
        for record in records
        if stamp is not None and record.superblock is not None and is_accepted(stamp.generation, record.superblock)
    ]
    paths = [record.path for record in records]
    if len(fitting) != 1:
        msg = (
            f"{' and '.join(map(str, paths))} both describe cache {cache}, and one of them is a copy that may lack "
            "the latest: name the right one with --metadata, or move the other one away"
        )
        raise RefusedError(msg)
    (chosen,) = fitting
    (older,) = (path for path in paths if path != chosen)
    return chosen, f"{older} is an older copy of {chosen}, and is not used"


def _place_for_new(beside: Path, usual: Path, found: list[_Record], stamp: Stamp | None) -> Path:
    """Choose where the metadata is to be of a cache of which nothing that lies there is known to be the record.

    What cannot be told, or may have newer data of this origin in another cache, the mount has to see and refuse.
    """
    if any(record.path == beside for record in found):
        return beside
    is_closed = beside.parent.is_dir() and not os.access(beside.parent, os.W_OK | os.X_OK)
    return usual if is_closed or any(record.must_be_seen(stamp) for record in found) else beside


def _is_there(metadata: Path) -> bool:
    """Tell whether something is recorded; whoever was killed may have left an empty file."""
    try:
        return metadata.lstat().st_size > 0
    except OSError:
        return False


def _stamp_of(cache: Path) -> Stamp | None:
    """Read the stamp of a cache that may be anything; None if it says nothing."""
    try:
        fd = os.open(cache, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        stamp = read_stamp(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None if stamp == DAMAGED else stamp
