from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusecache.linux import directories
from fusecache.linux.directories import rename_to_new


def refuse(code: int) -> object:
    def refusing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refusing


@pytest.fixture(params=["rename", "link", "neither"])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file system that can rename without replacing; one that has hard links; one like some over a network."""
    if request.param != "rename":
        monkeypatch.setattr(directories, "_rename_noreplace", refuse(errno.EINVAL))
    if request.param == "neither":
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))


@pytest.mark.usefixtures("_file_system")
def test_f14_a_file_gets_a_name_that_is_free(tmp_path: Path) -> None:
    source, target = tmp_path / "J\udcfcrgen.draft", tmp_path / "J\udcfcrgen"
    source.write_bytes(b"content")
    rename_to_new(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["J\udcfcrgen"]
    assert target.read_bytes() == b"content"


@pytest.mark.usefixtures("_file_system")
def test_f14_and_none_that_is_taken(tmp_path: Path) -> None:
    source, target = tmp_path / "draft", tmp_path / "name"
    source.write_bytes(b"content")
    for is_link in (False, True):
        if is_link:
            target.symlink_to("nowhere")
        else:
            target.touch()
        with pytest.raises(FileExistsError):
            rename_to_new(source, target)
        assert source.read_bytes() == b"content"
        target.unlink()


def test_other_errors_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_to_new(tmp_path / "nothing", tmp_path / "name")
    assert not list(tmp_path.iterdir())
