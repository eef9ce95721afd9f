"""Commands about a mount: making one, asking it, changing it, ending it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fusecache.config import DEFAULT_POLICY, DirtyAge, DirtyLimit, Mode, MountConfig, PageCache, check_block_size
from fusecache.errors import UsageError
from fusecache.units import parse_size

app = typer.Typer()

Mountpoint = Annotated[
    Path, typer.Argument(metavar="MOUNTPOINT", readable=False, help="The directory that the image is in.")
]

_ACCESS = ("ro", "rw")

# Values may begin with a minus sign, so what looks like an unknown option is a word.
_WORDS_AS_THEY_ARE = {"ignore_unknown_options": True}


@app.command(help="Mount ORIGIN as MOUNTPOINT/image; return when it can be used.")
def mount(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="ORIGIN MOUNTPOINT",
            help="The image to cache, and an empty directory.",
            show_default=False,
        ),
    ],
    cache: Annotated[Path | None, typer.Option(metavar="FILE", readable=False, help="The fast file or device.")] = None,
    cache_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Size of the cache: 64MiB, 10G; another one resizes it.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(metavar="FILE", readable=False, help="What lies where in the cache.")
    ] = None,
    block_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Size of a new cache's blocks: 64KiB.")] = None,
    mode: Annotated[
        str | None, typer.Option(metavar="MODE", help="writeback (default), writethrough or passthrough.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="NAME[,KEY=VALUE...]", help=f"Replacement policy ({DEFAULT_POLICY}) and its tunables."),
    ] = None,
    fuse_options: Annotated[
        list[str] | None,
        typer.Option("-o", metavar="FUSEOPT[,...]", help="ro for read-only; options for FUSE, such as allow_other."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(metavar="TABLE", help="dm-cache's table, in place of ORIGIN and the options above.")
    ] = None,
    copy_rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Most to copy between cache and origin, bytes a second: 50MiB.")
    ] = None,
    dirty_age: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Write back what has been dirty for 30s, 10000 block requests, or 30s,10000."),
    ] = None,
    dirty_limit: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Absorb writes more slowly if more is dirty: 75%, 10GiB.")
    ] = None,
    read_ahead: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory for what is read ahead of reads in order: auto, off, 8MiB.")
    ] = "auto",
    scrub: Annotated[
        str | None, typer.Option(metavar="RATE", help="Verify cached blocks in the background, bytes a second: 10MiB.")
    ] = None,
    page_cache: Annotated[
        str, typer.Option(metavar="WHICH", help="What the host's page cache is to hold: stores, image, or none.")
    ] = "stores",
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Leave reading requests to pyfuse3: synchronous writers take turns then.")
    ] = False,
    no_survive: Annotated[
        bool, typer.Option("--no-survive", help="End the mount if its daemon dies; nobody starts another one.")
    ] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Serve in this process, log to stderr.")] = False,
    format: Annotated[  # noqa: A002 - the option's name
        int, typer.Option("--format", count=True, help="Empty an existing cache; twice, even with dirty data in it.")
    ] = 0,
) -> None:
    """Mount an image."""
    from fusecache import daemon  # noqa: PLC0415 - see the package's docstring
    from fusecache.grammar import (  # noqa: PLC0415 - likewise
        parse_dirty_age,
        parse_dirty_limit,
        parse_policy,
        parse_read_ahead,
        parse_table,
    )

    words = [option for text in fuse_options or () for option in text.split(",") if option]
    options = tuple(option for option in words if option not in _ACCESS)
    read_only = [option for option in words if option in _ACCESS][-1:] == ["ro"]  # the last one counts, as in mount(8)
    if table is not None:
        told = {
            "--cache": cache,
            "--cache-size": cache_size,
            "--metadata": metadata,
            "--block-size": block_size,
            "--mode": mode,
            "--policy": policy,
            "--copy-rate": copy_rate,
            "--dirty-age": dirty_age,
            "--dirty-limit": dirty_limit,
            "--scrub": scrub,
        }
        for name, value in told.items():
            if value is not None:
                msg = f"{name} and --table do not go together: the table says it all"
                raise UsageError(msg)
        (mountpoint,) = _exactly(paths, "MOUNTPOINT")
        config = parse_table(table, Path(mountpoint), fuse_options=options, foreground=foreground, format=format)
    else:
        origin, mountpoint = _exactly(paths, "ORIGIN", "MOUNTPOINT")
        config = MountConfig(
            origin=origin,
            mountpoint=Path(mountpoint),
            cache=cache,
            cache_size=None if cache_size is None else parse_size(cache_size),
            metadata=metadata,
            block_size=None if block_size is None else check_block_size(parse_size(block_size)),
            mode=Mode.WRITEBACK if mode is None else Mode.parse(mode),
            policy=parse_policy(DEFAULT_POLICY if policy is None else policy),
            fuse_options=options,
            copy_rate=0 if copy_rate is None else parse_size(copy_rate),
            dirty_age=DirtyAge() if dirty_age is None else parse_dirty_age(dirty_age),
            dirty_limit=DirtyLimit() if dirty_limit is None else parse_dirty_limit(dirty_limit),
            scrub=0 if scrub is None else parse_size(scrub),
            foreground=foreground,
            format=format,
        )
    daemon.start(
        replace(
            config,
            page_cache=PageCache.parse(page_cache),
            read_ahead=parse_read_ahead(read_ahead),
            gate=not no_gate,
            survive=not no_survive,
            read_only=read_only,
        )
    )


@app.command(help="Unmount; return when everything is safe on disk.")
def unmount(mountpoint: Mountpoint) -> None:
    """Unmount an image."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    Client(mountpoint).unmount()


