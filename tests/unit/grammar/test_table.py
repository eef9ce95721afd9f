from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.config import KIB, Mode, MountConfig, PolicyChoice
from fusecache.control.status import status_line
from fusecache.errors import UsageError
from fusecache.grammar import (
    Decommission,
    Flush,
    InvalidateCblocks,
    SetThreshold,
    SetTunable,
    join_words,
    parse_message,
    parse_range,
    parse_table,
    split_words,
    table_features,
    table_line,
)
from tests.unit.control.statuses import make_status

MNT = Path("/mnt")
WORDS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))


def test_the_least_table() -> None:
    words = "0 2048 cache /m /c /o 512 0 smq 0"
    assert parse_table(words, MNT) == MountConfig(
        origin="/o",
        mountpoint=MNT,
        cache=Path("/c"),
        metadata=Path("/m"),
        block_size=256 * KIB,
        image_size=2048 * 512,
        policy=PolicyChoice("smq"),
        table=tuple(words.split()),
    )


def test_the_fullest_table() -> None:
    words = (
        "  0 1 cache m\\ e c o 8 3 Metadata2 WRITETHROUGH no_discard_passdown mq 4 "
        "Sequential_Threshold 1024 migration_threshold 0\n"
    )
    config = parse_table(words, MNT, fuse_options=("allow_other",), foreground=True, format=2)
    assert config.metadata == Path("m e")
    assert config.block_size == 4 * KIB
    assert config.mode is Mode.WRITETHROUGH
    assert config.policy == PolicyChoice("mq", (("sequential_threshold", "1024"),), 0)
    assert (config.fuse_options, config.foreground, config.format) == (("allow_other",), True, 2)
    assert table_features(config) == ("metadata2", "no_discard_passdown")
    assert not config.discard_passdown


def test_g08_a_table_as_dmsetup_prints_it() -> None:
    names = {"254:2": "/dev/mapper/vg-meta", "254:1": "/dev/mapper/vg-fast", "8:16": "/dev/sdb"}
    line = "vg-cached: 0 2097152 cache 254:2 254:1 8:16 128 2 metadata2 writethrough smq 0"
    config = parse_table(line, MNT, device_path=names.__getitem__)
    assert (str(config.metadata), str(config.cache), config.origin) == tuple(names.values())
    assert (config.mode, config.block_size, config.image_size) == (Mode.WRITETHROUGH, 64 * KIB, 1 << 30)
    assert table_line(config) == "/dev/mapper/vg-meta /dev/mapper/vg-fast /dev/sdb 128 2 metadata2 writethrough smq 0"
    assert parse_table(f"0 2097152 cache {table_line(config)}", MNT).origin == "/dev/sdb"


def test_g08_a_file_whose_name_looks_like_a_number_can_be_named() -> None:
    assert parse_table("0 1 cache ./1:2 /c /o 8 0 smq 0", MNT).metadata == Path("1:2")


