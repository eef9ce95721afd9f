"""Holding the content of clean blocks against their sums, and against the origin.

A clean block's content is the origin's, and its CRC-32C was taken when it was copied.  So where the two copies
differ, the sum tells which of them has changed; where there is no sum, only that they differ.  Blocks that are dirty,
or may have been written when the last mount ended, have no sum that counts.  Of a partial block, which has no sum, only
the sectors that count are compared.
"""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from fusecache.attach import DATA_START, Claims, Origin, locate
from fusecache.block import byte_runs
from fusecache.errors import RefusedError, StoreError
from fusecache.metadata import Database, Transaction, packed, reading
from fusecache.offline.checking import Problem
from fusecache.offline.opening import open_locked, open_metadata, open_origin
from fusecache.offline.visiting import Visitor, visit

if TYPE_CHECKING:
    from fusecache.metadata import Row, Superblock
    from fusecache.offline.checking import Report
    from fusecache.offline.opening import Files

    Run = tuple[int, int]
    """Begin and end of a part of a block, in bytes."""

_SHOWN: Final = 20
_CACHE_BAD: Final = "nothing is lost: the block is clean, so the origin has it; the command lets the cache forget it"
_ORIGIN_BAD: Final = (
    "the origin's disk has lost something, or others wrote there and left no other trace; the cache has what was there "
    "before; the command shows the difference, and `fusecache check --data --heal-origin` takes the cache's copy for "
    "right, and lets the next mount write it back"
)
_BOTH_BAD: Final = "what was there is lost, unless there is a backup"


def verify(files: Files, report: Report, *, heal: bool = False, heal_origin: bool = False) -> None:
    """Read every clean block, and add what is wrong to a report of sound metadata.

    With an origin that was changed by others nothing is compared: it has what is right, and the cache has not.

    :param heal: let the cache forget blocks whose cached copy is wrong.
    :param heal_origin: let blocks count as dirty whose copy at the origin is wrong.
    :raises RefusedError: there is no cache to read.
    """
    if files.cache is None or not files.cache.exists():
        msg = "--data needs the cache: name it with --cache, or name the ORIGIN"
        raise RefusedError(msg)
    with ExitStack() as resources:
        open_metadata(files, resources)
        cache_fd = open_locked(files.cache, resources, writable=heal_origin)
        origin = None
        if files.origin is not None and report.may_compare:
            origin = open_origin(locate(files.origin), resources, writable=heal_origin)
        verification = _Verification(files, cache_fd, origin)
        with reading(files.metadata) as connection:
            visit(connection, verification)
        if heal_origin and origin is not None and verification.lost:
            rows: list[tuple[int, int, bool, int | None, int | None]] = [
                (row.cblock, row.oblock, True, None, row.valid) for row in verification.lost
            ]
            claims = Claims.of(origin, os.environ)
            with closing(Database.open(files.metadata)) as database:
                bond = claims.bond(database, cache_fd=cache_fd)
                database.set_values(bond.renewed())
                bond.settle()  # before the first block is dirty
                database.apply(Transaction(mapped=rows, values=packed(origin=origin.identity())))
            report.facts.append(f"{len(rows)} blocks count as dirty now: `fusecache writeback` writes them")
            verification.problems = [problem for problem in verification.problems if problem.meaning != _ORIGIN_BAD]
        if heal and verification.rotten:
            with closing(Database.open(files.metadata)) as database:
                database.apply(Transaction(unmapped=verification.rotten))
            report.facts.append(f"{len(verification.rotten)} blocks were forgotten; the origin has them")
            verification.problems = [problem for problem in verification.problems if problem.meaning != _CACHE_BAD]
    report.problems = [problem for problem in report.problems if not problem.of_content]  # told by block now
    verification.tell(report)


