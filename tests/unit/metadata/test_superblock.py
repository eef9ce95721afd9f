"""The superblock: what is packed is read again, and whatever is missing or cannot be is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.errors import MetadataError
from fusecache.metadata import FORMAT, SIZES, Database, Identity, Superblock, faults, packed
from fusecache.metadata.superblock import APPLICATION_ID, NAMES, REQUIRED, Changes, header_fault

texts = st.text(st.characters(codec="utf-8"))
sizes = st.integers(1, 10**19 - 1)
origins = st.builds(Identity, texts, texts, texts, st.none() | sizes, st.dictionaries(texts, texts), texts, texts)
superblocks = st.builds(
    Superblock,
    uuid=st.text(st.characters(codec="utf-8"), min_size=1, max_size=128),
    block_size=st.integers(1, 1 << 18).map(lambda pages: pages * 4096),
    cache_blocks=st.integers(1, 2**32 - 1),
    region_blocks=sizes,
    image_bytes=sizes,
    origin=origins,
    clean_shutdown=st.booleans(),
    needs_check=st.booleans(),
    cache_bytes=st.none() | sizes,
    hints=st.none() | texts,
    generation=st.just("") | st.from_regex(r"[1-9][0-9]{0,8}-[0-9a-f]{8}", fullmatch=True),
    previous_generation=texts,
    claim_generation=texts,
    cache_path=texts,
    origin_claimed=st.booleans(),
    image_times=texts,
    stats=st.dictionaries(texts, st.integers(0, 2**63 - 1)),
)
PLAIN = Superblock(
    uuid="0b5a",
    block_size=65536,
    cache_blocks=1024,
    region_blocks=1,
    image_bytes=1 << 30,
    origin=Identity(
        "/origin", "8:17", "1700000000", 1 << 30, {"serial number": "W1"}, marks="8a9136aa", label="ext4 1b4e28ba"
    ),
    clean_shutdown=True,
    generation="7-3f9a0c52",
    previous_generation="6-00000001",
    origin_claimed=True,
    cache_bytes=4096 + (1 << 26),
    cache_path="/cache",
    hints="smq 2 4",
    image_times="1700000000000000000 1700000000000000001 7-3f9a0c52",
    stats={"read_hits": 3, "write_hits": 0},
)


@given(superblocks)
def test_what_is_packed_is_read_again(superblock: Superblock) -> None:
    values = superblock.pack()
    assert set(REQUIRED) <= values.keys() <= set(NAMES)
    assert Superblock.unpack(values) == superblock
    assert Superblock.unpack(values).pack() == values
    assert not faults(values)


def test_the_text_is_that_of_formats_3_and_4() -> None:
    assert FORMAT == 4
    assert PLAIN.pack() == {
        "uuid": "0b5a",
        "block_size": "65536",
        "cache_blocks": "1024",
        "region_blocks": "1",
        "image_bytes": "1073741824",
        "origin_path": "/origin",
        "origin_inode": "8:17",
        "origin_mtime_ns": "1700000000",
        "origin_bytes": "1073741824",
        "origin_signs": '{"serial number": "W1"}',
        "origin_marks": "8a9136aa",
        "origin_label": "ext4 1b4e28ba",
        "origin_ctime_ns": "",
        "origin_claimed": "1",
        "generation": "7-3f9a0c52",
        "previous_generation": "6-00000001",
        "claim_generation": "",
        "clean_shutdown": "1",
        "needs_check": "0",
        "cache_bytes": "67112960",
        "cache_path": "/cache",
        "hints": "smq 2 4",
        "learned": "",
        "image_times": "1700000000000000000 1700000000000000001 7-3f9a0c52",
        "stats": '{"read_hits": 3, "write_hits": 0}',
    }


@given(superblocks, superblocks)
def test_a_change_of_some_values_is_that_and_nothing_else(before: Superblock, other: Superblock) -> None:
    values = before.pack() | packed(
        clean_shutdown=other.clean_shutdown, image_bytes=other.image_bytes, origin=other.origin
    )
    size = before.origin.size if other.origin.size is None else other.origin.size
    assert Superblock.unpack(values) == replace(
        before,
        clean_shutdown=other.clean_shutdown,
        image_bytes=other.image_bytes,
        origin=replace(other.origin, size=size),
    )


def test_every_field_can_be_changed() -> None:
    assert set(Changes.__annotations__) == set(Superblock.__dataclass_fields__)


def test_names_of_other_versions_do_no_harm() -> None:
    assert Superblock.unpack({**PLAIN.pack(), "colour": "green"}) == PLAIN


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_missing_is_named(name: str) -> None:
    values = PLAIN.pack()
    del values[name]
    assert faults(values) == {name: f"it does not say {name}"}
    with pytest.raises(MetadataError, match=f"^it does not say {name}$"):
        Superblock.unpack(values)


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(
        MetadataError, match=r"^it does not say block_size, cache_blocks, clean_shutdown, image_bytes, "
    ):
        Superblock.unpack({})
    assert list(faults({})) == list(REQUIRED)


@pytest.mark.parametrize("name", ["cache_bytes", "origin_bytes", "hints", "stats"])
def test_what_never_was_mounted_says_less(name: str) -> None:
    values = PLAIN.pack()
    del values[name]
    assert Superblock.unpack(values).pack() == values


@pytest.mark.parametrize("name", [*SIZES, "cache_bytes", "origin_bytes"])
@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "x", "07", "1" * 20, "1\n", "\u0663", "x" * 1000])
def test_a_size_that_cannot_be(name: str, value: str) -> None:
    values = {**PLAIN.pack(), name: value}
    fault = f"{name} is {value[:40]!r}, which is no number that can be"
    assert faults(values) == {name: fault}
    with pytest.raises(MetadataError) as caught:
        Superblock.unpack(values)
    assert str(caught.value) == fault


@pytest.mark.parametrize("name", ["clean_shutdown", "needs_check"])
@pytest.mark.parametrize("value", ["", "2", "yes", "01", "True"])
def test_a_flag_that_cannot_be(name: str, value: str) -> None:
    assert faults({**PLAIN.pack(), name: value}) == {name: f"{name} is {value!r}, not 0 or 1"}


@pytest.mark.parametrize("value", ["", "u" * 129, "u" * 5000])
def test_f19_a_uuid_that_the_stamp_has_no_room_for_or_nobody_has(value: str) -> None:
    """F19: a longer stamp would overwrite the first block; none at all would fit a cache without a stamp."""
    assert faults({**PLAIN.pack(), "uuid": value}) == {
        "uuid": f"uuid is {value[:40]!r}, which has not 1 to 128 characters"
    }


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("block_size", "5000", "block size 5000: must be a multiple of 4096"),
        ("block_size", str(1 << 31), f"block size {1 << 31}: must be"),
        ("cache_blocks", str(2**32), "cache_blocks is 4294967296, more than there can be"),
    ],
)
def test_numbers_that_are_none_of_ours(name: str, value: str, fault: str) -> None:
    with pytest.raises(MetadataError, match=f"^{fault}"):
        Superblock.unpack({**PLAIN.pack(), name: value})


@pytest.mark.parametrize("text", ["", "x", "[]", "3", "null", "[" * 100000])
def test_counters_that_cannot_be_read_are_no_reason_to_refuse(text: str) -> None:
    assert Superblock.unpack({**PLAIN.pack(), "stats": text}) == replace(PLAIN, stats=None)


def test_f19_counters_beyond_what_counting_reaches_are_left_out() -> None:
    """F19: one more than 10**4300 - 1 has too many digits for Python to write: each end of a mount would fail."""
    text = f'{{"a": {2**63 - 1}, "b": {2**63}, "c": {"9" * 4300}}}'
    assert Superblock.unpack({**PLAIN.pack(), "stats": text}).stats == {"a": 2**63 - 1}


def test_of_counters_those_count_that_are_some() -> None:
    text = '{"a": 1, "b": -1, "c": "1", "d": true, "e": 1.5, "f": null}'
    assert Superblock.unpack({**PLAIN.pack(), "stats": text}).stats == {"a": 1}


@given(st.dictionaries(st.sampled_from(NAMES), texts | sizes.map(str) | st.sampled_from("01")))
def test_whatever_it_says_there_is_a_superblock_or_a_reason(values: dict[str, str]) -> None:
    found = faults(values)
    assert found.keys() <= set(NAMES)
    if found:
        with pytest.raises(MetadataError):
            Superblock.unpack(values)
    else:
        Superblock.unpack(values)


def header(magic: bytes = b"SQLite format 3\0", application: int = APPLICATION_ID, version: int = FORMAT) -> bytes:
    return magic + bytes(44) + version.to_bytes(4, "big") + bytes(4) + application.to_bytes(4, "big") + bytes(28)


@pytest.mark.parametrize(
    ("start", "fault"),
    [
        (header(), ""),
        (header() + b"more", ""),
        (header()[:99], "is not fusecache metadata, or its first page is damaged"),
        (b"", "is not fusecache metadata, or its first page is damaged"),
        (header(magic=b"Dear diary, toda"), "is not fusecache metadata, or its first page is damaged"),
        (header(application=0), "is not fusecache metadata (an SQLite file of something else)"),
        (header(version=2), ""),
        (header(version=1), "has format 1; this version of fusecache reads formats 2 to 4"),
        (header(version=3), ""),
        (header(version=5), "has format 5; this version of fusecache reads formats 2 to 4"),
    ],
)
def test_headers(start: bytes, fault: str) -> None:
    assert header_fault(start) == fault


def test_damaged_metadata_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "metadata"
    values = PLAIN.pack()
    del values["uuid"]
    database = Database.create(path, values)
    with pytest.raises(MetadataError, match=f"^metadata {path} is damaged: it does not say uuid$"):
        database.superblock()
    database.set_values(packed(uuid="0b5a"))
    assert database.superblock() == PLAIN
    database.close()