@app.command(help="Have a new process go on with a mount, and perhaps with other options; nobody has to stop using it.")
def restart(
    mountpoint: Mountpoint,
    cache_size: Annotated[str | None, typer.Option(metavar="SIZE", help="Another size of the cache: 64MiB.")] = None,
    mode: Annotated[str | None, typer.Option(metavar="MODE", help="writeback, writethrough, passthrough.")] = None,
    policy: Annotated[str | None, typer.Option(metavar="NAME[,KEY=VALUE...]", help="Replacement policy.")] = None,
    copy_rate: Annotated[str | None, typer.Option(metavar="RATE", help="As of mount, and so are the others.")] = None,
    dirty_age: Annotated[str | None, typer.Option(metavar="AGE")] = None,
    dirty_limit: Annotated[str | None, typer.Option(metavar="LIMIT")] = None,
    read_ahead: Annotated[str | None, typer.Option(metavar="SIZE")] = None,
    scrub: Annotated[str | None, typer.Option(metavar="RATE")] = None,
    page_cache: Annotated[str | None, typer.Option(metavar="WHICH", help="Holds for who opens the image then.")] = None,
) -> None:
    """Restart the daemon of a mount."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    told = {
        "cache_size": cache_size,
        "mode": mode,
        "policy": policy,
        "copy_rate": copy_rate,
        "dirty_age": dirty_age,
        "dirty_limit": dirty_limit,
        "read_ahead": read_ahead,
        "scrub": scrub,
        "page_cache": page_cache,
    }
    Client(mountpoint).restart({name: value for name, value in told.items() if value is not None})


@app.command(help="Show what a mount holds and does.")
def status(
    mountpoint: Mountpoint, as_json: Annotated[bool, typer.Option("--json", help="One flat JSON object.")] = False
) -> None:
    """Show the status of a mount."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    Client(mountpoint).show_status(as_json=as_json)


@app.command(
    "set",
    help="Set policy, policy.TUNABLE, mode, migration_threshold, copy_rate, dirty_age, dirty_limit, read_ahead, scrub.",
    context_settings=_WORDS_AS_THEY_ARE,
)
def set_value(
    mountpoint: Mountpoint,
    key: Annotated[str, typer.Argument(metavar="KEY")],
    value: Annotated[str, typer.Argument(metavar="VALUE")],
) -> None:
    """Set one value of a mount."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    Client(mountpoint).set_value(key, value)


@app.command(
    help="Send a message, as to dm-cache: KEY VALUE, invalidate_cblocks BEGIN-END (END excluded).",
    context_settings=_WORDS_AS_THEY_ARE,
)
def message(mountpoint: Mountpoint, words: Annotated[list[str], typer.Argument(metavar="WORDS...")]) -> None:
    """Send a message to a mount."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    Client(mountpoint).send_message(words)


@app.command(help="Write back everything that is dirty; return when the origin is complete.")
def flush(mountpoint: Mountpoint) -> None:
    """Flush a mount."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    Client(mountpoint).flush()


@app.command(help="Write everything back and stop caching, so that the origin can be used alone.")
def decommission(mountpoint: Mountpoint) -> None:
    """Decommission a mount's cache."""
    from fusecache.client import Client  # noqa: PLC0415 - see the package's docstring

    Client(mountpoint).decommission()


def _exactly(paths: list[str], *names: str) -> list[str]:
    """Return ``paths`` if there is one for each name; raises UsageError."""
    if len(paths) != len(names):
        msg = f"mount takes {' and '.join(names)}, not {len(paths)} arguments (see fusecache mount --help)"
        raise UsageError(msg)
    return paths
