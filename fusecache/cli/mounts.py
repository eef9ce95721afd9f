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
    Path, typer.Argument(metavar="MOUNTPOINT", readable=False, help="The directory that the image is in, or the image.")
]

_ROWS = """\b
What the rows say:
image          the disk, and how large it is
health         ok, or what is wrong and what to do
origin         the image that is cached
cache          the fast file or device, and its blocks
metadata       what lies where in the cache; it grows with what is cached
log            what the daemon has to tell
mode           what happens to writes: writeback, writethrough or passthrough
page cache     what the host keeps in memory: what it read of the stores, or of the image
policy         what decides which blocks are cached, and its tunables
used           how much of the cache is in use
dirty          what only the cache has; it is written back later
read hits      reads that the cache has answered (so far, over all mounts)
write hits     writes that went to the cache
migrations     blocks copied into the cache, given up, and written back
threshold      how much may be copied at a time while users wait for the origin
origin reads   what was read of the origin, by whomever
read ahead     what was read ahead of reads in order, and what came of it
origin writes  what was written to the origin
errors         reads and writes that origin or cache have refused
job            long work that is under way, and how far it is
flush          what the flush under way has to write yet
survival       who starts another daemon if this one dies, or why nobody does; how often that was
up             for how long it has been mounted (h:mm:ss), by which process
"""

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
        typer.Option(
            "-o",
            metavar="OPTION[,...]",
            help="ro; uid=, gid=, mode= or umask= of the image; FUSE's, such as allow_other; fstab's, cache=FILE.",
        ),
    ] = None,
    uid: Annotated[str | None, typer.Option(metavar="USER", help="Whose the image is to be; root only.")] = None,
    gid: Annotated[str | None, typer.Option(metavar="GROUP", help="Which group's the image is to be.")] = None,
    umask: Annotated[
        str | None, typer.Option(metavar="OCTAL", help="What the image's owner, group and others may not do: 007.")
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
    raw: Annotated[bool, typer.Option("--raw", help="Serve ORIGIN as it is, though it looks like qcow2.")] = False,
    no_gate: Annotated[
        bool, typer.Option("--no-gate", help="Leave reading requests to pyfuse3: synchronous writers take turns then.")
    ] = False,
    no_survive: Annotated[
        bool, typer.Option("--no-survive", help="End the mount if its daemon dies; nobody starts another one.")
    ] = False,
    no_discard_passdown: Annotated[
        bool, typer.Option("--no-discard-passdown", help="Write zeros to the origin where holes could be punched.")
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
        parse_fuse_options,
        parse_policy,
        parse_read_ahead,
        parse_table,
        take_ownership,
    )
    from fusecache.linux import device_path, group_number, user_number  # noqa: PLC0415 - likewise

    told_fuse = parse_fuse_options(fuse_options or ())
    read_only = told_fuse.read_only
    told_owner = [
        f"{name}={value}" for name, value in (("uid", uid), ("gid", gid), ("umask", umask)) if value is not None
    ]
    ownership, options = take_ownership(
        [*told_fuse.options, *told_owner], user_number=user_number, group_number=group_number
    )
    cache, metadata = cache or told_fuse.cache, metadata or told_fuse.metadata
    cache_size = told_fuse.cache_size if cache_size is None else cache_size
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
            "--no-discard-passdown": no_discard_passdown or None,
        }
        for name, value in told.items():
            if value is not None:
                msg = f"{name} and --table do not go together: the table says it all"
                raise UsageError(msg)
        (mountpoint,) = _exactly(paths, "MOUNTPOINT")
        config = parse_table(
            table,
            Path(mountpoint),
            device_path=device_path,
            fuse_options=options,
            foreground=foreground,
            format=format,
        )
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
            discard_passdown=not no_discard_passdown,
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
            raw=raw,
            ownership=ownership,
        )
    )


@app.command("umount", hidden=True)  # as mount(8) has taught everybody
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


@app.command(help="Show what a mount holds and does.", epilog=_ROWS)
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
    help="Send a message, as to dm-cache: [0] KEY VALUE, invalidate_cblocks or discard BEGIN-END (END excluded).",
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
