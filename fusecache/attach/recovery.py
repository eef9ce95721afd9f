"""From the durable record to a running mapping and policy.

After a clean end the rows are exact.  After a crash the *suspects*, blocks whose row says dirty or whose region was
open, are taken for dirty (dm-cache takes every block): their cache copies have all flushed data, perhaps newer data,
and will be written back.  Hints count only after a clean end under a policy of the same name, major version and hint
size (dm-cache 2.11).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from fusecache.block import RECORDED, WRITE_INTENT, Mapping
from fusecache.errors import MetadataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusecache.block import Geometry
    from fusecache.metadata import Row
    from policies import Policy


_AT_ONCE: Final = 512
"""Rows that are looked at together: one by one takes longer, and so do more than the processor's caches hold."""


class DamagedRowError(MetadataError):
    """A row that cannot be; the message says which."""


@dataclass(slots=True)
class Recovered:
    """What was found in the record."""

    mapping: Mapping
    open_regions: set[int]
    suspects: int = 0
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
    recovered = Recovered(Mapping(geometry.cache_blocks), set(regions))
    use_hints = hints_valid and bool(policy.hint_size)
    unread = iter(rows)
    while some := list(islice(unread, _AT_ONCE)):
        cblocks, oblocks, _, hints, _ = zip(*some, strict=True)
        if max(oblocks) >= geometry.origin_blocks:
            msg = _beyond_the_end(some, geometry.origin_blocks)
            raise DamagedRowError(msg)
        try:
            recovered.mapping.insert_all(zip(oblocks, cblocks, strict=True))
        except ValueError as exc:
            raise DamagedRowError(str(exc)) from exc
        dirty = [_believe(row, recovered, region_blocks) for row in some]
        told = hints if use_hints else [None] * len(some)
        policy.load_mappings(zip(oblocks, cblocks, dirty, told, strict=True))
    return recovered


def _beyond_the_end(rows: list[Row], origin_blocks: int) -> str:
    row = next(row for row in rows if row.oblock >= origin_blocks)
    return f"cblock {row.cblock} holds oblock {row.oblock}, beyond the end of the image"


def _believe(row: Row, recovered: Recovered, region_blocks: int) -> bool:
    """Note what is known of a mapped block; returns whether it counts as dirty."""
    mapping = recovered.mapping
    cblock, _, dirty, _, crc = row
    suspect = cblock // region_blocks in recovered.open_regions
    if dirty or suspect:
        mapping.flags[cblock] = WRITE_INTENT | (RECORDED if dirty else 0)
        mapping.set_dirty(cblock)
        recovered.suspects += not dirty
    elif crc is not None:
        mapping.set_sum(cblock, crc)
    return dirty or suspect
