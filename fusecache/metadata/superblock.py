"""What the metadata says of the cache as a whole: the one place that knows its names, and how their values are written.

The ``meta`` table holds text.  :meth:`Superblock.unpack` makes typed values of it or says what is wrong,
:meth:`Superblock.pack` makes text of them, and :func:`packed` makes text of some, for a transaction that changes only
those.  Names that this version does not know are left alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from fusecache.config import check_block_size
from fusecache.errors import MetadataError, UsageError
from fusecache.metadata.identity import TOUCHED, Identity
from fusecache.metadata.schema import PARTIAL_PAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

APPLICATION_ID: Final = 0x46554341  # "FUCA"
FORMAT: Final = 4
READABLE: Final = (2, 3, FORMAT)
"""Format 2 knew no generations (:mod:`fusecache.attach.bond`), format 3 no partial blocks; a mount makes format 4 of
both."""
HEADER_BYTES: Final = 100
"""Of SQLite's file header."""
_MAGIC: Final = b"SQLite format 3\0"

SIZES: Final = ("block_size", "cache_blocks", "region_blocks", "image_bytes")
_FLAGS: Final = ("clean_shutdown", "needs_check")
IDENTITY: Final = ("uuid", "origin_path", "origin_inode", "origin_mtime_ns")
_SINCE_FORMAT_3: Final = (
    "generation",
    "previous_generation",
    "claim_generation",
    "origin_claimed",
    "origin_signs",
    "origin_marks",
    "origin_label",
    TOUCHED,
)
REQUIRED: Final = (*SIZES, *_FLAGS, *IDENTITY)
_LAST_SIZES: Final = ("cache_bytes", "origin_bytes")
"""Of the files, at the last mount; metadata that never was mounted has none."""
IN_USE: Final = "in_use"
"""Whether commits may lie in the write-ahead log only; see :mod:`fusecache.metadata.write_ahead_log`."""
_FOR_THE_NEXT_MOUNT: Final = ("cache_path", "hints", "image_times", "learned", "stats")
"""Any of them may be missing."""
NAMES: Final = (*REQUIRED, *_LAST_SIZES, *_SINCE_FORMAT_3, IN_USE, PARTIAL_PAGE, *_FOR_THE_NEXT_MOUNT)

