"""What is mounted where, asked of the kernel alone: a file system that hangs is not asked."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A file system in its place."""

    kind: str
    """Such as ``ext4``; a FUSE file system says ``fuse.NAME``."""
    options: tuple[str, ...]
    """Those of the file system, not of the place."""
    device: str = ""
    """Its number, as ``0:47``: the same in all mount namespaces."""

    @property
    def user(self) -> int | None:
        """Whose daemon serves a FUSE file system."""
        found = [option for option in self.options if option.startswith("user_id=")]
        return int(found[0].partition("=")[2]) if found else None


def mounted_at(path: Path) -> Mounted | None:
    """Return what is mounted right at a path, the last of several; None if nothing is."""
    absolute = Path(os.path.normpath(path.absolute()))
    # Links are followed only where that is needed: to follow the last name asks the file system that is mounted there.
    return _find(absolute) or _find(absolute.parent.resolve() / absolute.name) or _find(absolute.resolve())


def take_away(place: Path) -> None:
    """Take what is mounted at a place out of the file tree, as well as can be; whoever uses it may go on."""
    if os.geteuid() == 0:
        command = ["umount", "--lazy", "--no-canonicalize", "--", str(place)]
    else:
        command = ["fusermount3", "-u", "-z", "-q", "--", str(place)]
    with suppress(OSError):
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - fixed commands


def _find(place: Path) -> Mounted | None:
    found = None
    for line in MOUNTS.read_bytes().splitlines():
        words = line.split(b" ")
        if _unescaped(words[4]) == os.fsencode(place):
            kind, _, options = words[words.index(b"-") + 1 :][:3]
            found = Mounted(os.fsdecode(kind), tuple(os.fsdecode(options).split(",")), words[2].decode())
    return found


def _unescaped(text: bytes) -> bytes:
    """Undo what mountinfo does to blanks and backslashes (proc(5))."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), text)
