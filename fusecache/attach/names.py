"""Whether the files of a mount are still what their names mean.

A file that was removed or replaced goes on existing as long as somebody has it open, and nothing that uses it notices;
it ends with the process.  So a mount looks at the names now and then.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import stat_result


class Name:
    """What a path meant at the beginning."""

    __slots__ = ("_meant", "path")

    def __init__(self, path: Path, meant: stat_result) -> None:
        self.path = path
        self._meant = meant

    def is_in_place(self) -> bool:
        """Tell whether it means the same now; also if that cannot be told.  May wait for a disk."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 - beside the function below
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        if stat.S_ISBLK(self._meant.st_mode):  # its node may be made anew
            return stat.S_ISBLK(now.st_mode) and now.st_rdev == self._meant.st_rdev
        return os.path.samestat(now, self._meant)
