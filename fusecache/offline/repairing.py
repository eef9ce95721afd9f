"""New metadata from damaged metadata: what is certain is taken over, the rest is named.

Theory of operation
-------------------
Two mistakes are possible, and neither is made.  *Dirty taken for clean* would
lose data: so whether a block is dirty counts as yes wherever that is in doubt; if SQLite finds any damage in the
file, it is in doubt for every block.  *A block taken for another* would write the wrong data to the origin: so a row
whose numbers are in doubt is not taken over, nor are two rows that contradict each other.  What they may have named
is listed by byte range, in the cache and, where known, in the image; the cache's bytes stay there until the next
mount uses them for something else.  A partial block is taken over with its sectors, or not at all.

The damaged file is only read.  The same damage gives the same result, however often.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from fusecache.attach import ANY, DAMAGED, DATA_START, locate, read_stamp
from fusecache.errors import MetadataError, RefusedError
from fusecache.linux import size_of
from fusecache.metadata import (
    IDENTITY,
    SIZES,
    UNKNOWN_TIMES,
    Superblock,
    Suspects,
    copied,
    faults,
    header_complaint,
    log_complaint,
    packed,
    region_blocks_for,
)
from fusecache.offline.drafting import Draft, drafted
from fusecache.offline.facts import RawRow, geometry_of, judge
from fusecache.offline.opening import open_locked, open_metadata, open_origin
from fusecache.offline.salvaging import Salvage, salvaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fusecache.block import Geometry
    from fusecache.offline.opening import Files

_NEEDED: Final = (*SIZES, *IDENTITY)
_TOLD_BY: Final = {
    "block_size": "--block-size",
    "uuid": "--cache",
    "cache_blocks": "--cache",
    "region_blocks": "--cache",
}
"""By what a value becomes known that the metadata does not say; all others by ORIGIN."""


@dataclass(slots=True)
class Repaired:
    """What came of it."""

    blocks: int = 0
    dirty: int = 0
    damage: list[str] = field(default_factory=list)
    """What was found wrong."""
    lost: list[str] = field(default_factory=list)
    """What may be lost, by byte range."""
    dropped: list[str] = field(default_factory=list)
    """What was not taken over, and is not lost, because the origin has it."""


def repair(files: Files, output: Path, *, block_size: int | None = None) -> Repaired:
    """Make sound metadata at ``output`` from what is at ``files.metadata``.

    :param files: cache and origin help where the metadata does not say whose it is; they are not needed otherwise.
    :param block_size: bytes, in case the metadata does not say.
    :raises RefusedError: there is something at ``output``.
    :raises MetadataError: the metadata is not ours, or it says too little.
    """
    with ExitStack() as resources:
        open_metadata(files, resources)
        if output.exists():
            msg = f"{output} exists already, and nothing was changed: repair makes a new file"
            raise RefusedError(msg)
        _require_not_foreign(files.metadata)
        copy = resources.enter_context(copied(files.metadata))
        try:
            salvage = resources.enter_context(salvaged(copy))
        except MetadataError as exc:
            msg = f"metadata {files.metadata} cannot be repaired: {exc}"
            raise MetadataError(msg) from exc
        report = Repaired(damage=list(salvage.damage))
        superblock = _superblock(files, salvage, block_size, report, resources)
        with drafted(output, str(files.metadata)) as draft:
            _Repair(superblock, salvage, draft, report).run()
    return report


def _require_not_foreign(path: Path) -> None:
    """Refuse what is sound, but not ours or not ours to read, or not of one moment; raises MetadataError."""
    complaint = header_complaint(path)
    if "something else" in complaint or "has format" in complaint:
        raise MetadataError(complaint)
    try:
        complaint = log_complaint(path)
    except MetadataError:
        return  # it is damaged, so nobody knows
    if complaint:
        raise MetadataError(complaint)


def _superblock(
    files: Files, salvage: Salvage, block_size: int | None, report: Repaired, resources: ExitStack
) -> Superblock:
    """Take the values that can be read, and complete them from cache and origin."""
    wrong = faults(salvage.values)
    values = {name: value for name, value in salvage.values.items() if name not in wrong}
    known = values.copy()
    if block_size is not None:
        known = packed(block_size=block_size) | known
    looked_at = set()
    if files.cache is not None and files.cache.exists():
        _learn_from_cache(open_locked(files.cache, resources), known)
        looked_at.add("--cache")
    if files.origin is not None and (location := locate(files.origin)).exists():
        origin = open_origin(location, resources)
        known = packed(image_bytes=origin.size, origin=origin.identity()) | known
        looked_at.add("ORIGIN")
    if "cache_blocks" in known:
        known = packed(region_blocks=region_blocks_for(int(known["cache_blocks"]))) | known
    # What is lost makes another image of it, which must not look like the one before.
    known = packed(clean_shutdown=False) | known | packed(needs_check=False, image_times=UNKNOWN_TIMES)
    if "generation" not in known:
        known |= packed(previous_generation=ANY)
    if missing := [name for name in _NEEDED if name not in known]:
        options = sorted({_TOLD_BY.get(name, "ORIGIN") for name in missing})
        if "block_size" in missing:  # the number of blocks follows from it, once it is given
            options = [option for option in options if option not in looked_at]
        msg = f"metadata {files.metadata} does not say {', '.join(missing)} any more: give {' and '.join(options)}"
        raise MetadataError(msg)
    report.damage += [f"it does not say {name}" for name in _NEEDED if name not in values]
    return Superblock.unpack(known)


def _learn_from_cache(fd: int, known: dict[str, str]) -> None:
    stamp = read_stamp(fd)
    if stamp is not None and stamp != DAMAGED:
        known.setdefault("uuid", stamp.uuid)
    if "block_size" in known:
        blocks = (size_of(fd) - DATA_START) // int(known["block_size"])
        known.setdefault("cache_blocks", str(max(1, blocks)))


class _Repair:
    """One repair: tells a draft what is certain, and a report of the rest."""

    def __init__(self, superblock: Superblock, salvage: Salvage, draft: Draft, report: Repaired) -> None:
        self._superblock = superblock
        self._geometry = geometry_of(superblock)
        self._suspects = Suspects(salvage.regions or (), superblock.region_blocks)
        self._salvage = salvage
        self._draft = draft
        self._report = report
        self._twice: set[int] = set()
        self._strays = salvage.strays()
        self._doubtful = bool(report.damage) or salvage.regions is None
        if salvage.regions is None:
            report.damage.append("which regions may have been written cannot be read")

    def run(self) -> None:
        """Fill the draft and the report."""
        superblock, draft = self._superblock, self._draft
        was_clean = superblock.clean_shutdown and not self._doubtful
        draft.superblock(replace(superblock, clean_shutdown=was_clean))
        for row in self._salvage.rows(superblock.cache_blocks):
            self._take(row)
        self._report.damage += [
            f"which sectors of cache block {cblock!r} count is told, though it is no partial block"
            for cblock in sorted(self._strays, key=repr)
        ]
        for row in self._salvage.misplaced():
            self._lose(row, "is not where it should be")
        if not self._salvage.is_complete:
            self._report.lost += [
                f"{_cache_bytes(cblocks, self._geometry)}: what is there, if anything, cannot be read any more"
                for cblocks in draft.gaps()
            ]
        self._drop_contested()
        if self._salvage.regions and not self._doubtful:
            last = (superblock.cache_blocks - 1) // superblock.region_blocks
            draft.regions({region for region in self._salvage.regions if region <= last})
        draft.end()
        self._report.blocks, self._report.dirty = draft.count()

    def _take(self, raw: RawRow) -> None:
        row, complaint = judge(raw, self._geometry)
        if row is None:
            self._lose(raw, complaint)
            return
        if row.cblock in self._strays:
            self._lose(raw, "whether it is partial is told in two ways")
            return
        if complaint:
            self._report.damage.append(complaint)
        if row.cblock in self._twice:
            return
        try:
            self._draft.row(row._replace(dirty=True, crc=None) if self._doubtful else row)
        except MetadataError:
            self._twice.add(row.cblock)
            self._draft.remove(row.cblock)
            cblocks = range(row.cblock, row.cblock + 1)
            self._report.lost.append(f"{_cache_bytes(cblocks, self._geometry)}: there are two rows for it")

    def _drop_contested(self) -> None:
        """Take back what two cache blocks claim to hold: which of them is right cannot be known."""
        rows = self._draft.contested()
        newer = {row.oblock for row in rows if self._may_be_dirty(row)}
        for row in rows:
            self._draft.remove(row.cblock)
            told = self._report.lost if row.oblock in newer else self._report.dropped
            told.append(f"{self._where(row)} is in the cache more than once")

    def _lose(self, row: RawRow, complaint: str) -> None:
        told = self._report.lost if self._may_be_dirty(row) else self._report.dropped
        told.append(f"{self._where(row)}: {complaint}")

    def _may_be_dirty(self, row: RawRow) -> bool:
        in_region = isinstance(row.cblock, int) and self._suspects.in_open_region(row.cblock)
        return self._doubtful or row.dirty != 0 or in_region

    def _where(self, row: RawRow) -> str:
        """Name both places of a row, as far as they exist."""
        places = []
        if isinstance(row.oblock, int) and 0 <= row.oblock < self._geometry.origin_blocks:
            size = self._geometry.block_size
            places.append(f"image bytes {row.oblock * size}-{(row.oblock + 1) * size - 1}")
        if isinstance(row.cblock, int) and 0 <= row.cblock < self._geometry.cache_blocks:
            places.append(_cache_bytes(range(row.cblock, row.cblock + 1), self._geometry))
        return ", ".join(places) or "a row"


def _cache_bytes(cblocks: range, geometry: Geometry) -> str:
    first, last = cblocks.start, cblocks.stop - 1
    start, end = (DATA_START + cblock * geometry.block_size for cblock in (first, last + 1))
    names = f"block {first}" if first == last else f"blocks {first}-{last}"
    return f"cache bytes {start}-{end - 1} ({names})"


def describe_repair(report: Repaired) -> Iterator[str]:
    """Yield what to tell the user, line by line."""
    yield from (f"damage: {text}" for text in report.damage)
    yield from (f"dropped, the origin has it: {text}" for text in report.dropped)
    yield from (f"lost, the origin has an older version: {text}" for text in report.lost)
    yield f"{report.blocks} blocks, {report.dirty} of them count as dirty"
