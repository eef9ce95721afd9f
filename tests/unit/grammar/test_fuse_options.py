from __future__ import annotations

from pathlib import Path

import pytest

from fusecache.errors import UsageError
from fusecache.grammar.fuse_options import parse_fuse_options


@pytest.mark.parametrize(
    ("texts", "options", "read_only"),
    [
        ((), (), False),
        (("",), (), False),
        (("allow_other,max_read=4096",), ("allow_other", "max_read=4096"), False),
        (("ro",), (), True),
        (("ro,rw",), (), False),
        (("rw,allow_other", "ro"), ("allow_other",), True),
        (("ro, allow_other ,",), ("allow_other",), True),
    ],
)
def test_what_is_for_whom(texts: tuple[str, ...], options: tuple[str, ...], read_only: bool) -> None:
    assert parse_fuse_options(texts)[:2] == (options, read_only)


@pytest.mark.parametrize(
    "line",
    [
        "defaults",
        "defaults,nofail,_netdev",
        "noauto,user,x-systemd.automount,x-systemd.idle-timeout=10min",
        "x-systemd.requires-mounts-for=/nfs,x-systemd.device-timeout=30,X-mount.mkdir",
        "users,owner,group,comment=the VM's disk",
        "relatime,lazytime,nodiratime,strictatime",
        "user=joe,uhelper=udisks2,helper=fuse",
    ],
)
def test_g04_words_of_fstab_are_for_others(line: str) -> None:
    """G04: FUSE refused each of them with "unknown option", which nobody was told."""
    assert parse_fuse_options([line]) == ((), False, None, None, None)
    assert parse_fuse_options([f"{line},ro,allow_other"])[:2] == (("allow_other",), True)


@pytest.mark.parametrize("word", ["nonsense", "xallow", "users=3", "loop", "Defaults", "netdev"])
def test_g04_what_is_misspelt_is_left_to_fuse_which_refuses_it(word: str) -> None:
    assert parse_fuse_options([word]).options == (word,)


def test_g04_the_type_stays() -> None:
    """G04: with another one, status and unmount said that it was no mount of fusecache."""
    with pytest.raises(UsageError, match=r"-o subtype=y: .* that has to stay"):
        parse_fuse_options(["ro,subtype=y"])


def test_g04_a_line_of_fstab_says_where_the_cache_is() -> None:
    told = parse_fuse_options(["cache=/a,cache_size=1GiB,_netdev,allow_other", "cache=/ssd/c=d,metadata=/ssd/m"])
    assert told == (("allow_other",), False, Path("/ssd/c=d"), "1GiB", Path("/ssd/m"))
    assert parse_fuse_options(["cache"]).options == ("cache",)


@pytest.mark.parametrize("word", ["cache=", "metadata=", "cache_size="])
def test_g04_a_place_without_a_name_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"-o {word} says nothing"):
        parse_fuse_options([word])
