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
"""

from __future__ import annotations

import binascii
import json
import re
from array import array
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Generic, TypeVar
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from fusecache.config import check_block_size
from fusecache.errors import MetadataError, UsageError
from fusecache.metadata import NAMES, Row
from fusecache.offline.visiting import Visitor
from fusecache.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from fusecache.metadata import Superblock

HINT_BYTES: Final = 4
KEPT: Final = frozenset(NAMES) - {"uuid", "block_size", "cache_blocks", "region_blocks", "needs_check"}
"""Values that have no place in dm-cache's format, and are kept in the comment."""
_DEFAULT_POLICY: Final = "smq"
_CHUNK: Final = 1 << 16
_LONGEST: Final = 1 << 20
"""Bytes of a tag or comment.  The parser looks at an unfinished one anew with each chunk, and keeps all of it."""
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

Guest = TypeVar("Guest", bound=Visitor)


@dataclass(frozen=True, slots=True)
class Head:
    """What the XML says of the cache as a whole."""

    uuid: str
    block_size: int
    """In bytes."""
    cache_blocks: int
    policy: str
    notes: dict[str, str] = field(default_factory=dict)
    """What the comment says: values of the metadata, and whatever else was to be kept."""


class XmlWriter(Visitor):
    """A visitor who writes a document.

    It leaves out partial blocks: a document has no word for them, and who reads it would take them for whole ones.

    :param notes: what to keep in the comment besides what the superblock says.
    :ivar left_out: how many blocks that were.
    """

    def __init__(self, output: TextIO, notes: Mapping[str, str] | None = None) -> None:
        self._write = output.write
        self._notes = dict(notes or {})
        self.left_out = 0
        self._hinted = array("Q")
        """Hints, which stand behind all mappings, with their cblocks in the upper half."""

    def superblock(self, superblock: Superblock) -> None:
        """See the visitor."""
        notes = self._notes | {name: value for name, value in superblock.pack().items() if name in KEPT}
        # A comment must not hold two hyphens.
        text = json.dumps(notes, sort_keys=True).replace("-", "\\u002d")
        policy = (superblock.hints or "").partition(" ")[0] or _DEFAULT_POLICY
        self._write(
            f"<!-- {_COMMENT}{text} -->\n"
            f'<superblock uuid={_quoted(superblock.uuid)} block_size="{superblock.block_size // SECTOR}" '
            f'nr_cache_blocks="{superblock.cache_blocks}" policy={_quoted(policy)} hint_width="{HINT_BYTES}">\n'
            "  <mappings>\n"
        )

    def row(self, row: Row) -> None:
        """See the visitor."""
        cblock, oblock, dirty, hint, _, valid = row
        if valid is not None:
            self.left_out += 1
            return
        is_dirty = "true" if dirty else "false"
        self._write(f'    <mapping cache_block="{cblock}" origin_block="{oblock}" dirty="{is_dirty}"/>\n')
        if hint is not None:
            self.hint(cblock, hint)

    def hint(self, cblock: int, hint: int) -> None:
        """See the visitor."""
        self._hinted.append(cblock << 32 | hint)

    def end(self) -> None:
        """See the visitor."""
        self._write("  </mappings>\n  <hints>\n")
        for both in self._hinted:
            data = b64encode((both & _MAX_U32).to_bytes(HINT_BYTES, "little")).decode()
            self._write(f'    <hint cache_block="{both >> 32}" data="{data}"/>\n')
        self._write("  </hints>\n</superblock>\n")


def _quoted(text: str) -> str:
    """Write a text as an attribute; what does something to a terminal becomes a number."""
    return quoteattr(text, {character: f"&#{ord(character)};" for character in text if not character.isprintable()})


