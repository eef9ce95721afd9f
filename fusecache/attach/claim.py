"""A note on the origin that tells whose cache may have newer data of it.

It lies beside the origin's data, which stays as it is.  It is set when a mount begins and goes when one ends with
nothing dirty.  So a second, empty cache is not put in front of an origin whose newest data lies in the first one.
Where the note is kept, the kind of origin knows (:class:`fusecache.attach.origin.Origin`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fusecache.errors import MetadataError
from fusecache.metadata import Database, Identity, Superblock


@dataclass(frozen=True, slots=True)
class Claim:
    """Who claims to have newer data."""

    uuid: str
    metadata: str
    """Absolute path."""

    def pack(self) -> bytes:
        """Write it as a note."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, note: bytes) -> Claim | None:
        """Read a note; None if it is no claim."""
        try:
            match json.loads(note):
                case {"uuid": str(uuid), "metadata": str(metadata), **more} if not more:
                    return cls(uuid, metadata)
        except (ValueError, RecursionError):
            pass
        return None

    def holds(self, now: Identity) -> bool:
        """Tell whether it is still true: the metadata is there, has dirty blocks, and fits the origin as it is now.

        After a clean end, an origin that has changed was replaced.

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
        return not superblock.clean_shutdown or not now.has_changed_since(superblock.origin)
