"""Commands for a cache that is not mounted: looking at it, mending it, emptying it into its origin."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusecache.config import DEFAULT_BLOCK_SIZE, MountConfig, check_block_size
from fusecache.errors import FusecacheError, UsageError
from fusecache.lines import complain, say
from fusecache.paths import absolute_address
from fusecache.units import format_size, parse_size

if TYPE_CHECKING:
    from fusecache.offline import Files

app = typer.Typer()

Origin = Annotated[
    str | None,
    typer.Argument(metavar="ORIGIN", help="The image whose cache it is.", show_default=False),
]
Cache = Annotated[Path | None, typer.Option("--cache", metavar="FILE", readable=False, help="As told to mount.")]
Metadata = Annotated[Path | None, typer.Option("--metadata", metavar="FILE", readable=False, help="As told to mount.")]


@app.command(help="Say what is wrong with a cache, what it means for the data, and what to do; exit 1 if anything is.")
def check(
    origin: Origin = None,
    cache: Cache = None,
    metadata: Metadata = None,
    data: Annotated[bool, typer.Option("--data", help="Read every clean block and verify its checksum too.")] = False,
    heal: Annotated[
        bool, typer.Option("--heal", help="With --data: forget clean blocks that have changed in the cache.")
    ] = False,
    heal_origin: Annotated[
        bool,
        typer.Option("--heal-origin", help="With --data: where the origin's copy is wrong, write the cache's back."),
    ] = False,
    clear_needs_check: Annotated[
        bool, typer.Option("--clear-needs-check", help="Let it be mounted again, if nothing is wrong.")
    ] = False,
    write_stamp: Annotated[
        bool, typer.Option("--write-stamp", help="Mark the cache as this metadata's, if only its mark is missing.")
    ] = False,
) -> None:
    """Check a cache."""
    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    files = _files(origin, cache, metadata)
    report = offline.check(files)
    if (data or heal or heal_origin) and all(problem.of_content for problem in report.problems):
        offline.verify(files, report, heal=heal, heal_origin=heal_origin)
    if clear_needs_check and report.needs_check:
        offline.clear_needs_check(files, report)
        report.needs_check = False
    if write_stamp and report.stamp_missing:
        offline.put_stamp(files, report)
        report.stamp_missing = False
    for line in offline.describe_check(report, files):
        say(line)
    offline.require_no_problems(report)


@app.command(help="Write what is cached where as dm-cache's XML, which cache_restore reads.")
def dump(
    origin: Origin = None,
    cache: Cache = None,
    metadata: Metadata = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="XML", readable=False, help="A new file; else stdout.")
    ] = None,
) -> None:
    """Dump metadata."""
    import sys  # noqa: PLC0415 - see the package's docstring

    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    files = _files(origin, cache, metadata)
    left_out = offline.dump(files, sys.stdout) if output is None else offline.dump_to_file(files, output)
    if left_out:
        complain(f"{left_out} clean blocks were left out, of which only some sectors are cached: the origin has them")


@app.command(help="Make metadata from XML, of `fusecache dump` or of cache_dump; cache and origin are not written.")
def restore(
    origin: Origin = None,
    source: Annotated[
        Path | None, typer.Option("-i", "--input", metavar="XML", readable=False, help="Else stdin.")
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", "--metadata", metavar="FILE", readable=False, help="Where the metadata is to be."
        ),
    ] = None,
    cache: Cache = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="If there is metadata already, rename it to FILE.old.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Though the cache seems to be newer than the dump.")] = False,
) -> None:
    """Restore metadata."""
    import sys  # noqa: PLC0415 - see the package's docstring

    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    files = _files(origin, cache, metadata)
    if source is None:
        restored = offline.restore(sys.stdin.buffer, "stdin", files, replace=replace, force=force)
    else:
        try:
            with source.open("rb") as file:
                restored = offline.restore(file, str(source), files, replace=replace, force=force)
        except OSError as exc:
            msg = f"cannot read {source}: {exc.strerror}"
            raise FusecacheError(msg) from exc
    say(f"{files.metadata}: {restored.blocks} blocks, {restored.dirty} of them dirty")
    for note in restored.notes:
        say(note)


@app.command(help="Make sound metadata from damaged metadata, in a new file, and list what is lost.")
def repair(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="NEW", readable=False, help="The new file.")],
    origin: Origin = None,
    cache: Cache = None,
    metadata: Annotated[
        Path | None,
        typer.Option("--metadata", "-i", "--input", metavar="FILE", readable=False, help="The damaged one."),
    ] = None,
    block_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of the cache's blocks, if the metadata does not say.")
    ] = None,
) -> None:
    """Repair metadata."""
    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    files = _files(origin, cache, metadata)
    size = None if block_size is None else check_block_size(parse_size(block_size))
    report = offline.repair(files, output.absolute(), block_size=size)
    for line in offline.describe_repair(report):
        say(line)
    say(f"next: mount with --metadata {shlex.quote(str(output))}")


@app.command(help="Write what is dirty to the origin, so that it is complete without the cache.")
def writeback(
    origin: Annotated[str, typer.Argument(metavar="ORIGIN", help="The image whose cache it is.", show_default=False)],
    cache: Cache = None,
    metadata: Metadata = None,
    retry_count: Annotated[int, typer.Option(min=0, max=1000, help="How often to try a block again.")] = 2,
    force: Annotated[
        bool, typer.Option("--force", help="Also over an origin that others have changed since the last mount.")
    ] = False,
) -> None:
    """Write back offline."""
    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    config = MountConfig(
        origin=absolute_address(origin),
        mountpoint=Path(),
        cache=cache and cache.absolute(),
        metadata=metadata and metadata.absolute(),
        raw=True,  # whatever it is, the cache is of that
    )
    with _progress() as progress:
        outcome = offline.write_back(config, dict(os.environ), progress, retries=retry_count, force=force)
    for line in offline.describe_writeback(outcome):
        say(line)
    offline.require_complete(outcome)


@app.command(help="Bind a cache to an origin that was copied, moved or restored, if what is cached agrees with it.")
def adopt(
    origin: Annotated[str, typer.Argument(metavar="ORIGIN", help="The image as it is now.", show_default=False)],
    cache: Cache = None,
    metadata: Metadata = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also if nothing can be compared, or if it may have been written since.")
    ] = False,
) -> None:
    """Adopt an origin."""
    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    files = _files(origin, cache, metadata)
    with _progress("comparing") as progress:
        adopted = offline.adopt(files, os.environ, progress, force=force)
    for line in offline.describe_adoption(adopted):
        say(line)


@app.command("metadata-size", help="Say how much room the metadata of a cache takes at most.")
def metadata_size(
    block_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Size of the cache's blocks.")] = None,
    cache_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Size of the cache.")] = None,
    nr_blocks: Annotated[int | None, typer.Option(metavar="N", min=1, help="Blocks, in place of the two.")] = None,
    numeric_only: Annotated[
        bool, typer.Option("-n", "--numeric-only", help="Print the bytes and nothing else.")
    ] = False,
) -> None:
    """Size metadata."""
    from fusecache.metadata import metadata_size as most  # noqa: PLC0415 - see the package's docstring

    size_of_blocks = DEFAULT_BLOCK_SIZE if block_size is None else check_block_size(parse_size(block_size))
    if nr_blocks is None:
        if block_size is None or cache_size is None:
            msg = "give --block-size and --cache-size, or --nr-blocks"
            raise UsageError(msg)
        nr_blocks = -(-parse_size(cache_size) // size_of_blocks)
    elif block_size is not None or cache_size is not None:
        msg = "--nr-blocks stands in place of --block-size and --cache-size"
        raise UsageError(msg)
    size = most(nr_blocks, size_of_blocks)
    say(str(size) if numeric_only else f"{size} bytes ({format_size(size)}) for {nr_blocks} blocks")


def _files(origin: str | None, cache: Path | None, metadata: Path | None) -> Files:
    from fusecache import offline  # noqa: PLC0415 - see the package's docstring

    return offline.find_files(origin, cache=cache, metadata=metadata, environ=os.environ)


@contextmanager
def _progress(what: str = "writing back") -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how many blocks are done, and when the rest will be."""
    from rich.console import Console  # noqa: PLC0415 - see the package's docstring
    from rich.progress import (  # noqa: PLC0415 - see the package's docstring
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("blocks, ready in"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
