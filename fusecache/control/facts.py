"""What a mount tells of itself that its parts do not know, and how large its metadata is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusecache.config import PageCache


@dataclass(slots=True)
class Survival:
    """What becomes of a mount when its daemon ends, and what has become of it so far."""

    UNDER_WAY: ClassVar = "under way"

    holder: int = 0
    """The process that keeps the mount; 0 if there is none."""
    unheld: str = ""
    """Why there is none."""
    crashes: int = 0
    """How often a daemon of this mount has died."""
    restarts: int = 0
    """How often one has left, and another one has gone on."""
    restart: str = ""
    """What became of the last restart: ``under way``, ``done``, or ``failed: `` and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFacts:
    """What was settled when the mount began."""

    origin: str
    """Where the origin is."""
    cache: str
    """Where the cache is."""
    metadata: str
    """Where the metadata is."""
    log: str = ""
    """Where the log is; empty if it is no file."""
    mountpoint: str
    """The directory that the image is in."""
    engine: str
    """What does the I/O that waits: ``io_uring`` or ``threads``."""
    gate: Callable[[], bool]
    """Whether fusecache itself reads the kernel's requests; settled when it is mounted."""
    page_cache: PageCache
    """What the host's page cache holds."""
    features: tuple[str, ...] = ()
    """dm-cache's feature words that the mount was asked for, besides its mode."""
    table: str
    """The table that would make this mount again."""
    suspects: int
    """Blocks that are dirty only because a crash left it open whether they are."""
    pid: int
    """The process that serves the image."""
    version: str
    """Its release of fusecache."""
    survival: Survival = field(default_factory=Survival)
    """What the mount's holder is about; changes while it is served."""


class MetadataSize(Protocol):
    """How large the metadata is, in bytes, at this moment."""

    def size(self) -> int:
        """Return the size of all of it."""

    def used_size(self) -> int:
        """Return the size of the part that is used."""
