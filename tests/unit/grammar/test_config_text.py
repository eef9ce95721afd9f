"""Options that one process writes and another one reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.config import DirtyAge, DirtyLimit, Mode, MountConfig, PageCache, PolicyChoice
from fusecache.errors import UsageError
from fusecache.grammar import changed_config, parse_table, read_config, write_changes, write_config

PLAIN = MountConfig(origin="/o", mountpoint=Path("/m"))
_PATHS = st.builds(Path, st.text(min_size=1).map(lambda name: "/" + name))
_SIZES = st.none() | st.integers(0, 2**60)
_CONFIGS = st.builds(
    MountConfig,
    origin=st.text(),
    mountpoint=_PATHS,
    cache=st.none() | _PATHS,
    cache_size=_SIZES,
    metadata=st.none() | _PATHS,
    block_size=_SIZES,
    image_size=_SIZES,
    mode=st.sampled_from(Mode),
    policy=st.builds(
        PolicyChoice, st.text(), st.lists(st.tuples(st.text(), st.text())).map(tuple), st.none() | st.integers(0)
    ),
    fuse_options=st.lists(st.text()).map(tuple),
    table=st.lists(st.text()).map(tuple),
    page_cache=st.sampled_from(PageCache),
    dirty_age=st.builds(DirtyAge, st.integers(0, 99999), st.integers(0)),
    dirty_limit=st.builds(DirtyLimit, st.integers(0, 100), _SIZES),
    read_ahead=_SIZES,
    survive=st.booleans(),
)


@given(_CONFIGS)
def test_what_was_written_is_read(config: MountConfig) -> None:
    assert read_config(write_config(config)) == config


def test_paths_of_any_bytes_too() -> None:
    config = replace(PLAIN, cache=Path("/caf\udce9"))
    assert read_config(write_config(config)) == config


def test_a_table_too() -> None:
    config = parse_table("0 1024 cache /m /c /o 128 1 writethrough lru 0", Path("/mnt"))
    assert read_config(write_config(config)) == config


def test_what_would_destroy_or_belongs_to_a_terminal_does_not_go_on() -> None:
    config = replace(PLAIN, format=2, foreground=True)
    assert read_config(write_config(config)) == PLAIN


def test_what_an_older_version_did_not_know_has_its_default() -> None:
    told = json.loads(write_config(PLAIN))
    del told["dirty_limit"], told["survive"]
    assert read_config(json.dumps(told)) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json.dumps(json.loads(write_config(PLAIN)) | {"novelty": 1}),
        json.dumps(json.loads(write_config(PLAIN)) | {"mode": "sideways"}),
        json.dumps(json.loads(write_config(PLAIN)) | {"policy": "smq"}),
    ],
)
def test_what_another_version_says_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="another version"):
        read_config(text)


def test_changes_go_through_words() -> None:
    text = write_changes({"policy": "lru", "cache_size": "1MiB", "read_ahead": "off", "page_cache": "none"})
    assert changed_config(PLAIN, text) == replace(
        PLAIN, policy=PolicyChoice("lru"), cache_size=2**20, read_ahead=0, page_cache=PageCache.NONE
    )
    assert changed_config(PLAIN, write_changes({})) == PLAIN


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("origin=/x", "cannot change while it is mounted"),
        ("nonsense", "cannot change"),
        ("mode=sideways", "unknown mode"),
        ("cache_size=much", "much"),
        ("scrub=", "size"),
    ],
)
def test_what_cannot_change_is_refused(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        changed_config(PLAIN, text)
