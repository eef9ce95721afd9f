"""Saving metadata whose file has lost its name: SQLite goes on with what is open, and that ends with the process."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fusecache.errors import MetadataError
from fusecache.linux import rename_to_new, sync_directory
from fusecache.metadata.write_ahead_log import side_files

if TYPE_CHECKING:
    from fusecache.metadata.database import Database


def put_back(database: Database) -> Path:
    """Write metadata under its name again, durably, and close it.

    What has the name by now is left alone; then the metadata goes beside it.

    :return: where it is.
    :raises MetadataError: it cannot be written there.
    """
    path = database.path
    try:
        fd, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        draft = Path(name)
        try:
            database.copy_to(draft)
            os.fsync(fd)
            ours = [file for file in side_files(path) if _is_open_here(file)]
            database.let_go()
            for file in ours:  # SQLite leaves them; whatever has the name next would have its log replaced by them
                file.unlink(missing_ok=True)
            place = _give_name(draft, path)
        finally:
            os.close(fd)
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as exc:
        msg = f"metadata {path} was removed, and cannot be written anew: {exc.strerror}"
        raise MetadataError(msg) from exc
    return place


def _is_open_here(path: Path) -> bool:
    """Tell whether this process has a file open."""
    with suppress(OSError):
        status = path.stat()
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(link.name)), status):
                    return True
    return False


def _give_name(draft: Path, path: Path) -> Path:
    if not path.exists():
        for leftover in side_files(path):  # it would be taken for the log of the new one
            with suppress(FileNotFoundError):
                leftover.replace(f"{leftover}.old")
    names = (path, *(path.with_name(f"{path.name}.rescued{number or ''}") for number in range(100)))
    for name in names:
        with suppress(FileExistsError):
            rename_to_new(draft, name)
            return name
    msg = f"metadata {path}: there are too many rescued ones beside it"
    raise MetadataError(msg)
