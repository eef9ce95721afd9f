"""dm-cache's XML, as ``cache_dump`` writes it and ``cache_restore`` reads it.

::

    <superblock uuid="" block_size="128" nr_cache_blocks="1024" policy="smq" hint_width="4">
      <mappings>
        <mapping cache_block="0" origin_block="5" dirty="false"/>
      </mappings>
      <hints>
        <hint cache_block="0" data="AAAAAA=="/>
      </hints>
    </superblock>

``block_size`` is in sectors; ``data`` is base64 of a hint's four bytes, little endian.  Unknown attributes are errors
to dm-cache's tools, but comments are not: what the format has no place for stands in a comment before the superblock,
``<!-- fusecache {JSON} -->``.

Millions of blocks go through here one at a time.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from fusecache.config import check_block_size
from fusecache.errors import MetadataError, UsageError
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HINT_BYTES: Final = 4
_CHUNK: Final = 1 << 16
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_MAX_U32: Final = 2**32 - 1
_MAX_OBLOCK: Final = 2**63 - 1
_MAX_TEXT: Final = 4096
_COMMENT: Final = "fusecache "
_PARENTS: Final = {
    "superblock": "",
    "mappings": "superblock",
    "mapping": "mappings",
    "hints": "superblock",
    "hint": "hints",
    "discards": "superblock",
    "discard": "discards",
}
"""Which element stands in which one."""
_BOOLEANS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Head:
    """What the XML says of the cache as a whole."""

    uuid: str
    block_size: int
    """In bytes."""
    cache_blocks: int
    policy: str
    extras: dict[str, str] = field(default_factory=dict)
    """What dm-cache's format has no attribute for."""


class MappingItem(NamedTuple):
    """``cblock`` of the cache holds ``oblock`` of the origin."""

    cblock: int
    oblock: int
    dirty: bool


class HintItem(NamedTuple):
    """What the policy noted of a cache block."""

    cblock: int
    hint: int


Item = Head | MappingItem | HintItem


def write_xml(superblock: Head, mappings: Iterable[MappingItem], hints: Iterable[HintItem]) -> Iterator[str]:
    """Yield the lines of a document."""
    if superblock.extras:
        # A comment must not hold two hyphens.
        text = json.dumps(superblock.extras, sort_keys=True).replace("-", "\\u002d")
        yield f"<!-- {_COMMENT}{text} -->\n"
    yield (
        f'<superblock uuid={quoteattr(superblock.uuid)} block_size="{superblock.block_size // SECTOR}" '
        f'nr_cache_blocks="{superblock.cache_blocks}" policy={quoteattr(superblock.policy)} '
        f'hint_width="{HINT_BYTES}">\n'
    )
    yield "  <mappings>\n"
    for cblock, oblock, dirty in mappings:
        is_dirty = "true" if dirty else "false"
        yield f'    <mapping cache_block="{cblock}" origin_block="{oblock}" dirty="{is_dirty}"/>\n'
    yield "  </mappings>\n  <hints>\n"
    for cblock, hint in hints:
        data = b64encode(hint.to_bytes(HINT_BYTES, "little")).decode()
        yield f'    <hint cache_block="{cblock}" data="{data}"/>\n'
    yield "  </hints>\n</superblock>\n"


def read_xml(file: BinaryIO, name: str) -> Iterator[Item]:
    """Yield the superblock, then the rest in the order of the document.

    :param name: what messages call the document.
    :raises MetadataError: it is not such a document, or is cut short; the message names the line.
    """
    reader = _Reader()
    try:
        while chunk := file.read(_CHUNK):
            yield from reader.feed(chunk)
        yield from reader.feed(b"", is_last=True)
    except OSError as exc:
        msg = f"cannot read {name}: {exc.strerror}"
        raise MetadataError(msg) from exc
    except expat.ExpatError as exc:
        msg = f"{name} is no dump of a cache: {expat.ErrorString(exc.code)} in line {exc.lineno}"
        raise MetadataError(msg) from exc
    except (_DocumentError, LookupError, ValueError) as exc:  # the latter two: encodings that there are not
        msg = f"{name} is no dump of a cache: {exc} in line {reader.line}"
        raise MetadataError(msg) from exc


class _DocumentError(Exception):
    """Well-formed XML, but not dm-cache's."""


