"""The command line: words in, exit code out.

0 is success, 1 refused or failed, 2 a usage error; errors are one line on stderr.  What a command needs is imported
when it runs, so that ``--help`` and ``status`` answer at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from fusecache import __version__
from fusecache.cli import mounts, offline, simulation
from fusecache.errors import FusecacheError, UsageError
from fusecache.lines import STDOUT, complain, give_up, have_standard_streams

app = typer.Typer(
    name="fusecache",
    help="Serve a disk image from a fast cache in front of a slow origin: dm-cache in user space.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(mounts.app)
app.add_typer(offline.app)
app.add_typer(simulation.app)


def main() -> NoReturn:
    """Run the command that ``sys.argv`` asks for, and exit."""
    have_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what this terminal has no letter for is shown all the same
    if len(sys.argv) > 1 and "/" in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv.insert(1, "mount")  # as mount(8) calls who serves a file system of the type fuse.fusecache
    try:
        app()
    except FusecacheError as exc:
        complain(exc)
        sys.exit(2 if isinstance(exc, UsageError) else 1)
    except OSError as exc:  # a help text that nothing takes
        give_up(STDOUT)
        complain(": ".join(map(str, filter(None, (exc.filename, exc.strerror)))) or exc)
        sys.exit(1)
    sys.exit(0)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fusecache {__version__}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before any command."""