@pytest.mark.parametrize(
    ("features", "mode"),
    [
        ("0", Mode.WRITEBACK),
        ("1 writeback", Mode.WRITEBACK),
        ("1 PassThrough", Mode.PASSTHROUGH),
        ("2 metadata2 METADATA2", Mode.WRITEBACK),
        ("3 no_discard_passdown writethrough no_discard_passdown", Mode.WRITETHROUGH),
    ],
)
def test_features(features: str, mode: Mode) -> None:
    assert parse_table(f"0 1 cache m c o 8 {features} smq 0", MNT).mode is mode


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "ends where the start"),
        ("0 1", "ends where the target"),
        ("8 1 cache m c o 8 0 smq 0", "start must be 0, not 8"),
        ("x 1 cache m c o 8 0 smq 0", "start must be a decimal number, not 'x'"),
        ("0 0 cache m c o 8 0 smq 0", "length must be from 1"),
        ("0 -1 cache m c o 8 0 smq 0", "length must be a decimal"),
        ("0 99999999999999999999 cache m c o 8 0 smq 0", "length must be from 1"),
        ("0 999999999999999999999999 cache m c o 8 0 smq 0", "length must be a decimal"),
        ("0 1 Cache m c o 8 0 smq 0", "target must be 'cache', not 'Cache'"),
        ("0 1 cache m c", "ends where the origin"),
        ("0 1 cache m c o 4 0 smq 0", "block size must be from 8 to 2097152, not 4"),
        ("0 1 cache m c o 2097160 0 smq 0", "block size must be from 8 to 2097152"),
        ("0 1 cache m c o 12 0 smq 0", "multiple of 8 sectors, not 12"),
        ("0 1 cache m c o 64k 0 smq 0", "block size must be a decimal number, not '64k'"),
        ("0 1 cache m c o 8 4 a b c d smq 0", "number of features must be from 0 to 3"),
        ("0 1 cache m c o 8 1 writearound smq 0", "unknown feature 'writearound'"),
        ("0 1 cache m c o 8 1 smq 0", "unknown feature 'smq'"),
        ("0 1 cache m c o 8 2 writeback writeback smq 0", "duplicate mode"),
        ("0 1 cache m c o 8 2 writeback passthrough smq 0", "duplicate mode: writeback and passthrough"),
        ("0 1 cache m c o 8 1", "ends where the feature"),
        ("0 1 cache m c o 8 0", "ends where the policy"),
        ("0 1 cache m c o 8 0 abcdefghijklmnop 0", "1 to 15 characters"),
        ("0 1 cache m c o 8 0 smq", "ends where the number of policy arguments"),
        ("0 1 cache m c o 8 0 smq 1 a", "must be even, not 1"),
        ("0 1 cache m c o 8 0 smq 1026", "must be from 0 to 1024"),
        ("0 1 cache m c o 8 0 smq 2 a", "ends where the policy argument"),
        ("0 1 cache m c o 8 0 smq 0 more", "but 'more' does"),
        ("0 1 cache m c o 8 0 smq 0 \\", "backslash"),
    ],
)
def test_bad_tables_are_refused_in_one_line(words: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        parse_table(words, MNT)
    assert "\n" not in str(caught.value)


def test_status_line_field_for_field() -> None:
    assert status_line(make_status()) == (
        "8 2/3 128 700/1000 11 12 13 14 16 15 30 2 metadata2 writeback 2 migration_threshold 2048 "
        "mq 4 random_threshold 4 sequential_threshold 512 rw -"
    )


def test_status_line_of_a_failed_plain_cache() -> None:
    status = make_status(
        features=(), mode=Mode.PASSTHROUGH, policy="smq", policy_values={}, read_only=True, needs_check=True
    )
    assert status_line(status).endswith(" 30 1 passthrough 2 migration_threshold 2048 smq 0 ro needs_check")


def test_status_line_sets_the_mode_between_the_features() -> None:
    words = status_line(make_status(features=("metadata2", "no_discard_passdown"))).split()
    assert words[11:15] == ["3", "metadata2", "writeback", "no_discard_passdown"]


@given(
    st.sets(st.sampled_from(["metadata2", "no_discard_passdown"])),
    st.dictionaries(st.sampled_from("abcdef"), st.just("1")),
)
def test_status_line_counts_its_words(features: set[str], values: dict[str, str]) -> None:
    words = status_line(make_status(features=tuple(sorted(features)), policy_values=values)).split()
    nf, np = 1 + len(features), 2 * len(values)
    assert len(words) == (1 + 1 + 1 + 1 + 4 + 3) + (1 + nf) + 3 + 1 + (1 + np) + 2


def test_table_line_repeats_the_words_from_the_block_size_on() -> None:
    config = parse_table("0 64 cache m c o 8 1 WriteBack mq 2 Random_Threshold 4", MNT)
    config = replace(config, metadata=Path("/d/m"), cache=Path("/d/c"), origin="/o")
    assert table_line(config) == "/d/m /d/c /o 8 1 WriteBack mq 2 Random_Threshold 4"


def test_table_line_of_options_makes_the_same_mount_again() -> None:
    config = MountConfig(
        origin="/my disk.img",
        mountpoint=MNT,
        cache=Path("/c"),
        metadata=Path("/back\\slash"),
        block_size=64 * KIB,
        mode=Mode.WRITETHROUGH,
        discard_passdown=False,
        policy=PolicyChoice("mq", (("random_threshold", "4"),), 100 * KIB),
    )
    line = table_line(config)
    again = parse_table(f"0 64 cache {line}", MNT)
    for name in ("origin", "cache", "metadata", "block_size", "mode", "policy", "discard_passdown"):
        assert getattr(again, name) == getattr(config, name)
    assert table_features(config) == ("no_discard_passdown",)


@given(WORDS)
def test_words_survive_joining_and_splitting(words: list[str]) -> None:
    assert split_words(join_words(words)) == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequential_threshold 1024", SetTunable("sequential_threshold", "1024")),
        ("Migration_Threshold  2048\n", SetThreshold(1024 * KIB)),
        ("invalidate_cblocks", InvalidateCblocks(())),
        ("INVALIDATE_CBLOCKS 1 3-7 junk", InvalidateCblocks(("1", "3-7", "junk"))),
        ("flush", Flush()),
        ("decommission", Decommission()),
        ("0 migration_threshold 2048", SetThreshold(1024 * KIB)),
        ("0 invalidate_cblocks 0 5-7", InvalidateCblocks(("0", "5-7"))),
    ],
)
def test_messages(text: str, message: object) -> None:
    assert parse_message(text) == message
    assert parse_message(text.split()) == message


@pytest.mark.parametrize(
    "text", ["", "  ", "key", "key value more", "flush now", "decommission 1", "a \\", "0", "8 flush"]
)
def test_bad_messages_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_message(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", (0, 1)), ("9", (9, 10)), ("0-10", (0, 10)), ("3-4", (3, 4)), ("007-8", (7, 8))]
)
def test_ranges_exclude_their_end(text: str, expected: tuple[int, int]) -> None:
    assert parse_range(text, 10) == expected


@pytest.mark.parametrize(
    "text", ["10", "0-11", "10-11", "3-3", "4-3", "", "-", "-3", "3-", "3x", "3-4x", "1-2-3", "+1", "0x1", "9" * 30]
)
def test_bad_ranges(text: str) -> None:
    with pytest.raises(UsageError):
        parse_range(text, 10)


def test_ranges_before_a_bad_one_can_be_applied() -> None:
    message = parse_message("invalidate_cblocks 1 2-4 9-8 5")
    assert isinstance(message, InvalidateCblocks)
    one, more, *_ = message.ranges
    assert (parse_range(one, 100), parse_range(more, 100)) == ((1, 2), (2, 4))
