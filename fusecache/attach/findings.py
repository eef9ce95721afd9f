"""Looking at an origin, for :mod:`fusecache.attach.agreement` to judge; some of what is cached is compared with it.

That is cheap at every mount, and more after a crash.  The clean blocks that are read are spread over the cache.  Each
mount takes others, by the count of its generation.  Blocks of zeroes say little, as any new disk has them, and are left
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from fusecache.attach.agreement import Findings
from fusecache.attach.claim import Claim
from fusecache.attach.generation import count_of
from fusecache.config import MIB
from fusecache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusecache.attach.claims import Claims
    from fusecache.attach.origin import Origin
    from fusecache.metadata import Database

FEW: Final = 1 * MIB
"""Bytes that are read of an origin at every mount."""
MANY: Final = 16 * MIB
"""After a crash, and where it is in doubt whether it is the same origin."""
_MOST_BLOCKS: Final = {FEW: 16, MANY: 256}


def look_at_origin(claims: Claims, database: Database) -> Findings:
    """Find out what the origin says of itself, and how much of what is cached is there."""
    superblock, now = database.superblock(), claims.origin.identity()
    in_doubt = not superblock.clean_shutdown or now.has_changed_since(superblock.origin)
    compared, differing = compare(claims.origin, database, MANY if in_doubt else FEW)
    return Findings(
        now=now,
        claim=claims.read(),
        newer=database.count_newer(),
        compared=compared,
        differing=differing,
        is_disproved=Claim.is_disproved,
    )


def compare(origin: Origin, database: Database, size: int) -> tuple[int, int]:
    """Hold the sums of clean blocks against the origin; returns how many were compared, and how many differ.

    :param size: bytes to read, :data:`FEW` or :data:`MANY`; at least one block, if it is not larger than the latter.
    """
    superblock = database.superblock()
    block_size = superblock.block_size
    most = min(size // block_size or int(block_size <= MANY), _MOST_BLOCKS[size])
    if not most:
        return 0, 0
    zeroes = crc32c(bytes(block_size))
    spread = database.sums(most, turn=count_of(superblock.generation), leave_out=zeroes)
    agree = list(held_against(origin, spread, block_size))
    return len(agree), agree.count(False)


def held_against(origin: Origin, sums: Iterable[tuple[int, int]], block_size: int) -> Iterator[bool]:
    """Tell of blocks, as ``(oblock, CRC-32C)``, whether the origin has them; leave out what cannot be read there."""
    for oblock, crc in sums:
        try:
            content = origin.read_now(oblock * block_size, block_size)
        except StoreError:
            continue  # that says nothing of what it is
        yield len(content) == block_size and crc32c(content) == crc
