"""What ties origin, cache and metadata together: one uuid, and one generation.

Theory of operation
-------------------
The uuid says that the three belong together; the *generation*, that they are of one moment.  It is a count with a few
random digits, so that two copies of a cache that go on separately have different ones.  Metadata, the cache's stamp and
the origin's claim carry it.  It is changed, durably, when a mount begins and when one ends cleanly.  So a part that was
copied or saved at one time, and put back at another, does not fit the other two.

A change takes three steps, and a crash may fall between any two of them:

1. The metadata records the new generation, with the previous one beside it, in the same commit as what begins or ends.
2. Stamp and claim are written, each durably.
3. The metadata drops the previous one.

As long as the metadata has previous generations (more than one, if beginnings were interrupted one after the other),
the others may have any of these; else they must have the present one.  All three steps of a beginning come before the
first block turns dirty.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, final

import structlog

from fusecache.attach.claim import Claim
from fusecache.attach.stamp import Stamp
from fusecache.errors import RefusedError
from fusecache.metadata import packed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fusecache.metadata import Superblock

log = structlog.get_logger(__name__)

_RANDOM_BYTES: Final = 4
ANY: Final = "*"
"""Stands among the previous generations where the metadata did not know its own."""


class Ledger(Protocol):
    """The durable record, when nothing runs."""

    def set_values(self, values: Mapping[str, str]) -> None:
        """Write names and values, durable when this returns; raises MetadataError."""


def successor(generation: str) -> str:
    """Return the generation that follows another one, or nothing."""
    count, _, _ = generation.partition("-")
    number = int(count) + 1 if count.isdecimal() else 1
    return f"{number}-{os.urandom(_RANDOM_BYTES).hex()}"


def is_accepted(generation: str, superblock: Superblock) -> bool:
    """Tell whether a cache or claim of this generation is of one moment with the metadata."""
    known = {superblock.generation, *superblock.previous_generation.split()}
    return not superblock.generation or ANY in known or generation in known


def require_same_generation(stamp: Stamp, superblock: Superblock, *, cache: Path, metadata: Path) -> None:
    """Refuse a cache and metadata of different moments; raises RefusedError."""
    if not is_accepted(stamp.generation, superblock):
        msg = (
            f"cache {cache} is of generation {stamp.generation or 'none'}, metadata {metadata} of "
            f"{superblock.generation}: one of the two is an older copy, so what the metadata says does not hold for "
            "this cache; bring the one of the same generation back"
        )
        raise RefusedError(msg)


@final
@dataclass(slots=True)
class Bond:
    """The generation of one binding, which it changes in all three parts."""

    uuid: str
    generation: str
    """The present one; empty if it is not known."""
    previous: str
    """Words: those that the other parts may have instead."""
    metadata: str
    """Absolute path."""
    ledger: Ledger
    write_stamp: Callable[[Stamp], None]
    """Writes the cache's stamp, durably; raises OSError."""
    write_claim: Callable[[Claim], bool]
    """Writes the origin's claim, durably; returns whether something keeps it."""
    remove_claim: Callable[[], None]

    def renewed(self) -> dict[str, str]:
        """Take the first step: choose a new generation, and return what to commit with what begins or ends."""
        self.previous = f"{self.generation or ANY} {self.previous}".strip()
        self.generation = successor(self.generation)
        return packed(generation=self.generation, previous_generation=self.previous)

    def settle(self, *, clean: bool = False, empty: bool = False) -> None:
        """Take the other two steps; what :meth:`renewed` returned is durable.

        :param clean: whether no block is dirty, nor can turn dirty.
        :param empty: whether nothing is cached, nor can be; then the origin needs no claim.
        :raises OSError: the stamp cannot be written.
        :raises MetadataError: the last step failed.
        """
        self.write_stamp(Stamp(self.uuid, self.generation))
        is_kept = False
        if empty:
            self.remove_claim()
        else:
            is_kept = self.write_claim(Claim(self.uuid, self.metadata, self.generation, clean, socket.gethostname()))
        self.previous = ""
        self.ledger.set_values(packed(previous_generation="", origin_claimed=is_kept))

    def settle_at_end(self, *, clean: bool, empty: bool) -> None:
        """Do the same at a clean end, which it does not spoil: till it is done, previous generations are accepted."""
        try:
            self.settle(clean=clean, empty=empty)
        except OSError as exc:
            log.warning("the cache's stamp was not written", error=exc.strerror)
