"""Saying what is wrong with a cache, what it means for the data, and what to do.

Nothing is changed, but on request two things that only stand in the way of mounting, and only if all else is sound: the
mark *needs check*, and a stamp that is missing.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from fusecache.attach import (
    DAMAGED,
    DATA_START,
    Claims,
    DisagreementError,
    Stamp,
    Verdict,
    judge_origin,
    locate,
    look_at_origin,
    read_stamp,
    require_same_generation,
    shows_in_content_only,
    write_stamp,
)
from fusecache.block import SECTOR
from fusecache.errors import FusecacheError, MetadataError, RefusedError
from fusecache.linux import open_trusted, size_of
from fusecache.metadata import (
    Database,
    Superblock,
    Suspects,
    faults,
    header_complaint,
    is_sqlite,
    log_complaint,
    packed,
    reading,
    strays,
)
from fusecache.offline.facts import contested, geometry_of, judge, raw_rows, read_regions, read_values
from fusecache.offline.opening import open_locked, open_metadata, open_origin
from fusecache.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusecache.offline.opening import Files

_SHOWN: Final = 10
"""Problems of one kind that are told one by one."""
_DAMAGE: Final = (
    "the metadata is damaged, and no mount will use it; the data in cache and origin is not touched by that, but what "
    "is dirty in the cache can only be found by what is left of the metadata"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong."""

    what: str
    meaning: str
    """For the data."""
    command: str
    """What to type next."""
    of_content: bool = False
    """Whether reading all clean blocks tells more of it."""


@dataclass(slots=True)
class Report:
    """The outcome of a check."""

    facts: list[str] = field(default_factory=list)
    """How things are, a line each."""
    problems: list[Problem] = field(default_factory=list)
    needs_check: bool = False
    """Whether a mount asked for this check; no problem in itself."""
    stamp_missing: bool = False
    """Likewise: the cache has no stamp."""
    uuid: str = ""
    generation: str = ""
    may_compare: bool = False
    """Whether clean blocks may be held against the origin: but for their content, nothing shows that it has changed."""
    blocks: int = 0
    dirty: int = 0
    dirty_bytes: int = 0
    """What the origin lacks."""
    suspects: int = 0
    partial: int = 0
    nothing_lost: bool = False
    """Whether it is known that the origin has everything."""


def check(files: Files) -> Report:
    """Look at everything and change nothing.

    :raises FusecacheError: it cannot be looked at: it is missing, or in use.
    """
    with ExitStack() as resources:
        open_metadata(files, resources)
        return _Check(files, resources).run()


def clear_needs_check(files: Files, report: Report) -> None:
    """Take the mark away; raises RefusedError if the check found anything else."""
    _require_sound(report)
    with ExitStack() as resources:
        open_metadata(files, resources)
        with closing(Database.open(files.metadata)) as database:
            database.set_values(packed(needs_check=False))


def put_stamp(files: Files, report: Report) -> None:
    """Write the stamp of this metadata on a cache that has none; raises RefusedError if anything else is wrong."""
    _require_sound(report)
    if files.cache is None or not report.stamp_missing:
        msg = "there is no cache without a stamp: nothing to write"
        raise RefusedError(msg)
    with ExitStack() as resources:
        open_metadata(files, resources)
        write_stamp(open_locked(files.cache, resources, writable=True), Stamp(report.uuid, report.generation))


def _require_sound(report: Report) -> None:
    if report.problems:
        msg = f"nothing was changed: there are other problems ({report.problems[0].what})"
        raise RefusedError(msg)