class _Verification(Visitor):
    """A visitor who reads the content of clean blocks."""

    def __init__(self, files: Files, cache_fd: int, origin: Origin | None) -> None:
        self._files = files
        self._cache_fd = cache_fd
        self._origin = origin
        self._size = 0
        self._right = 0
        self._unknown = 0
        self.rotten: list[int] = []
        """Clean blocks whose cached copy is wrong."""
        self.lost: list[Row] = []
        """Clean blocks whose cached copy is right, and the origin's is not."""
        self.problems: list[Problem] = []

    def superblock(self, superblock: Superblock) -> None:
        self._size = superblock.block_size

    def row(self, row: Row) -> None:
        if not row.dirty:
            self._verify(row)

    def tell(self, report: Report) -> None:
        """Add what was found to a report."""
        unknown = (
            f"; {self._unknown} have no checksum (name the ORIGIN to compare them with it)" if self._unknown else ""
        )
        report.facts.append(f"{self._right} clean blocks were read and are right{unknown}")
        report.problems += self.problems[:_SHOWN]
        if more := self.problems[_SHOWN:]:
            report.problems.append(Problem(f"{len(more)} more blocks are wrong", more[0].meaning, more[0].command))

    def _verify(self, block: Row) -> None:
        runs = [(0, self._size)] if block.valid is None else list(byte_runs(block.valid))
        cached = _read(self._cache_fd, runs, DATA_START + block.cblock * self._size)
        original = None if self._origin is None else _read_origin(self._origin, runs, block.oblock * self._size)
        cache_is_right = cached is not None and block.crc in {None, crc32c(cached)}
        if self._origin is None:
            if not cache_is_right:
                self._forget(block, "the cached copy has changed" if cached is not None else "cannot be read")
            elif block.crc is None:
                self._unknown += 1
            else:
                self._right += 1
            return
        origin_is_right = original is not None and block.crc in {None, crc32c(original)}
        if origin_is_right and cached == original:
            self._right += 1
        elif origin_is_right:
            self._forget(block, "the cached copy cannot be read" if cached is None else "the cached copy differs")
        elif cache_is_right:
            self.lost.append(block)
            self._add(
                block, "the origin's copy has changed or cannot be read", _ORIGIN_BAD, self._compare_command(block)
            )
        else:
            self._add(block, "both copies have changed or cannot be read", _BOTH_BAD, self._command())

    def _forget(self, block: Row, what: str) -> None:
        self.rotten.append(block.cblock)
        self._add(block, what, _CACHE_BAD, self._command("--heal"))

    def _add(self, block: Row, what: str, meaning: str, command: str) -> None:
        start, cache_start = block.oblock * self._size, DATA_START + block.cblock * self._size
        where = (
            f"image bytes {start}-{start + self._size - 1} (cache bytes {cache_start}-{cache_start + self._size - 1})"
        )
        self.problems.append(Problem(f"{where}: {what}", meaning, command))

    def _command(self, *options: str) -> str:
        return shlex.join(["fusecache", "check", "--data", *options, *self._files.words()])

    def _compare_command(self, block: Row) -> str:
        """Name the command that shows in which bytes cache and origin differ; it writes nothing."""
        assert self._origin is not None
        if not self._origin.address.startswith("/") or block.valid is not None:
            return self._command()
        cache_start, start = DATA_START + block.cblock * self._size, block.oblock * self._size
        skip = f"--ignore-initial={cache_start}:{start}"
        return shlex.join(
            ["cmp", "--verbose", skip, f"--bytes={self._size}", "--", str(self._files.cache), self._origin.address]
        )


def _read(fd: int, runs: list[Run], start: int) -> bytes | None:
    """Read these parts of the block that begins at ``start``, or nothing."""
    parts: list[bytes] = []
    try:
        for begin, end in runs:
            at = start + begin
            while at < start + end:
                part = os.pread(fd, start + end - at, at)
                if not part:
                    return None
                parts.append(part)
                at += len(part)
    except OSError:
        return None
    return b"".join(parts)


def _read_origin(origin: Origin, runs: list[Run], start: int) -> bytes | None:
    """Read these parts of the block that begins at ``start``, or nothing."""
    try:
        parts = [origin.read_now(start + begin, end - begin) for begin, end in runs]
    except StoreError:
        return None
    is_whole = all(len(part) == end - begin for part, (begin, end) in zip(parts, runs, strict=True))
    return b"".join(parts) if is_whole else None
