from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.errors import MetadataError
from fusecache.metadata import Identity, Row, Superblock
from fusecache.offline.interchange import KEPT, Head, read_xml
from tests.unit.offline.documents import SUPERBLOCK, Listener, read, written

ROOT = '<superblock uuid="" block_size="128" nr_cache_blocks="8" policy="smq" hint_width="4">'
DEBIAN = f"""{ROOT}
  <mappings>
    <mapping cache_block="0" origin_block="5" dirty="true"/>
    <mapping cache_block="3" origin_block="7" dirty="false"/>
  </mappings>
  <hints>
    <hint cache_block="0" data="AQAAgA=="/>
    <hint cache_block="3" data="AAAAAA=="/>
  </hints>
</superblock>
"""
HEAD = Head("", 65536, 8, "smq")
ROWS = [Row(0, 5, True, None), Row(3, 7, False, None)]
HINTS = [(0, 0x80000001), (3, 0)]
HEARD = (HEAD, ROWS, HINTS)


def test_what_cache_dump_writes_is_read() -> None:
    assert read(DEBIAN) == HEARD


def test_what_is_written_is_what_cache_dump_would_write() -> None:
    comment, _, rest = written(
        SUPERBLOCK, [row._replace(hint=hint) for row, (_, hint) in zip(ROWS, HINTS, strict=True)]
    ).partition("\n")
    assert rest == DEBIAN
    assert comment.startswith("<!-- fusecache {")
    assert comment.endswith("} -->")


TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=20)
WORDS = st.integers(0, 2**32 - 1)
ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(
    superblock=st.builds(
        Superblock,
        uuid=TEXTS,
        block_size=st.integers(1, 2**18).map(lambda pages: pages * 4096),
        cache_blocks=st.integers(1, 2**32 - 1),
        region_blocks=st.just(1),
        image_bytes=st.integers(1, 2**60),
        origin=st.builds(Identity, ANY_TEXT, ANY_TEXT, ANY_TEXT, st.none() | st.integers(1, 2**60)),
        clean_shutdown=st.booleans(),
        cache_bytes=st.none() | st.integers(1, 2**60),
        hints=st.none() | TEXTS,
        stats=st.dictionaries(ANY_TEXT, st.integers(0, 2**60), max_size=3),
    ),
    rows=st.lists(
        st.builds(
            Row,
            st.integers(0, 2**32 - 1),
            st.integers(0, 2**63 - 1),
            st.booleans(),
            st.none() | st.integers(0, 2**32 - 1),
            valid=st.none(),
        )
    ),
    notes=st.dictionaries(TEXTS.map("note {}".format), ANY_TEXT, max_size=3),
)
def test_whatever_is_written_is_read_again(superblock: Superblock, rows: list[Row], notes: dict[str, str]) -> None:
    head, read_rows, hints = read(written(superblock, rows, notes))
    assert (head.uuid, head.block_size) == (superblock.uuid, superblock.block_size)
    assert head.cache_blocks == superblock.cache_blocks
    assert head.policy == ((superblock.hints or "").split(" ")[0] or "smq")
    values = superblock.pack()
    assert head.notes == notes | {name: values[name] for name in KEPT if name in values}
    assert read_rows == [row._replace(hint=None, crc=None) for row in rows]
    assert hints == [(row.cblock, row.hint) for row in rows if row.hint is not None]


def test_a_long_document_is_read_as_it_comes() -> None:
    class Endless(io.RawIOBase):
        """More lines than anybody could keep."""

        def __init__(self) -> None:
            self.sent = 0

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            self.sent += 1
            if self.sent == 1:
                return f"{ROOT}<mappings>".encode()
            return b'<mapping cache_block="0" origin_block="5" dirty="true"/>' * 100

    class Impatient(Listener):
        """Has heard enough after a thousand rows."""

        def row(self, row: Row) -> None:
            super().row(row)
            if len(self.rows) == 1000:
                raise EOFError

    source, listener = Endless(), Impatient()
    with pytest.raises(EOFError):
        read_xml(source, "endless", lambda _: listener)  # type: ignore[arg-type]  # it reads, and that is all
    assert listener.rows[-1] == Row(0, 5, True, None)
    assert source.sent < 15


def test_discards_are_advice_and_read_over() -> None:
    assert read(DEBIAN.replace("</mappings>", '</mappings><discards><discard dbegin="0" dend="4"/></discards>')) == (
        HEAD,
        ROWS,
        HINTS,
    )