class _Check:
    """One check."""

    def __init__(self, files: Files, resources: ExitStack) -> None:
        self._files = files
        self._resources = resources
        self._report = Report()
        self._repair = _command("repair", *files.words(), "-o", f"{files.metadata}.repaired")

    def run(self) -> Report:
        """Look at the metadata, then at what it says of the others."""
        superblock = self._look_at_metadata()
        if superblock is not None:
            is_sound = not self._report.problems
            self._look_at_cache(superblock)
            before = len(self._report.problems)
            self._look_at_origin(superblock, is_sound=is_sound)
            has_origin = len(self._report.problems) == before
            self._report.nothing_lost = is_sound and has_origin and not self._report.dirty
        return self._report

    def _problem(self, what: str, meaning: str = _DAMAGE, command: str = "") -> None:
        self._report.problems.append(Problem(what, meaning, command or self._repair))

    def _elsewhere(self, option: str) -> str:
        """Name the command that looks at another file in this role."""
        words = [] if self._files.origin is None else [self._files.origin]
        paths = {"--cache": self._files.cache, "--metadata": self._files.metadata}
        for name, path in paths.items():
            words += [name, "FILE" if name == option else str(path)] if path is not None else []
        return _command("check", *words)

    # Metadata

    def _look_at_metadata(self) -> Superblock | None:
        path = self._files.metadata
        if complaint := header_complaint(path):
            self._complain_of_header(complaint)
            return None
        self._report.facts.append(f"metadata {path}, {format_size(path.stat().st_size)}")
        try:
            if complaint := log_complaint(path):
                self._problem(
                    complaint, "what it says is not of one moment, so no mount uses it", self._elsewhere("--metadata")
                )
                return None
            with reading(path) as connection:
                return self._read(connection)
        except MetadataError as exc:
            self._problem(str(exc))
            return None

    def _complain_of_header(self, complaint: str) -> None:
        with os.fdopen(open_trusted(self._files.metadata, os.O_RDONLY), "rb") as file:
            is_foreign = is_sqlite(file.read(4096))
        if "has format" in complaint:
            meaning, command = "nothing is wrong with it: it is another version's", "fusecache --version"
        elif is_foreign:
            meaning, command = "it is not looked at any further", _command("check", "--metadata", "FILE")
        else:
            meaning, command = "if it is the right file, it is damaged: what can be read can be saved", ""
        self._problem(complaint, meaning, command)

    def _read(self, connection: sqlite3.Connection) -> Superblock | None:
        lines = [str(line) for (line,) in connection.execute(f"PRAGMA integrity_check({_SHOWN})")]
        for line in lines:
            if line != "ok":
                self._problem(f"SQLite finds damage: {' '.join(line.split())}")
        values = read_values(connection)
        if wrong := faults(values):
            for fault in wrong.values():
                self._problem(fault)
            return None
        superblock = Superblock.unpack(values)
        self._report.uuid = superblock.uuid
        self._report.generation = superblock.generation
        self._report.needs_check = superblock.needs_check
        self._tell_sizes(superblock)
        self._read_blocks(connection, superblock)
        return superblock

    def _tell_sizes(self, superblock: Superblock) -> None:
        size = format_size(superblock.cache_blocks * superblock.block_size)
        blocks = f"{superblock.cache_blocks} blocks of {format_size(superblock.block_size)}"
        self._report.facts += [
            f"cache of {blocks} ({size}), image of {format_size(superblock.image_bytes)}, uuid {superblock.uuid}",
            "the last mount ended cleanly"
            if superblock.clean_shutdown
            else "the last mount did not end cleanly: the next one will recover",
        ]

    def _read_blocks(self, connection: sqlite3.Connection, superblock: Superblock) -> None:
        try:
            regions = read_regions(connection)
        except MetadataError as exc:
            self._problem(str(exc), "which blocks may have been written at the end is not known: all count as dirty")
            regions = set()
        if beyond := [region for region in regions if region * superblock.region_blocks >= superblock.cache_blocks]:
            self._problem(f"region {beyond[0]} lies outside the cache")
        complaints = self._judged(connection, superblock, regions)
        complaints += [
            f"block {row.oblock} of the image is in the cache more than once, in cache block {row.cblock} too"
            for row in contested(connection)
        ]
        complaints += [
            f"which sectors of cache block {cblock!r} count is told, though it is no partial block"
            for cblock, _ in strays(connection)
        ]
        for complaint in complaints[:_SHOWN]:
            self._problem(complaint)
        if len(complaints) > _SHOWN:
            self._problem(f"{len(complaints) - _SHOWN} more rows are wrong")
        report = self._report
        report.facts.append(
            f"{report.blocks} blocks are cached, {report.dirty} of them dirty "
            f"({format_size(report.dirty_bytes)} that the origin lacks)"
            + (f", {report.suspects} of these because they may have been written at the end" if report.suspects else "")
        )
        if report.partial:
            report.facts.append(
                f"{report.partial} of the blocks are partial: some of their sectors are cached, and the others are at "
                "the origin only"
            )

    def _judged(self, connection: sqlite3.Connection, superblock: Superblock, regions: set[int]) -> list[str]:
        complaints = []
        suspects, geometry = Suspects(regions, superblock.region_blocks), geometry_of(superblock)
        for raw in raw_rows(connection, geometry):
            row, complaint = judge(raw, geometry)
            if complaint:
                complaints.append(complaint)
            if row is not None:
                counts = suspects.count_as_dirty(row)
                self._report.blocks += 1
                self._report.dirty += counts
                self._report.partial += row.valid is not None
                if counts:
                    whole = superblock.block_size
                    self._report.dirty_bytes += whole if row.valid is None else row.valid.bit_count() * SECTOR
                self._report.suspects += counts and not row.dirty
        return complaints

    # Cache

    def _look_at_cache(self, superblock: Superblock) -> None:
        path = self._files.cache
        if path is None:
            return
        dirty = self._report.dirty
        at_stake = f"{dirty} dirty blocks are in it, and nowhere else" if dirty else "no block in it is dirty"
        elsewhere = self._elsewhere("--cache")
        if not path.exists():
            if self._report.blocks:
                self._problem(f"cache {path} is missing", at_stake, elsewhere)
            return
        fd = open_locked(path, self._resources)
        needed = DATA_START + superblock.cache_blocks * superblock.block_size
        size, stamp = size_of(fd), read_stamp(fd)
        if size < needed:
            self._problem(
                f"cache {path} has {size} bytes, fewer than the {needed} that it needs",
                f"what lay behind the end is lost; {at_stake}",
                elsewhere,
            )
        if stamp is None or stamp == DAMAGED:
            self._report.stamp_missing = size > 0 or self._report.blocks > 0
        elif stamp.uuid != superblock.uuid:
            self._problem(
                f"cache {path} belongs to other metadata (uuid {stamp.uuid})",
                "with this metadata its blocks would be taken for others, so no mount uses the two together",
                elsewhere,
            )
        else:
            try:
                require_same_generation(stamp, superblock, cache=path, metadata=self._files.metadata)
            except RefusedError as exc:
                self._problem(str(exc), "no mount uses the two together", elsewhere)

    # Origin

    def _look_at_origin(self, superblock: Superblock, *, is_sound: bool) -> None:
        if self._files.origin is None:
            return
        location = locate(self._files.origin)
        origin = open_origin(location, self._resources)
        if origin.size < superblock.image_bytes:
            self._problem(
                f"origin {location.address} has {origin.size} bytes, fewer than the image's {superblock.image_bytes}",
                "what lay behind its end is lost, but for what is in the cache; the command makes it as long as it was",
                f"truncate --size={superblock.image_bytes} -- {shlex.quote(location.address)}"
                if origin.identity().is_known_by_signs(superblock.origin)
                else _command("check", *replace(self._files, origin=None).words()),
            )
            return
        if not is_sound:
            return  # what it says of the origin is in doubt
        claims = Claims.of(origin, os.environ)
        try:
            with Database.read_only(self._files.metadata) as database:
                found = look_at_origin(claims, database)
            verdict = judge_origin(superblock, found, arguments=shlex.join(self._files.words()))
        except DisagreementError as exc:
            self._report.problems.append(Problem(exc.what, exc.meaning, exc.command, exc.in_content_only))
            self._report.may_compare = exc.in_content_only
            return
        if found.claim is not None and found.claim.uuid != superblock.uuid and (last := found.claim.last_cache()):
            self._report.facts.append(
                f"last used: {last}, which has nothing that the origin lacks; this is another one"
            )
        self._report.may_compare = verdict is Verdict.SAME or shows_in_content_only(superblock, found)
        if verdict is not Verdict.SAME:
            self._report.facts.append(
                f"the origin was {verdict.value} outside fusecache: the next mount drops what is clean"
            )