_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")
"""A size or a count: positive, and short enough to be one."""
_MAX_GENERATION: Final = 1024
_SHOWN: Final = 40
"""Characters of a wrong value that a message repeats."""
_MAX_CACHE_BLOCKS: Final = 2**32 - 1
"""dm-cache counts them in 32 bits."""
_MAX_REGION_BLOCKS: Final = 64
_REGIONS_PER_CACHE: Final = 1024
_MAX_COUNT: Final = 2**63 - 1
_MAX_UUID: Final = 128
"""Characters: it goes into the stamp, which is one page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The cache as a whole, as the metadata has it."""

    uuid: str
    """By which metadata and cache know each other."""
    block_size: int
    cache_blocks: int
    region_blocks: int
    """Cache blocks that share a region of the write-intent record."""
    image_bytes: int
    origin: Identity
    clean_shutdown: bool
    """Whether the last mount ended cleanly; true if there was none."""
    needs_check: bool = False
    """Whether a mount found something wrong; then the next one is refused."""
    generation: str = ""
    """Which beginning or end of a mount this is of; cache and claim have the same.  Empty: not known."""
    previous_generation: str = ""
    """That which cache and claim may still have, if the change to :attr:`generation` was interrupted."""
    claim_generation: str = ""
    """That which the claim has, if it is another one: nothing is written to an origin that is mounted read-only."""
    origin_claimed: bool = False
    """Whether the origin has a claim of this cache, or something else keeps it."""
    cache_bytes: int | None = None
    """How long the cache was at the last mount."""
    cache_path: str = ""
    """Where the cache was at the last mount, absolute and without links; empty if no version said so."""
    hints: str | None = None
    """Which policy's hints the rows have; see :func:`fusecache.attach.hint_signature`."""
    learned: str = ""
    """What that policy has learned besides (:meth:`policies.Policy.memory`), in base 64."""
    image_times: str = ""
    """The times of the image at the last clean end; see :class:`fusecache.metadata.ImageTimes`."""
    stats: Mapping[str, int] | None = None
    """The counters that go on over mounts; None if they cannot be read, which is no reason to refuse a mount."""

    def pack(self) -> dict[str, str]:
        """Return everything that is known, as text."""
        return _packed({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def unpack(cls, values: Mapping[str, str]) -> Superblock:
        """Read what :meth:`pack` wrote; raises MetadataError with what is missing or cannot be."""
        if missing := sorted(name for name in REQUIRED if name not in values):
            msg = f"it does not say {', '.join(missing)}"
            raise MetadataError(msg)
        for fault in faults(values).values():
            raise MetadataError(fault)
        number = {name: int(values[name]) for name in (*SIZES, *_LAST_SIZES) if name in values}
        return cls(
            uuid=values["uuid"],
            block_size=number["block_size"],
            cache_blocks=number["cache_blocks"],
            region_blocks=number["region_blocks"],
            image_bytes=number["image_bytes"],
            origin=Identity.unpack(values),
            clean_shutdown=values["clean_shutdown"] == "1",
            needs_check=values["needs_check"] == "1",
            generation=values.get("generation", ""),
            previous_generation=values.get("previous_generation", ""),
            claim_generation=values.get("claim_generation", ""),
            origin_claimed=values.get("origin_claimed") == "1",
            cache_bytes=number.get("cache_bytes"),
            cache_path=values.get("cache_path", ""),
            hints=values.get("hints"),
            learned=values.get("learned", ""),
            image_times=values.get("image_times", ""),
            stats=_counters(values.get("stats", "{}")),
        )


class Changes(TypedDict, total=False):
    """Some fields of a :class:`Superblock`."""

    uuid: str
    block_size: int
    cache_blocks: int
    region_blocks: int
    image_bytes: int
    origin: Identity
    clean_shutdown: bool
    needs_check: bool
    generation: str
    previous_generation: str
    claim_generation: str
    origin_claimed: bool
    cache_bytes: int
    cache_path: str
    hints: str
    learned: str
    image_times: str
    stats: Mapping[str, int]


def packed(**changes: Unpack[Changes]) -> dict[str, str]:
    """Return some values as text, for a change of those alone."""
    return _packed(changes)


def _packed(changes: Mapping[str, object]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in changes.items():
        if isinstance(value, Identity):
            values |= value.pack()
        elif isinstance(value, bool):
            values[name] = str(int(value))
        elif isinstance(value, dict):
            values |= {name: json.dumps(value)} if value else {}
        elif value is not None:
            values[name] = str(value)
    return values


def faults(values: Mapping[str, str]) -> dict[str, str]:
    """Say, by name, what is missing among the values that every mount needs, and what cannot be."""
    found = {name: f"it does not say {name}" for name in REQUIRED if name not in values}
    for name in (*SIZES, *_LAST_SIZES):
        if name in values and not _NUMBER.fullmatch(values[name]):
            found[name] = f"{name} is {values[name][:_SHOWN]!r}, which is no number that can be"
    for name in _FLAGS:
        if name in values and values[name] not in {"0", "1"}:
            found[name] = f"{name} is {values[name][:_SHOWN]!r}, not 0 or 1"
    if "uuid" in values and not 1 <= len(values["uuid"]) <= _MAX_UUID:
        found["uuid"] = f"uuid is {values['uuid'][:_SHOWN]!r}, which has not 1 to {_MAX_UUID} characters"
    if len(values.get("generation", "")) > _MAX_GENERATION:
        found["generation"] = f"generation is {values['generation'][:_SHOWN]!r}, which is none"
    if "block_size" not in found:
        try:
            check_block_size(int(values["block_size"]))
        except UsageError as exc:
            found["block_size"] = str(exc)
    if "cache_blocks" not in found and int(values["cache_blocks"]) > _MAX_CACHE_BLOCKS:
        found["cache_blocks"] = f"cache_blocks is {values['cache_blocks']}, more than there can be"
    return found


def _counters(text: str) -> dict[str, int] | None:
    """Read the counters that are numbers which counting can reach; None if it is no table of them."""
    try:
        kept = json.loads(text)
        return {name: count for name, count in kept.items() if type(count) is int and 0 <= count <= _MAX_COUNT}
    except (ValueError, AttributeError, RecursionError):
        return None


def header_fault(header: bytes) -> str:
    """Say what is wrong with the first bytes of metadata, as words that follow its name; nothing if they are right."""
    if not is_sqlite(header):
        return "is not fusecache metadata, or its first page is damaged"
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return "is not fusecache metadata (an SQLite file of something else)"
    if (version := int.from_bytes(header[60:64], "big")) not in READABLE:
        return f"has format {version}; this version of fusecache reads formats {READABLE[0]} to {FORMAT}"
    return ""


def is_sqlite(header: bytes) -> bool:
    """Tell whether a file that begins so says that it is SQLite's."""
    return len(header) >= HEADER_BYTES and header.startswith(_MAGIC)


def region_blocks_for(cache_blocks: int) -> int:
    """Choose how many cache blocks share a region: one in small caches, never more than 64."""
    return max(1, min(_MAX_REGION_BLOCKS, cache_blocks // _REGIONS_PER_CACHE))
