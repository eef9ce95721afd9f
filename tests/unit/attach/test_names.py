"""F06: what becomes of the names of files that are in use."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from fusecache.attach.names import Name


@pytest.fixture
def name(tmp_path: Path) -> Name:
    path = tmp_path / "directory" / "file"
    path.parent.mkdir()
    path.write_text("ours")
    return Name(path, path.stat())


def test_f06_a_file_that_is_only_written_or_linked_is_in_place(name: Name) -> None:
    name.path.write_text("more")
    os.utime(name.path, ns=(1, 1))
    name.path.with_name("second").hardlink_to(name.path)
    assert name.is_in_place()


def test_f06_a_file_that_was_removed_replaced_or_renamed_is_not(name: Name) -> None:
    kept = name.path.with_name("kept")
    name.path.rename(kept)
    assert not name.is_in_place()
    name.path.write_text("ours")
    assert not name.is_in_place()
    kept.replace(name.path)
    assert name.is_in_place()
    name.path.parent.rename(name.path.parent.with_name("moved"))
    assert not name.is_in_place()
    name.path.parent.write_text("no directory any more")
    assert not name.is_in_place()


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTCONN])
def test_f06_where_it_cannot_be_told_nothing_is_said(name: Name, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "stat", fail)
    assert name.is_in_place()


def test_f06_a_device_is_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(inode: int, number: int) -> os.stat_result:
        return cast("os.stat_result", SimpleNamespace(st_mode=stat.S_IFBLK | 0o660, st_ino=inode, st_rdev=number))

    name = Name(Path("/dev/sdx"), device(5, 1))
    monkeypatch.setattr(os, "stat", lambda _: device(6, 1))
    assert name.is_in_place()
    monkeypatch.setattr(os, "stat", lambda _: device(5, 2))
    assert not name.is_in_place()
