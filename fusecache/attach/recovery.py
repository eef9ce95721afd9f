"""From the durable record to a running mapping and policy.

After a clean end the rows are exact.  After a crash the *suspects* (:mod:`fusecache.metadata.suspects`) are taken for
dirty (dm-cache takes every block): their cache copies have all flushed data, perhaps newer data, and will be written
back.  Of a partial block those sectors count that its row names, in a suspect as dirty ones: what the cache got in
others counts from the commit that names them, and until then the origin's content does.  Hints count only after a clean
end under a policy of the same name, major version and hint size (dm-cache 2.11).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from fusecache.block import Mapping
from fusecache.errors import MetadataError
from fusecache.metadata import Suspects, packed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fusecache.block import Geometry
    from fusecache.metadata import Row, Superblock
    from policies import Policy


_MOST_MEMORY: Final = 32768
"""Bytes."""
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


def policy_values(policy: Policy) -> dict[str, str]:
    """Return for the record whose hints it has, and what the policy has learned besides, unless that is too much."""
    memory = policy.memory()
    learned = b64encode(memory).decode() if len(memory) <= _MOST_MEMORY else ""
    return packed(hints=hint_signature(policy), learned=learned)


def remember(policy: Policy, superblock: Superblock) -> None:
    """Let a policy have what it has learned in an earlier mount, if that mount had the same one."""
    if superblock.learned and superblock.hints == hint_signature(policy):
        with suppress(ValueError):
            policy.remember(b64decode(superblock.learned, validate=True))


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
    suspects = Suspects(recovered.open_regions, region_blocks)
    use_hints = hints_valid and bool(policy.hint_size)
    unread = iter(rows)
    while some := list(islice(unread, _AT_ONCE)):
        cblocks, oblocks, recorded, hints, _, _ = zip(*some, strict=True)
        if max(oblocks) >= geometry.origin_blocks:
            msg = _beyond_the_end(some, geometry.origin_blocks)
            raise DamagedRowError(msg)
        try:
            recovered.mapping.insert_all(zip(oblocks, cblocks, strict=True))
        except ValueError as exc:
            raise DamagedRowError(str(exc)) from exc
        dirty = suspects.all_that_count(cblocks, recorded)
        recovered.suspects += _note(recovered.mapping, some, dirty)
        told = hints if use_hints else [None] * len(some)
        policy.load_mappings(zip(oblocks, cblocks, dirty, told, strict=True))
    return recovered


def _beyond_the_end(rows: list[Row], origin_blocks: int) -> str:
    row = next(row for row in rows if row.oblock >= origin_blocks)
    return f"cblock {row.cblock} holds oblock {row.oblock}, beyond the end of the image"


def _note(mapping: Mapping, some: list[Row], dirty: list[bool]) -> int:
    """Note what is known of mapped blocks; returns how many count as dirty without a row that says so."""
    suspects = 0
    sum_known = mapping.sum_known
    for (cblock, _, recorded, _, crc, valid), is_dirty in zip(some, dirty, strict=True):
        if valid is not None:
            mapping.holds_part(cblock, valid)
        if is_dirty:
            (mapping.recovered_dirty if recorded else mapping.recovered_suspect)(cblock)
            suspects += not recorded
        elif crc is not None:
            sum_known(cblock, crc)
    return suspects