def test_a_hint_width_of_0_means_no_hints() -> None:
    text = DEBIAN.replace('hint_width="4"', 'hint_width="0"').replace("AQAAgA==", "").replace("AAAAAA==", "")
    assert read(text) == (HEAD, ROWS, [])


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (DEBIAN, "", "no element found in line 1"),
        (DEBIAN, "nonsense", "syntax error in line 1"),
        ("</superblock>", "", "no element found in line 11"),
        ("</mappings>", "", "<hints> where it does not belong in line 6"),
        ("</superblock>", "</superblock><superblock/>", "junk after document element in line 10"),
        ("superblock", "cache", "<cache> where it does not belong in line 1"),
        ("<mappings>", "<mappings><hints>", "<hints> where it does not belong in line 2"),
        ("<mappings>", "<mappings>text", "text 'text' where none belongs in line 2"),
        ("<mappings>", "<mappings a='1'>", "<mappings> with an attribute 'a' in line 2"),
        ('uuid=""', "", "<superblock> without an attribute 'uuid' in line 1"),
        ('uuid=""', 'uuid="" version="2"', "<superblock> with an attribute 'version' in line 1"),
        ('uuid=""', f'uuid="{"u" * 5000}"', "a name that is too long in line 1"),
        ('"128"', '"100"', "block size 51200: must be a multiple of 4096"),
        ('"128"', '"4194304"', "block size 2147483648: must be a multiple"),
        ('"128"', '"-8"', "block_size is '-8'"),
        ('nr_cache_blocks="8"', 'nr_cache_blocks="0"', "nr_cache_blocks is 0"),
        ('nr_cache_blocks="8"', 'nr_cache_blocks="4294967296"', "nr_cache_blocks is '4294967296'"),
        ('hint_width="4"', 'hint_width="8"', "hint_width is 8, not 4"),
        ('dirty="true"', "", "<mapping> without an attribute 'dirty' in line 3"),
        ('dirty="true"', 'dirty="1"', "dirty is '1'"),
        ('origin_block="5"', 'origin_block="9223372036854775808"', "origin_block is '9223372036854775808'"),
        ('cache_block="0" o', 'cache_block="0x1" o', "cache_block is '0x1'"),
        ('cache_block="0" o', 'cache_block="٣" o', "cache_block is '٣'"),
        ("AQAAgA==", "AQAA", "data is 'AQAA', not base64 of 4 bytes"),
        ("AQAAgA==", "!", "data is '!', not base64 of 4 bytes"),
        ("<superblock", "<!DOCTYPE a [<!ENTITY b 'c'>]><superblock", "a document type, which no dump has, in line 1"),
        ("<superblock", "<!-- fusecache {'a'} --><superblock", "the comment of fusecache is damaged in line 1"),
        ("<superblock", '<!-- fusecache {"a": 1} --><superblock', "the comment of fusecache is damaged in line 1"),
        ("<superblock", "<?xml version='1.0' encoding='klingon'?><superblock", "unknown encoding"),
    ],
)
def test_bad_documents_are_refused_and_the_line_is_named(old: str, new: str, complaint: str) -> None:
    assert old in DEBIAN
    with pytest.raises(MetadataError) as caught:
        read(DEBIAN.replace(old, new))
    assert str(caught.value).startswith("dump.xml is no dump of a cache: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "start", ["<superblock uuid='", "<!-- ", "<!-- fusecache ", "<?target ", f"{ROOT}</superblock "]
)
def test_f19_a_tag_or_comment_without_an_end_is_refused_soon(start: str) -> None:
    """F19: the parser would look at all of it anew with each chunk: minutes for 200 MB, and all of it in memory."""

    class Endless(io.RawIOBase):
        """A document that goes on."""

        sent = 0

        def read(self, size: int = -1) -> bytes:
            self.sent += 1
            assert self.sent < 20
            return start.encode() if self.sent == 1 else b" " * 65536

    with pytest.raises(MetadataError, match="a tag or comment longer than 1048576 bytes in line 1"):
        read_xml(Endless(), "dump.xml", lambda _: Listener())  # type: ignore[arg-type]  # it reads, and that is all


def test_f19_entities_that_multiply_are_refused_before_they_do() -> None:
    steps = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 11))
    with pytest.raises(MetadataError, match="a document type, which no dump has"):
        read(f'<!DOCTYPE superblock [<!ENTITY a0 "ha">{steps}]>{ROOT}&a10;</superblock>')


def test_other_comments_say_nothing() -> None:
    assert read(f"<!-- hello -->{DEBIAN.replace('</mappings>', '</mappings><!-- fusecache nonsense -->')}") == (
        HEAD,
        ROWS,
        HINTS,
    )
