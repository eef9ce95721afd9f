"""The three parts of one mount, open and held: origin, cache and metadata, and what is recorded of them.

The metadata carries a uuid, the sizes, and the origin's identity; the cache begins with a *stamp* with the same uuid
(:mod:`fusecache.attach.stamp`); the origin has a claim (:mod:`fusecache.attach.claim`) from the moment when the mount
begins until it ends with nothing dirty.  Of an origin to which nothing is written nothing changes, its claim included:
nothing turns dirty, and what was dirty stays so.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusecache.attach.claim import Claim
from fusecache.linux import size_of
from fusecache.metadata import packed

if TYPE_CHECKING:
    from pathlib import Path

    from fusecache.attach.origin import Origin, Strengths
    from fusecache.block import Geometry
    from fusecache.metadata import Database
    from fusecache.stores import Store


@dataclass(slots=True, kw_only=True)
class Binding:
    """Origin, cache and metadata of one mount, open and locked."""

    origin: Store
    cache: Store
    database: Database
    geometry: Geometry
    engine: str
    """What does the I/O that waits."""
    strengths: Strengths
    """Of the origin."""
    region_blocks: int
    uuid: str
    was_clean: bool
    """Whether the last mount ended cleanly."""
    read_only: str = ""
    """Why nothing is written to the origin; empty if it is."""
    notes: list[str]
    """What the user should hear."""
    cache_path: Path
    metadata_path: Path
    _origin: Origin
    _cache_fd: int
    _created: ExitStack
    """What would remove the files made for this mount."""

    @property
    def origin_address(self) -> str:
        """What the user knows the origin by."""
        return self._origin.address

    def begin(self) -> None:
        """Record, durably, that a mount has begun: until it ends cleanly, it counts as crashed.  New files stay."""
        self.database.set_values(
            packed(
                clean_shutdown=False,
                image_bytes=self.geometry.image_bytes,
                cache_bytes=size_of(self._cache_fd),
                origin=self._origin.identity(),
            )
        )
        if not self.read_only:
            self._origin.write_claim(Claim(self.uuid, str(self.metadata_path)))
        self._created.pop_all()

    def end_values(self) -> dict[str, str]:
        """Return what to record at a clean end; raises StoreError."""
        if not self.read_only:
            self._origin.make_identity_durable()
        return packed(clean_shutdown=True, origin=self._origin.identity())

    def release_origin(self) -> None:
        """Note on the origin that no cache has newer data of it any more."""
        if not self.read_only:
            self._origin.remove_claim()
