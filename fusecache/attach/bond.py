"""What ties origin, cache and metadata together: one uuid, and one generation.

Theory of operation
-------------------
The uuid says that the three belong together; the *generation* (:mod:`fusecache.attach.generation`), that they are of
one moment.  Metadata, the cache's stamp and the origin's claim carry it.  It is changed, durably, when a mount begins
and when one ends cleanly.  So a part that was copied or saved at one time, and put back at another, does not fit the
other two.

A change takes three steps, and a crash may fall between any two of them:

1. The metadata records the new generation, with the previous one beside it, in the same commit as what begins or ends.
2. Stamp and claim are written, each durably.
3. The metadata drops the previous one.

As long as the metadata has previous generations (more than one, if beginnings were interrupted one after the other),
the others may have any of these; else they must have the present one.  All three steps of a beginning come before the
first block turns dirty.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

import structlog

from fusecache.attach.claim import Claim
from fusecache.attach.generation import ANY, is_accepted, successor
from fusecache.attach.stamp import Stamp
from fusecache.errors import RefusedError, StoreError
from fusecache.metadata import TOUCHED, packed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fusecache.metadata import Superblock

log = structlog.get_logger(__name__)


class Ledger(Protocol):
    """The durable record, when nothing runs."""

    def set_values(self, values: Mapping[str, str]) -> None:
        """Write names and values, durable when this returns; raises MetadataError."""


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
    write_claim: Callable[[Claim], str]
    """Writes the origin's claim, durably; returns where it is kept, nothing for nowhere; raises StoreError."""
    remove_claim: Callable[[], None]
    touched: Callable[[], str]
    """Tells the origin's :attr:`fusecache.metadata.Identity.touched`, which a claim changes."""
    claimed_at: str = ""
    """Where the claim is kept."""

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
        :raises StoreError: the claim cannot be written, and another one is there.
        :raises MetadataError: the last step failed.
        """
        self.write_stamp(Stamp(self.uuid, self.generation))
        self.claimed_at = ""
        if empty:
            self.remove_claim()
        else:
            claim = Claim(self.uuid, self.metadata, self.generation, clean, socket.gethostname())
            self.claimed_at = self.write_claim(claim)
        self.previous = ""
        values = packed(previous_generation="", origin_claimed=bool(self.claimed_at))
        self.ledger.set_values(values | {TOUCHED: self.touched()})

    def settle_at_end(self, *, clean: bool, empty: bool) -> None:
        """Do the same at a clean end, which it does not spoil: till it is done, previous generations are accepted."""
        try:
            self.settle(clean=clean, empty=empty)
        except OSError as exc:
            log.warning("the cache's stamp was not written", error=exc.strerror)
        except StoreError as exc:
            log.warning("the claim was not written", error=str(exc))
