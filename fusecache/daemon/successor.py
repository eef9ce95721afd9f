"""The process that goes on with a mount: ``python -m fusecache.daemon.successor MOUNTPOINT LINE``.

The holder starts it (:mod:`fusecache.daemon.holder`), and tells it by the line what to be.  It loads everything before
there is a need for it, so that a restart takes no longer than it must.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from contextlib import ExitStack, suppress
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, NoReturn

from fusecache.daemon import holder
from fusecache.daemon.spawn import background
from fusecache.errors import FusecacheError
from fusecache.grammar import read_config
from fusecache.lines import complain

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.config import MountConfig


def main() -> NoReturn:
    """Be the next daemon, as soon as that is wanted; never returns."""
    status = 1
    try:
        status = succeed(socket.socket(fileno=int(sys.argv[2])))
    except BaseException:  # noqa: BLE001 - there is nobody above to hand it to
        traceback.print_exc()
    finally:
        os._exit(status)


def succeed(line: socket.socket) -> int:
    """Load, wait until there is no other daemon any more, and serve; returns the exit code."""
    message, _ = holder.receive(line)
    if message["word"] != "config":
        return 0
    with ExitStack() as resources:
        try:
            config = read_config(message["config"])
            resources.enter_context(background(config))
            serve = _load()
            holder.send(line, "loaded")
            message, descriptors = holder.receive(line)
            if message["word"] == "begin":
                serve(config, line, message, descriptors)
        except FusecacheError as exc:
            complain(exc)
            return _refuse(line, str(exc))
        except Exception as exc:  # noqa: BLE001 - a release that does not work, or a fault while it serves
            traceback.print_exc()
            return _refuse(line, f"{type(exc).__name__}: {exc}")
    return 0


def _load() -> Callable[[MountConfig, socket.socket, holder.Message, list[int]], None]:
    """Import what serves, none of which this process needs before."""
    from fusecache.daemon.lifeline import Heir  # noqa: PLC0415 - see above
    from fusecache.daemon.serve import serve  # noqa: PLC0415 - likewise

    def serve_on(config: MountConfig, line: socket.socket, told: holder.Message, descriptors: list[int]) -> None:
        slate = mmap(descriptors[0], 0, access=ACCESS_READ)
        os.close(descriptors[0])
        heir = Heir(line, told["holder"], told["crashes"], told["restarts"], told["restart"], slate)
        serve(config, _tell_nobody, heir)

    return serve_on


def _tell_nobody(_notes: list[str]) -> None:
    """Take notes for a user who is not there; the log has what matters of them."""


def _refuse(line: socket.socket, why: str) -> int:
    with suppress(OSError):
        holder.send(line, "refused", why=why)
    return 1


if __name__ == "__main__":
    main()
