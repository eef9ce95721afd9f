"""What a mount, and the tools for unmounted caches, ask of an origin of any kind.

Theory of operation
-------------------
A :class:`Location` is an origin that was named and not yet looked at.  Opened, it is an :class:`Origin`: held for us
alone, and known by its :class:`fusecache.metadata.Identity`.  Whether a mount may use it is decided by that and
by its claim.  Only then is it opened as a :class:`fusecache.stores.Store`, which the data path reads and writes.

Everything here but the store is called before requests are served, after the last one was, or by a thread, so these
methods may wait.  Nothing above this interface knows of descriptors, paths or devices: what can say these few things
of itself can be an origin.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fusecache.attach.claim import Claim
from fusecache.config import PageCache
from fusecache.metadata import Identity, ImageTimes
from fusecache.stores import Store

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Strengths:
    """What an origin is good at."""

    request_bytes: int
    """The smallest request that it serves well: a smaller one costs it as much."""
    parallelism: int
    """How many requests it serves side by side; more of them wait for each other."""
    reads_ahead: bool
    """Whether somebody below us reads ahead of reads in order: the host's page cache."""
    can_discard: bool
    """Whether it can give back the space of a range that :meth:`fusecache.stores.Store.discard` names; it may still
    decline to."""


@dataclass(frozen=True, slots=True)
class Space:
    """How full the file system is that an origin lies on."""

    block_bytes: int
    blocks: int
    free: int
    """Blocks that nobody uses."""
    available: int
    """Those of them that users may have."""
    files: int
    """Files that there can be; 0 where that is no number."""
    files_free: int
    """Those of them that there are not yet."""


@dataclass(frozen=True, slots=True)
class OpenStore:
    """An origin that can be served."""

    store: Store
    engine: str
    """What does the I/O that waits, as the user knows it."""
    strengths: Strengths


class Origin(Protocol):
    """An origin that is open, and ours alone until the resources are closed with which it was opened."""

    @property
    def address(self) -> str:
        """What the user knows it by, and the metadata records."""

    @property
    def size(self) -> int:
        """In bytes, as it is at this moment."""

    @property
    def unwritable(self) -> str:
        """Why it cannot be written; empty if it can."""

    def identity(self) -> Identity:
        """Return what it is known again by, as it is at this moment."""

    def touched(self) -> str:
        """Return :attr:`fusecache.metadata.Identity.touched`, as it is at this moment."""

    def times(self) -> ImageTimes | None:
        """Return when it was changed last; None where nothing tells."""

    def allocated(self) -> int | None:
        """Return how many bytes of room it takes; None where nothing tells; raises OSError."""

    def space(self) -> Space | None:
        """Return how full its file system is; None if it lies on none; raises OSError."""

    def read_now(self, offset: int, length: int) -> bytes:
        """Read a range, which is cut where the origin ends; raises StoreError."""

    def claim(self) -> Claim | None:
        """Return the claim on it, if there is one."""

    def write_claim(self, claim: Claim) -> bool:
        """Put a claim on it, durably, in the place of any other; returns whether it can keep one."""

    def remove_claim(self) -> None:
        """Take the claim from it, durably, if that can be done."""

    def open_store(self, size: int, page_cache: PageCache) -> OpenStore:
        """Make its first ``size`` bytes a store; closed with its resources.

        :param page_cache: what is to be in the host's page cache; where an origin has none, that does not matter.
        :raises RefusedError: it cannot do without the page cache.
        """

    def is_in_place(self) -> bool:
        """Tell whether its address still means this origin; may wait, and is called while requests are served."""

    def make_identity_durable(self) -> None:
        """Make sure that after a crash, too, it is known by the identity that it has now; raises StoreError."""


class Location(Protocol):
    """Where an origin is; whether there is one is not known yet."""

    @property
    def address(self) -> str:
        """The address, written in one way only."""

    def exists(self) -> bool:
        """Tell whether there is anything."""

    def is_at(self, path: Path) -> bool:
        """Tell whether a file with this absolute path is, or would be, the origin itself; raises OSError."""

    def signs(self) -> Mapping[str, str]:
        """Return the signs by which it is known again; nothing where there is no origin, or it cannot tell."""

    def open(self, resources: ExitStack, *, writable: bool = True) -> Origin:
        """Open it, and keep others from it until ``resources`` are closed.

        :param writable: whether one that can only be read will not do.
        :raises BusyError: another mount, or something else, has it.
        :raises StoreError: it is missing, not permitted, or cannot be an origin.
        """
