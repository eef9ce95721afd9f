"""What a mount is asked to be: plain values, checked as far as they can be without looking at any file."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from fusecache.errors import UsageError

E = TypeVar("E", bound=Enum)

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

DEFAULT_BLOCK_SIZE: Final = 64 * KIB
MIN_BLOCK_SIZE: Final = 4 * KIB
MAX_BLOCK_SIZE: Final = 1 * GIB
COPY_SIZE: Final = 1 * MIB
"""Bytes of the largest I/O by which blocks are copied from or to the origin."""
DEFAULT_READ_AHEAD: Final = 4 * MIB
"""Bytes of memory for what is read ahead, where that is of use."""
DEFAULT_POLICY: Final = "adaptive"
"""Of a mount that is not told one.  A dm-cache table's word *default* means smq, as there."""
DEFAULT_MIGRATION_THRESHOLD: Final = 2048 * 512
"""dm-cache's default, 2048 sectors, in bytes."""


class Mode(Enum):
    """What happens to writes (dm-cache's three I/O modes)."""

    WRITEBACK = "writeback"
    WRITETHROUGH = "writethrough"
    PASSTHROUGH = "passthrough"

    @classmethod
    def parse(cls, text: str) -> Mode:
        """Read a mode's name; raises UsageError."""
        return _parse(cls, "mode", text)


class PageCache(Enum):
    """What the host's page cache holds: what lies in the stores, the image instead, or next to nothing.  Never both."""

    STORES = "stores"
    IMAGE = "image"
    NONE = "none"

    @classmethod
    def parse(cls, text: str) -> PageCache:
        """Read its name; raises UsageError."""
        return _parse(cls, "page cache", text)


def _parse(kind: type[E], what: str, text: str) -> E:
    try:
        return kind(text)
    except ValueError:
        *most, last = (choice.value for choice in kind)
        msg = f"unknown {what} {text!r}: {', '.join(most)} or {last}"
        raise UsageError(msg) from None


def check_block_size(size: int) -> int:
    """Return ``size`` (bytes) if blocks may be that large; raises UsageError."""
    if not MIN_BLOCK_SIZE <= size <= MAX_BLOCK_SIZE or size % MIN_BLOCK_SIZE:
        msg = f"block size {size}: must be a multiple of 4096 from 4096 (4KiB) to 1073741824 (1GiB)"
        raise UsageError(msg)
    return size


@dataclass(frozen=True, slots=True)
class DirtyAge:
    """How long a block may be dirty before it is written back as soon as the origin is free; 0 for no such bound."""

    seconds: float = 30
    requests: int = 10_000
    """Requests, cut into blocks."""

    def __str__(self) -> str:
        """Write it as it is read."""
        parts = [f"{self.seconds:g}s"] if self.seconds else []
        parts += [str(self.requests)] if self.requests else []
        return ",".join(parts) or "0"


@dataclass(frozen=True, slots=True)
class DirtyLimit:
    """How much of the cache may be dirty before writes are absorbed more slowly."""

    per_cent: int = 75
    size: int | None = None
    """Bytes, in place of a share."""

    def __str__(self) -> str:
        """Write it as it is read."""
        return f"{self.per_cent}%" if self.size is None else str(self.size)

    def blocks(self, cache_blocks: int, block_size: int) -> int:
        """Return how many blocks of such a cache may be dirty."""
        if self.size is None:
            return cache_blocks * self.per_cent // 100
        return min(cache_blocks, self.size // block_size)


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A replacement policy as somebody asked for it; whether there is one, with such tunables, it has to say itself."""

    name: str
    tunables: tuple[tuple[str, str], ...] = ()
    """Keys and values, in the order given."""
    migration_threshold: int | None = None
    """Bytes; dm-cache has it among a policy's arguments, although no policy knows it.  None if nothing was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose the image is to be, and who may use it; None where nothing was said."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    """Permissions of the image; not beside :attr:`umask`."""
    umask: int | None = None
    """Permissions that neither the image nor its directory has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountConfig:
    """Everything that ``fusecache mount`` was told; sizes in bytes, None where nothing was said."""

    origin: str
    """Its address: a path, or a URL."""
    mountpoint: Path
    cache: Path | None = None
    cache_size: int | None = None
    metadata: Path | None = None
    block_size: int | None = None
    image_size: int | None = None
    """From a dm-cache table: how much of the origin is exposed."""
    mode: Mode = Mode.WRITEBACK
    policy: PolicyChoice = PolicyChoice(DEFAULT_POLICY)
    fuse_options: tuple[str, ...] = ()
    table: tuple[str, ...] = field(default=())
    """The words of the table that this came from, if it came from one."""
    page_cache: PageCache = PageCache.STORES
    ownership: Ownership = Ownership()
    read_only: bool = False
    """Whether nothing is to be written to the origin, even if it could be."""
    copy_rate: int = 0
    """Bytes a second that may be copied between cache and origin; 0 for no limit."""
    dirty_age: DirtyAge = DirtyAge()
    dirty_limit: DirtyLimit = DirtyLimit()
    scrub: int = 0
    """Bytes a second at which cached blocks are verified; 0 for not at all."""
    read_ahead: int | None = None
    """Bytes of memory for what is read ahead of misses in order; 0 for none, None for what suits the origin."""
    raw: bool = False
    """Whether an origin is raw whatever it looks like."""
    gate: bool = True
    """Whether we read the kernel's requests ourselves, where that can be done, or leave it to pyfuse3."""
    survive: bool = True
    """Whether the mount is to outlive its daemon, where that can be done."""
    discard_passdown: bool = True
    """Whether the origin gives the space back of what is discarded; it is written full of zeros otherwise."""
    foreground: bool = False
    format: int = 0
    """How often ``--format`` was given: once to reformat a clean cache, twice to throw away dirty data."""
