"""Documents in dm-cache's XML: writing and reading them, as the tests compare them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from fusecache.metadata import Identity, Row, Superblock
from fusecache.offline.interchange import Head, XmlWriter, read_xml
from fusecache.offline.visiting import Visitor

if TYPE_CHECKING:
    from collections.abc import Iterable

SUPERBLOCK = Superblock(
    uuid="",
    block_size=65536,
    cache_blocks=8,
    region_blocks=1,
    image_bytes=1 << 30,
    origin=Identity("/origin", "8:17", "1", None),
    clean_shutdown=True,
    hints="smq 2 4",
)
Heard = tuple[Head, list[Row], list[tuple[int, int]]]


class Listener(Visitor):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.hints: list[tuple[int, int]] = []
        self.ended = False

    def row(self, row: Row) -> None:
        self.rows.append(row)

    def hint(self, cblock: int, hint: int) -> None:
        self.hints.append((cblock, hint))

    def end(self) -> None:
        self.ended = True


def read(text: str | bytes) -> Heard:
    heads = []
    listener = Listener()

    def begin(head: Head) -> Listener:
        heads.append(head)
        return listener

    read_xml(io.BytesIO(text.encode() if isinstance(text, str) else text), "dump.xml", begin)
    assert listener.ended
    (head,) = heads
    return head, listener.rows, listener.hints


def written(superblock: Superblock, rows: Iterable[Row], notes: dict[str, str] | None = None) -> str:
    output = io.StringIO()
    writer = XmlWriter(output, notes)
    writer.superblock(superblock)
    for row in rows:
        writer.row(row)
    writer.end()
    return output.getvalue()
