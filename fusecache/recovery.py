"""From the durable record to a running mapping and policy.

After a clean end the rows are exact.  After a crash the *suspects*, blocks whose row says dirty or whose region was
open, are taken for dirty (dm-cache takes every block): their cache copies have all flushed data, perhaps newer data,
and will be written back.  Hints count only after a clean end under a policy of the same name, major version and hint
size (dm-cache 2.11).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusecache.errors import MetadataError
from fusecache.mapping import COVERED, RECORDED, Mapping

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusecache.geometry import Geometry
    from fusecache.metadata.record import Row
    from policies import Policy


class DamagedRowError(MetadataError):
    """A row that cannot be; the message says which."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found in the record."""

    mapping: Mapping
    open_regions: set[int]
    suspects: int
    """Blocks taken for dirty without a row that says so."""


def hint_signature(policy: Policy) -> str:
    """Name what hints mean: two policies with the same signature understand each other's."""
    return f"{policy.name} {policy.version[0]} {policy.hint_size}"


def recover(
    rows: Iterable[Row],
    regions: set[int],
    *,
    geometry: Geometry,
    region_blocks: int,
    policy: Policy,
    hints_valid: bool,
) -> Recovered:
    """Load every row into a new mapping and into the policy.

    :raises DamagedRowError: rows that contradict each other or the sizes; nothing was written anywhere.
    """
    mapping = Mapping(geometry.cache_blocks)
    suspects = 0
    for row in rows:
        if row.oblock >= geometry.origin_blocks:
            msg = f"cblock {row.cblock} holds oblock {row.oblock}, beyond the end of the image"
            raise DamagedRowError(msg)
        try:
            mapping.insert(row.oblock, row.cblock)
        except ValueError as exc:
            raise DamagedRowError(str(exc)) from exc
        suspect = row.cblock // region_blocks in regions
        if row.dirty or suspect:
            mapping.flags[row.cblock] = COVERED | (RECORDED if row.dirty else 0)
            mapping.set_dirty(row.cblock)
            suspects += not row.dirty
        elif row.crc is not None:
            mapping.set_sum(row.cblock, row.crc)
        hint = row.hint if hints_valid and policy.hint_size else None
        policy.load_mapping(row.oblock, row.cblock, row.dirty or suspect, hint)
    return Recovered(mapping, set(regions), suspects)
