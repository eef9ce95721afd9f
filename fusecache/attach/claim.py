"""A note on the origin that tells whose cache may have newer data of it.

It lies beside the origin's data, which stays as it is.  It is written, durably, before a mount turns its first block
dirty, and stays.  At an end with nothing dirty it says that all is well; then any other cache may be put in front of
the origin.  Otherwise it must be *disproved* first: by its metadata, which can be opened, and says that nothing is
dirty.  Metadata that is not there disproves nothing: its disk may not be mounted today, or it may be on another host.
Nor does an older copy of it, nor metadata that a mount uses, which may say something else in a moment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fusecache.attach.generation import is_outdated
from fusecache.attach.lease import is_locked
from fusecache.errors import FusecacheError
from fusecache.metadata import Database

_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims to have newer data."""

    uuid: str
    metadata: str
    """Absolute path, on the host that wrote it; it may name any file, so it is shown and not relied on."""
    generation: str = ""
    """Of the cache when this was written; see :mod:`fusecache.attach.bond`."""
    clean: bool = False
    """Whether nothing was dirty then."""
    host: str = ""
    """Which host wrote it."""

    def pack(self) -> bytes:
        """Write it as a note."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, note: bytes) -> Claim | None:
        """Read a note; None if it is no claim."""
        try:
            claim = cls(**json.loads(note[:_MOST_BYTES]))
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (claim.uuid, claim.metadata, claim.generation, claim.host)
        is_sound = all(isinstance(text, str) for text in texts) and isinstance(claim.clean, bool)
        return claim if is_sound else None

    def is_disproved(self) -> bool:
        """Tell whether no cache has newer data by this claim; looks at its metadata, and neither changes nor waits."""
        if self.clean:
            return True
        path = Path(self.metadata)
        try:
            if not path.is_file() or is_locked(path):
                return False
            with Database.read_only(path) as database:
                superblock = database.superblock()
                is_its_own = superblock.uuid == self.uuid and not is_outdated(superblock, self.generation)
                return is_its_own and not database.has_suspects()
        except (FusecacheError, OSError, ValueError):  # the last: a path with NUL in it
            return False

    def last_cache(self) -> str:
        """Return where the cache was that its metadata describes; nothing if that cannot be read here."""
        path = Path(self.metadata)
        try:
            if not path.is_file():
                return ""
            with Database.read_only(path) as database:
                superblock = database.superblock()
        except (FusecacheError, OSError, ValueError):
            return ""
        return superblock.cache_path if superblock.uuid == self.uuid else ""

    def __str__(self) -> str:
        """Say where its metadata is."""
        return f"{self.metadata} on host {self.host}" if self.host else self.metadata