class _Reader:
    """Turns text into items; holds those of one chunk."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._path = [""]
        self._superblock: Head | None = None
        self._hint_bytes = HINT_BYTES
        self._extras: dict[str, str] = {}
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.CommentHandler = self._comment
        parser.StartDoctypeDeclHandler = self._doctype
        self._parser = parser

    @property
    def line(self) -> int:
        return self._parser.CurrentLineNumber

    def feed(self, chunk: bytes, *, is_last: bool = False) -> list[Item]:
        """Read on; returns the items that are complete now."""
        self._items = []
        self._parser.Parse(chunk, is_last)
        return self._items

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if _PARENTS.get(tag) != self._path[-1]:
            msg = f"<{tag[:40]}> where it does not belong"
            raise _DocumentError(msg)
        self._path.append(tag)
        if tag == "mapping":
            self._items.append(_mapping(attributes))
        elif tag == "hint":
            self._add_hint(attributes)
        elif tag == "superblock":
            self._add_superblock(attributes)
        elif tag != "discard":  # advice that is of no use here
            _take(tag, attributes)

    def _end(self, tag: str) -> None:
        self._path.pop()

    def _text(self, text: str) -> None:
        if text.strip():
            msg = f"text {text.strip()[:40]!r} where none belongs"
            raise _DocumentError(msg)

    def _comment(self, text: str) -> None:
        if self._superblock is not None or not text.strip().startswith(_COMMENT):
            return
        try:
            extras = json.loads(text.strip().removeprefix(_COMMENT))
        except (ValueError, RecursionError):
            extras = None
        if not isinstance(extras, dict) or not all(isinstance(value, str) for value in extras.values()):
            msg = "the comment of fusecache is damaged"
            raise _DocumentError(msg)
        self._extras = extras

    def _doctype(self, *_: Any) -> None:
        msg = "a document type, which no dump has,"
        raise _DocumentError(msg)

    def _add_superblock(self, attributes: dict[str, str]) -> None:
        names = ("uuid", "block_size", "nr_cache_blocks", "policy", "hint_width")
        uuid, block_size, cache_blocks, policy, hint_width = _take("superblock", attributes, *names)
        if len(uuid) > _MAX_TEXT or len(policy) > _MAX_TEXT:
            msg = "a name that is too long"
            raise _DocumentError(msg)
        try:
            size = check_block_size(_number("block_size", block_size, _MAX_U32) * SECTOR)
        except UsageError as exc:
            raise _DocumentError(str(exc)) from exc
        self._hint_bytes = _number("hint_width", hint_width, _MAX_U32)
        if self._hint_bytes not in {0, HINT_BYTES}:
            msg = f"hint_width is {self._hint_bytes}, not 4"
            raise _DocumentError(msg)
        blocks = _number("nr_cache_blocks", cache_blocks, _MAX_U32)
        if not blocks:
            msg = "nr_cache_blocks is 0"
            raise _DocumentError(msg)
        self._superblock = Head(uuid, size, blocks, policy, self._extras)
        self._items.append(self._superblock)

    def _add_hint(self, attributes: dict[str, str]) -> None:
        cblock, data = _take("hint", attributes, "cache_block", "data")
        try:
            hint = b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            hint = None
        if hint is None or len(hint) != self._hint_bytes:
            msg = f"data is {data[:40]!r}, not base64 of {self._hint_bytes} bytes,"
            raise _DocumentError(msg)
        if hint:
            self._items.append(HintItem(_number("cache_block", cblock, _MAX_U32), int.from_bytes(hint, "little")))


def _mapping(attributes: dict[str, str]) -> MappingItem:
    cblock, oblock, dirty = _take("mapping", attributes, "cache_block", "origin_block", "dirty")
    if dirty not in _BOOLEANS:
        msg = f"dirty is {dirty[:40]!r}, not true or false,"
        raise _DocumentError(msg)
    return MappingItem(
        _number("cache_block", cblock, _MAX_U32), _number("origin_block", oblock, _MAX_OBLOCK), _BOOLEANS[dirty]
    )


def _take(tag: str, attributes: dict[str, str], *names: str) -> list[str]:
    """Return the attributes of these names, of which all are needed and no others allowed."""
    if attributes.keys() != set(names):
        odd = min(attributes.keys() ^ set(names))
        msg = f"<{tag}> with{'' if odd in attributes else 'out'} an attribute {odd[:40]!r}"
        raise _DocumentError(msg)
    return [attributes[name] for name in names]


def _number(name: str, text: str, maximum: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > maximum:
        msg = f"{name} is {text[:40]!r}, no number that can be,"
        raise _DocumentError(msg)
    return int(text)