def _command(*words: str) -> str:
    return shlex.join(["fusecache", *words])


def describe_check(report: Report, files: Files) -> Iterator[str]:
    """Yield what to tell the user, line by line."""
    if report.nothing_lost:
        yield "nothing is lost: no block is dirty, so the origin has everything"
    yield from report.facts
    marks = []
    if not report.problems:
        if report.needs_check:
            marks.append(
                Problem(
                    "a mount found something wrong, and asked for this check",
                    "nothing wrong was found now: the cache can be mounted again once the mark is cleared",
                    _command("check", "--clear-needs-check", *files.words()),
                )
            )
        if report.stamp_missing:
            marks.append(
                Problem(
                    f"cache {files.cache} has no stamp: its first {DATA_START} bytes are lost, or it is another file",
                    "the blocks behind it may be whole; if you know that this is the right file, give it a new stamp",
                    _command("check", "--write-stamp", *files.words()),
                )
            )
    for problem in (*report.problems, *marks):
        yield ""
        yield f"problem: {problem.what}"
        yield f"  means: {problem.meaning}"
        yield f"  next:  {problem.command}"
    if not report.problems and not marks:
        yield "no problems found"


def require_no_problems(report: Report) -> None:
    """Raise FusecacheError with their number, if there are any."""
    count = len(report.problems) + (0 if report.problems else report.needs_check + report.stamp_missing)
    if count:
        msg = f"{count} problem{'s' if count > 1 else ''} found"
        raise FusecacheError(msg)
