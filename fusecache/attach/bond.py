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

Not every origin can keep a claim, and none has to.  But an older one must not stay: if it says that all is well,
another cache would be let in; if not, our own next mount would be refused.  So a claim that cannot be replaced is
removed.  One that can be neither replaced nor removed stops a beginning, and leaves an end with its previous
generations.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

import structlog

from fusecache.attach.claim import Claim
from fusecache.attach.generation import NONE, is_accepted, successor
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


class ClaimPlace(Protocol):
    """Where the claim on the origin is kept; see :class:`fusecache.attach.claims.Claims`."""

    def read(self) -> Claim | None:
        """Return the claim, if there is one."""

    def write(self, claim: Claim) -> str:
        """Put a claim there, durably, in the place of any other; returns where it is kept, nothing for nowhere."""

    def remove(self) -> None:
        """Take it from there, durably, if that can be done."""


def require_same_generation(stamp: Stamp, superblock: Superblock, *, cache: Path, metadata: Path) -> None:
    """Refuse a cache and metadata of different moments; raises RefusedError."""
    if not is_accepted(stamp.generation, superblock):
        msg = (
            f"cache {cache} is of generation {stamp.generation or 'none'}, metadata {metadata} of "
            f"{superblock.generation or 'none'}: one of the two is an older copy, so what the metadata says does not "
            "hold for this cache; bring the one of the same generation back"
        )
        raise RefusedError(msg)


def _unknown() -> str:
    return ""


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
    """Writes the cache's stamp, durably; raises StoreError."""
    claims: ClaimPlace
    touched: Callable[[], str] = _unknown
    """Tells the origin's :attr:`fusecache.metadata.Identity.touched`, which a claim changes."""
    claim_generation: str = ""
    """Words: those which the claim has, if it is another one."""
    keeps_claim: bool = False
    """Whether the claim stays as it is, because nothing is written to the origin."""
    claimed_at: str = ""
    """Where the claim is kept."""

    def renewed(self) -> dict[str, str]:
        """Take the first step: choose a new generation, and return what to commit with what begins or ends."""
        known = f"{self.generation or NONE} {self.previous}".strip()
        if self.keeps_claim and (self.previous or not self.claim_generation):
            # The claim is of the present generation, or an interrupted change has come as far as the claim, or has not.
            self.claim_generation = " ".join(dict.fromkeys(f"{known} {self.claim_generation}".split()))
        self.previous = known
        self.generation = successor(self.generation)
        return packed(
            generation=self.generation, previous_generation=self.previous, claim_generation=self.claim_generation
        )

    def settle(self, *, clean: bool = False, empty: bool = False) -> None:
        """Take the other two steps; what :meth:`renewed` returned is durable.

        :param clean: whether no block is dirty, nor can turn dirty.
        :param empty: whether nothing is cached, nor can be; then the origin needs no claim.
        :raises StoreError: the stamp cannot be written, or an older claim cannot be replaced.
        :raises MetadataError: the last step failed.
        """
        self.write_stamp(Stamp(self.uuid, self.generation))
        if self.keeps_claim:
            self.previous = ""
            self.ledger.set_values(packed(previous_generation=""))
            return
        claim = Claim(self.uuid, self.metadata, self.generation, clean, socket.gethostname())
        self.claimed_at = self._replace_claim(None if empty else claim)
        self.claim_generation = ""
        self.previous = ""
        values = packed(previous_generation="", claim_generation="", origin_claimed=bool(self.claimed_at))
        self.ledger.set_values(values | {TOUCHED: self.touched()})

    def _replace_claim(self, claim: Claim | None) -> str:
        """Put a claim, or none, in the place of what is there; returns where it is kept, nothing for nowhere."""
        if claim is not None and (place := self.claims.write(claim)) and self.claims.read() == claim:
            return place
        if self.claims.read() is not None:
            self.ledger.set_values(packed(origin_claimed=False))  # first, so that after a crash nobody misses it
            self.claims.remove()
            if (left := self.claims.read()) is not None:
                msg = f"an older note on the origin can be neither replaced nor removed (metadata {left})"
                raise StoreError(msg)
        return ""

    def settle_at_end(self, *, clean: bool, empty: bool) -> None:
        """Do the same at a clean end, which it does not spoil: till it is done, previous generations are accepted."""
        try:
            self.settle(clean=clean, empty=empty)
        except StoreError as exc:
            log.warning("stamp or claim are not up to date", error=str(exc))
