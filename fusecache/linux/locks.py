"""Locks that belong to an open file, and whose they are (fcntl(2), *open file description locks*).

Theory of operation
-------------------
One byte is locked, far beyond any data and the bytes that SQLite locks.  Such a lock for writing needs a descriptor
that can write; whoever can only read the file can have a lock for reading, no more.  The kernel can be asked whether a
lock for *writing* is in the way, and by this readers are told from writers.

The kernel does not say who holds such a lock, but ``/proc`` shows for each descriptor the locks that came by it: of our
own processes to us, of all to root.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

_BYTE: Final = 1 << 62
_LAYOUT: Final = "hhqqi4x"  # struct flock
_PROCESSES: Final = Path("/proc")
_SHOWN: Final = 80
"""Characters of a holder's command."""


def try_lock(fd: int, *, for_writing: bool) -> bool:
    """Lock an open file against all others, or for reading beside other readers; tells whether that worked.

    :raises OSError: its file system has no locks, for instance.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK if for_writing else fcntl.F_RDLCK))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: fcntl(2)
        return False
    return True


def is_for_writing(fd: int) -> bool:
    """Tell whether a descriptor can write."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def is_locked_by_writer(fd: int) -> bool:
    """Tell whether somebody else who can write the file has it locked; raises OSError."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_RDLCK))
    (kind, *_) = struct.unpack(_LAYOUT, answer)
    return bool(kind != fcntl.F_UNLCK)


def holder_of(fd: int) -> str:
    """Say who has a file locked, as far as that can be seen from here; an empty string if it cannot."""
    inode, us = str(os.fstat(fd).st_ino), str(os.getpid())
    for process in _PROCESSES.iterdir():
        if process.name.isdigit() and process.name != us and _has_locked(process, inode):
            return f"pid {process.name}: {_command_of(process)}"
    return ""


def _has_locked(process: Path, inode: str) -> bool:
    with suppress(OSError):
        return any(_tells_of(info.read_text(errors="replace"), inode) for info in (process / "fdinfo").iterdir())
    return False


def _tells_of(info: str, inode: str) -> bool:
    # lock:  1: OFDLCK  ADVISORY  WRITE -1 fe:00:1234 4611686018427387904 4611686018427387904
    lines = (line.split() for line in info.splitlines() if line.startswith("lock:"))
    return any(words[2] == "OFDLCK" and words[6].endswith(f":{inode}") and words[7] == str(_BYTE) for words in lines)


def _command_of(process: Path) -> str:
    with suppress(OSError):
        words = os.fsdecode((process / "cmdline").read_bytes().rstrip(b"\0")).split("\0")
        is_script = len(words) > 1 and Path(words[0]).name.startswith("python") and not words[1].startswith("-")
        text = " ".join([Path(words[1]).name, *words[2:]] if is_script else words)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return "?"


def _lock(kind: int) -> bytes:
    return struct.pack(_LAYOUT, kind, os.SEEK_SET, _BYTE, 1, 0)
