from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fusecache.errors import UntrustedError
from fusecache.linux.trust import (
    create_trusted,
    look_at,
    open_or_create_trusted,
    open_trusted,
    require_trusted,
    require_trusted_directory,
    resolve_trusted,
)

STRANGER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"ours")
    path.chmod(0o600)
    return path


def read(path: Path) -> bytes:
    fd = open_trusted(path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o644, 0o755])
def test_f16_what_only_we_can_write_is_trusted(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read(file) == b"ours"


@pytest.mark.parametrize("mode", [0o660, 0o606, 0o620, 0o602, 0o666])
def test_f16_what_others_can_write_is_not(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(UntrustedError, match=rf"others may write to .*{mode:04o}.*chmod go-w"):
        read(file)


@needs_root
def test_f16_what_belongs_to_somebody_else_is_not(file: Path) -> None:
    os.chown(file, STRANGER, STRANGER)
    with pytest.raises(UntrustedError, match=f"belongs to user {STRANGER}.*`chown 0` it"):
        read(file)


@needs_root
def test_f16_what_belongs_to_root_is_trusted_by_others(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert read(file) == b"ours"


def test_f16_links_are_not_followed(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(UntrustedError):
        read(link)
    with pytest.raises(UntrustedError, match="symbolic link"), look_at(link) as seen:
        seen.require_trusted()


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_f16_nobody_waits_for_a_fifo(tmp_path: Path, flags: int) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for opening in (open_trusted, open_or_create_trusted):
        with pytest.raises(UntrustedError, match="is not a file"):
            opening(tmp_path / "fifo", flags)
    with pytest.raises(UntrustedError, match="is not a file"):
        require_trusted(tmp_path / "fifo")


def test_f16_what_was_looked_at_is_opened_whatever_its_name_is_now(file: Path) -> None:
    with look_at(file) as seen:
        file.rename(file.with_name("moved"))
        file.write_bytes(b"planted")
        fd = seen.open(os.O_RDONLY)
    assert os.read(fd, 100) == b"ours"
    os.close(fd)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o775, 0o703])
def test_f16_a_directory_where_others_may_replace_files(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    with pytest.raises(UntrustedError, match="others may replace files in directory"):
        read(file)
    with pytest.raises(UntrustedError, match="others may replace files in directory"):
        create_trusted(file.with_name("new"))
    assert not file.with_name("new").exists()


@pytest.mark.parametrize("mode", [0o1777, 0o755, 0o700, 0o711])
def test_f16_a_directory_where_they_may_not(file: Path, mode: int) -> None:
    file.parent.chmod(mode)
    assert read(file) == b"ours"
    os.close(create_trusted(file.with_name("new")))
    assert file.with_name("new").stat().st_mode & 0o777 == 0o600


@needs_root
def test_f16_a_sticky_directory_of_somebody_else(file: Path) -> None:
    file.parent.chmod(0o1777)
    os.chown(file.parent, STRANGER, STRANGER)
    with pytest.raises(UntrustedError, match=f"belongs to user {STRANGER}"):
        require_trusted_directory(file.parent)


def test_f16_new_files_take_no_place_that_is_taken(file: Path) -> None:
    nowhere = file.with_name("nowhere")
    file.with_name("dangling").symlink_to(nowhere)
    for name in ("file", "dangling"):
        with pytest.raises(FileExistsError):
            create_trusted(file.with_name(name))
    assert not nowhere.exists()
    assert file.read_bytes() == b"ours"


def test_f16_what_is_missing_is_no_reason_for_distrust(tmp_path: Path) -> None:
    require_trusted(tmp_path / "nothing")
    require_trusted(tmp_path / "no" / "directory")


# Links in a path that somebody gave


def test_f16_our_own_links_are_followed(file: Path) -> None:
    link = file.with_name("link")
    file.with_name("chain").symlink_to("link")
    link.symlink_to(file)
    assert resolve_trusted(file.with_name("chain")) == file
    assert resolve_trusted(file.parent / "." / ".." / file.parent.name / "link") == file
    link.unlink()
    link.symlink_to("elsewhere/there")
    assert resolve_trusted(link) == file.parent / "elsewhere" / "there"


def test_f16_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links") as caught:
        resolve_trusted(tmp_path / "loop")
    assert caught.value.errno == errno.ELOOP


@needs_root
def test_f16_links_of_others_are_not_followed(file: Path) -> None:
    link = file.with_name("link")
    link.symlink_to(file)
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(UntrustedError, match=f"symbolic link .* belongs to user {STRANGER}"):
        resolve_trusted(link)


def test_f16_links_that_others_can_replace_are_not_followed(file: Path) -> None:
    (file.parent / "open").mkdir()
    link = file.parent / "open" / "link"
    link.symlink_to(file)
    link.parent.chmod(0o777)
    with pytest.raises(UntrustedError, match="others may replace"):
        resolve_trusted(link)
