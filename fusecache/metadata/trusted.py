"""That the files of a record are nobody else's: see :mod:`fusecache.linux.trust`.

SQLite opens what lies beside a database by name, and believes it: a log has the latest commits, a rollback journal what
was there before.  In a directory where others may make files, one of theirs could be there first.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from fusecache.errors import MetadataError
from fusecache.linux import create_trusted, is_shared, require_trusted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG: Final = "-wal"
_BESIDE: Final = (_LOG, "-shm", "-journal")


def require_trusted_metadata(path: Path) -> None:
    """Refuse metadata of which others decide what it says, in its file or in one that SQLite has beside it.

    :raises UntrustedError: why not.
    :raises OSError: it cannot be looked at.
    """
    for ending in ("", *_BESIDE):
        require_trusted(path.with_name(path.name + ending))


@contextmanager
def names_held(path: Path) -> Iterator[None]:
    """Keep others from making what SQLite may open beside a database, until SQLite has made it.

    In most directories nobody else can.  In the others empty files of ours take the names; to SQLite they say nothing.

    :raises UntrustedError: somebody has been faster.
    :raises MetadataError: they cannot be made.
    """
    held: list[Path] = []
    try:
        try:
            if is_shared(path.parent.stat()):
                for ending in _BESIDE:
                    _hold(path.with_name(path.name + ending), held)
        except OSError as exc:
            msg = f"metadata {path}: {exc.strerror}"
            raise MetadataError(msg) from exc
        yield
    finally:
        for name in held:
            with suppress(FileNotFoundError):
                if not (name.stat().st_size or name.name.endswith(_LOG)):
                    name.unlink()


def _hold(name: Path, held: list[Path]) -> None:
    try:
        os.close(create_trusted(name))
    except FileExistsError:
        require_trusted(name)
    else:
        held.append(name)