def read_xml(file: BinaryIO, name: str, begin: Callable[[Head], Guest]) -> Guest:
    """Tell a visitor what a document says, in its order, and return the visitor.

    :param name: what messages call the document.
    :param begin: hears what the document says of the cache as a whole, and returns who is to hear the rest.
    :raises MetadataError: it is not such a document, or is cut short; the message names the line.
    """
    reader = _Reader(begin)
    try:
        while chunk := _read(file, name):
            reader.feed(chunk)
        return reader.finish()
    except expat.ExpatError as exc:
        msg = f"{name} is no dump of a cache: {expat.ErrorString(exc.code)} in line {exc.lineno}"
        raise MetadataError(msg) from exc
    except (_DocumentError, LookupError, ValueError) as exc:  # the latter two: encodings that there are not
        msg = f"{name} is no dump of a cache: {exc} in line {reader.line}"
        raise MetadataError(msg) from exc


def _read(file: BinaryIO, name: str) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as exc:
        msg = f"cannot read {name}: {exc.strerror}"
        raise MetadataError(msg) from exc


class _DocumentError(Exception):
    """Well-formed XML, but not dm-cache's."""


class _Reader(Generic[Guest]):
    """Hears the parser, and tells a visitor."""

    def __init__(self, begin: Callable[[Head], Guest]) -> None:
        self._begin_visit = begin
        self._visitor: Guest | None = None
        self._path = [""]
        self._hint_bytes = HINT_BYTES
        self._notes: dict[str, str] = {}
        self._fed = 0
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

    def feed(self, chunk: bytes) -> None:
        self._parser.Parse(chunk, False)
        self._fed += len(chunk)
        if self._fed - self._parser.CurrentByteIndex > _LONGEST:
            msg = f"a tag or comment longer than {_LONGEST} bytes"
            raise _DocumentError(msg)

    def finish(self) -> Guest:
        self._parser.Parse(b"", True)
        assert self._visitor is not None  # no document is without its first element
        self._visitor.end()
        return self._visitor

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if _PARENTS.get(tag) != self._path[-1]:
            msg = f"<{tag[:40]}> where it does not belong"
            raise _DocumentError(msg)
        self._path.append(tag)
        if tag == "superblock":
            self._visitor = self._begin_visit(self._head(attributes))
        elif tag == "mapping" and self._visitor is not None:
            self._visitor.row(_row(attributes))
        elif tag == "hint" and self._visitor is not None:
            if (hint := self._hint(attributes)) is not None:
                self._visitor.hint(*hint)
        elif tag != "discard":  # advice that is of no use here
            _take(tag, attributes)

    def _end(self, tag: str) -> None:
        self._path.pop()

    def _text(self, text: str) -> None:
        if text.strip():
            msg = f"text {text.strip()[:40]!r} where none belongs"
            raise _DocumentError(msg)

    def _comment(self, text: str) -> None:
        if self._visitor is not None or not text.strip().startswith(_COMMENT):
            return
        try:
            notes = json.loads(text.strip().removeprefix(_COMMENT))
        except (ValueError, RecursionError):
            notes = None
        if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
            msg = "the comment of fusecache is damaged"
            raise _DocumentError(msg)
        self._notes = notes

    def _doctype(self, *_: Any) -> None:
        msg = "a document type, which no dump has,"
        raise _DocumentError(msg)

    def _head(self, attributes: dict[str, str]) -> Head:
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
        return Head(uuid, size, blocks, policy, self._notes)

    def _hint(self, attributes: dict[str, str]) -> tuple[int, int] | None:
        cblock, data = _take("hint", attributes, "cache_block", "data")
        try:
            hint = b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            hint = None
        if hint is None or len(hint) != self._hint_bytes:
            msg = f"data is {data[:40]!r}, not base64 of {self._hint_bytes} bytes,"
            raise _DocumentError(msg)
        return (_number("cache_block", cblock, _MAX_U32), int.from_bytes(hint, "little")) if hint else None


def _row(attributes: dict[str, str]) -> Row:
    cblock, oblock, dirty = _take("mapping", attributes, "cache_block", "origin_block", "dirty")
    if dirty not in _BOOLEANS:
        msg = f"dirty is {dirty[:40]!r}, not true or false,"
        raise _DocumentError(msg)
    cache_block, origin_block = _number("cache_block", cblock, _MAX_U32), _number("origin_block", oblock, _MAX_OBLOCK)
    return Row(cache_block, origin_block, _BOOLEANS[dirty], None)


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
