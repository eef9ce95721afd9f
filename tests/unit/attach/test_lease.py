from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fusecache import paths
from fusecache.attach.lease import lock
from fusecache.errors import BusyError
from fusecache.linux import try_lock


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable, value in (("ROOT_DIRECTORY", tmp_path / "state" / "fusecache"),):
        monkeypatch.setattr(paths, variable, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "origin"
    path.write_bytes(b"data")
    return path


@contextmanager
def locked(path: Path, flags: int = os.O_RDWR) -> Iterator[None]:
    with ExitStack() as resources:
        fd = os.open(path, flags)
        resources.callback(os.close, fd)
        lock(fd, path, resources)
        yield


@contextmanager
def hostage(path: Path) -> Iterator[None]:
    """Be somebody who can only read, and lock what can be locked."""
    fd = os.open(path, os.O_RDONLY)
    try:
        assert try_lock(fd, for_writing=False)
        yield
    finally:
        os.close(fd)


def test_one_at_a_time(file: Path) -> None:
    with locked(file), pytest.raises(BusyError, match="in use by another mount"), locked(file):
        pass
    with locked(file):
        pass
    assert not (file.parent / "state").exists()


def test_f20_a_reader_keeps_nobody_out(file: Path) -> None:
    with hostage(file), locked(file):
        assert [path.stat().st_mode & 0o777 for path in (file.parent / "state").rglob("locks/*")] == [0o600]
    assert not list((file.parent / "state").rglob("locks/*"))


def test_f20_mounts_keep_each_other_out_beside_readers(file: Path) -> None:
    with hostage(file), locked(file), pytest.raises(BusyError), locked(file):
        pass


def test_f20_and_when_the_reader_has_gone(file: Path) -> None:
    with ExitStack() as held:
        with hostage(file):
            held.enter_context(locked(file))
        with pytest.raises(BusyError), locked(file):
            pass
    with locked(file):
        pass


def test_f20_who_can_only_read_keeps_others_out_too(file: Path) -> None:
    for first, second in ((os.O_RDONLY, os.O_RDWR), (os.O_RDWR, os.O_RDONLY), (os.O_RDONLY, os.O_RDONLY)):
        with locked(file, first), pytest.raises(BusyError), locked(file, second):
            pass


def test_who_has_no_place_for_a_lock_can_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "state").write_bytes(b"in the way")
    with (
        locked(file, os.O_RDONLY),
        pytest.raises(BusyError, match=r"is locked by who can only read it .*Not a directory"),
        locked(file),
    ):
        pass
