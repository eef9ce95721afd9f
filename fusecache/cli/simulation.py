"""The command that asks what a cache would have done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusecache.config import check_block_size
from fusecache.units import parse_size

app = typer.Typer()


@app.command(help="Replay block traces through policies: what would a cache have done?")
def simulate(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE...",
            help="CSV (t_us,op,offset,length), fio's iolog, blkparse's output, or a trace of an archive; plain, "
            "or packed by gzip, xz, bzip2 or zstd; - for the standard input.",
            show_default=False,
            readable=False,
        ),
    ],
    policies: Annotated[
        list[str],
        typer.Option("--policy", metavar="NAME[,KEY=VALUE...]", help="A policy and its tunables; may be repeated."),
    ],
    block_size: Annotated[str, typer.Option(metavar="SIZE", help="Size of the cache's blocks: 64KiB.")],
    cache_sizes: Annotated[
        list[str],
        typer.Option(
            "--cache-size",
            metavar="SIZE|N%|Nblocks",
            help="1GiB, 10% of the blocks that the trace touches, 1000blocks; may be repeated.",
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="What the traces are, if that is not to be seen: msr, spc, ..."),
    ] = None,
    devices: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Take the requests of this device only (8,0), or file; may be repeated: side by side.",
        ),
    ] = None,
    data_path: Annotated[
        str | None,
        typer.Option(
            metavar="copy|fill|absorb", help="What a miss does: as mounts do unless told; copy is dm-cache's way."
        ),
    ] = None,
    dirty_age: Annotated[
        str | None,
        typer.Option(
            metavar="REQUESTS|SECONDSs[,...]", help="Write back what has been dirty for longer: 10000 requests."
        ),
    ] = None,
    read_ahead: Annotated[
        str | None, typer.Option(metavar="BLOCKS", help="Read ahead of reads in order, so many blocks at most: 0.")
    ] = None,
    disk: Annotated[str, typer.Option(metavar="hdd|net", help="The slow disk whose time is modelled.")] = "hdd",
    most_requests: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Refuse a trace of more requests, cut into blocks: 16777216 unless told; each may take 250 bytes.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A list of flat JSON objects.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png|.svg", readable=False, help="Draw the miss-ratio curves.")
    ] = None,
) -> None:
    """Simulate caches."""
    from rich.console import Console  # noqa: PLC0415 - see the package's docstring

    from fusecache.simulator import (  # noqa: PLC0415 - likewise
        MOST_REQUESTS,
        CacheSize,
        Job,
        Rules,
        parse_contenders,
        plot_results,
        print_results,
        progress_bar,
        read_trace,
        require_format,
        require_plotting,
        require_replayable,
        resolve_sizes,
        results_json,
        run_jobs,
        trace_names,
    )

    rules = Rules.parse(data_path, dirty_age, read_ahead, disk)
    block_bytes = check_block_size(parse_size(block_size))
    contenders = parse_contenders(policies, block_bytes)
    sizes = [CacheSize.parse(text, block_bytes) for text in cache_sizes]
    if plot is not None:
        require_plotting(plot)
    if form is not None:
        require_format(form)
    names = trace_names(traces)
    # All traces are read before the first is simulated: a bad one should not cost the time of those before it.
    most = most_requests or MOST_REQUESTS
    studies = []
    for path, name in zip(traces, names, strict=True):
        trace = read_trace(path, most, name=name, form=form, devices=devices or ())
        require_replayable(trace, block_bytes, most)
        studies.append((trace, resolve_sizes(sizes, trace, block_bytes)))
    everything = []
    for trace, blocks in studies:
        jobs = [Job(contender, block_bytes, count, rules) for count in blocks for contender in contenders]
        with progress_bar(Console(stderr=True), trace.name) as show:
            results = run_jobs(trace, jobs, show)
        if not as_json:
            print_results(Console(highlight=False), results)
        everything.append(results)
    if as_json:
        typer.echo(results_json([result for results in everything for result in results]))
    if plot is not None:
        plot_results(plot, everything)
