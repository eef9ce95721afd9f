"""A note on the origin that tells whose cache may have newer data of it.

An extended attribute of the origin, where its file system has such: the origin's data stays as it is.  It is set when a
mount begins and goes when one ends with nothing dirty.  So a second, empty cache is not put in front of an origin whose
newest data lies in the first one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fusecache.errors import MetadataError
from fusecache.metadata import Database, Superblock

_NAME: Final = "user.fusecache.claim"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims to have newer data."""

    uuid: str
    metadata: str
    """Absolute path."""

    def holds(self, origin_mtime_ns: str) -> bool:
        """Tell whether it is still true: the metadata is there, has dirty blocks, and fits the origin as it is now.

        :param origin_mtime_ns: after a clean end, another one than that recorded means that the origin was replaced.
        :raises StoreError: that cannot be found out now.
        """
        if not Path(self.metadata).is_file():
            return False
        try:
            with Database.read_only(Path(self.metadata)) as database:
                values = database.values()
                has_newer = database.has_suspects()
        except MetadataError:
            return False
        if not has_newer or values.get("uuid") != self.uuid:
            return False
        try:
            superblock = Superblock.unpack(values)
        except MetadataError:
            return True  # its newer blocks can be saved by a repair
        return not superblock.clean_shutdown or superblock.origin.mtime_ns == origin_mtime_ns


def read_claim(fd: int) -> Claim | None:
    """Return the claim on an open origin, if there is one."""
    try:
        return Claim(**json.loads(os.getxattr(fd, _NAME)))
    except (OSError, ValueError, TypeError):
        return None


def write_claim(fd: int, claim: Claim) -> None:
    """Put a claim on an open origin, in the place of any other, where that is possible."""
    with suppress(OSError):
        os.setxattr(fd, _NAME, json.dumps(asdict(claim)).encode())


def remove_claim(fd: int) -> None:
    """Take the claim from an open origin."""
    with suppress(OSError):
        os.removexattr(fd, _NAME)
