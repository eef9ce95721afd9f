from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from fusecache import paths
from fusecache.config import MountConfig
from fusecache.errors import UsageError
from fusecache.paths import defaults_for, log_for


def test_names_come_from_the_real_path(tmp_path: Path) -> None:
    real = tmp_path / "disk.img"
    real.touch()
    link = tmp_path / "link"
    link.symlink_to(real)
    found = defaults_for(str(real), environ={"XDG_STATE_HOME": "/xdg"}, is_root=False)
    digest = hashlib.sha256(bytes(real)).hexdigest()[:8]
    assert found.cache == Path(f"/xdg/fusecache/disk.img-{digest}.cache")
    assert found.metadata == Path(f"/xdg/fusecache/disk.img-{digest}.metadata")
    assert found.log == Path(f"/xdg/fusecache/disk.img-{digest}.log")
    assert defaults_for(str(link), environ={"XDG_STATE_HOME": "/xdg"}, is_root=False) == found


def test_relative_origins_are_the_same_as_absolute_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": "/home/u"}
    relative = defaults_for("disk.img", environ=environ, is_root=False)
    assert relative == defaults_for(str(tmp_path / "disk.img"), environ=environ, is_root=False)


def test_same_names_in_different_places_do_not_meet() -> None:
    one, two = (defaults_for(path, environ={}, is_root=True) for path in ("/a/disk.img", "/b/disk.img"))
    assert not {one.cache, one.metadata, one.log} & {two.cache, two.metadata, two.log}


@pytest.mark.parametrize(
    ("environ", "is_root", "directory"),
    [
        ({"HOME": "/home/u"}, False, "/home/u/.local/state/fusecache"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": ""}, False, "/home/u/.local/state/fusecache"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "not/absolute"}, False, "/home/u/.local/state/fusecache"),
        ({"HOME": "/home/u", "XDG_STATE_HOME": "/x"}, False, "/x/fusecache"),
        ({"HOME": "/root", "XDG_STATE_HOME": "/x"}, True, "/var/lib/fusecache"),
        ({}, True, "/var/lib/fusecache"),
    ],
)
def test_directory(environ: dict[str, str], is_root: bool, directory: str) -> None:
    assert defaults_for("/o", environ=environ, is_root=is_root).cache.parent == Path(directory)


def test_homeless_users_are_told_what_to_do() -> None:
    with pytest.raises(UsageError, match="--cache and --metadata"):
        defaults_for("/o", environ={}, is_root=False)


def test_long_and_foreign_names_fit(tmp_path: Path) -> None:
    origin = tmp_path / ("ü" * 127)
    found = defaults_for(str(origin), environ={"XDG_STATE_HOME": str(tmp_path)}, is_root=False)
    found.metadata.parent.mkdir()
    found.metadata.with_name(found.metadata.name + "-journal").touch()


def test_the_log_lies_beside_the_metadata() -> None:
    config = MountConfig(origin="/o", mountpoint=Path("/m"), metadata=Path("/d/x.db"))
    assert log_for(config, environ={}, is_root=False) == Path("/d/x.db.log")
    config = MountConfig(origin="/o", mountpoint=Path("/m"))
    assert log_for(config, environ={}, is_root=True) == defaults_for("/o", environ={}, is_root=True).log


# What earlier versions left


@pytest.fixture
def earlier(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def leave(environ: dict[str, str], kind: str, variable: str) -> Path:
    """Leave a file where a mount of ``/o`` in that place would."""
    name = defaults_for("/o", environ={"XDG_STATE_HOME": environ[variable]}, is_root=False)
    path: Path = getattr(name, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("kind", ["cache", "metadata"])
def test_f05_what_earlier_versions_left_is_used_where_it_lies(earlier: dict[str, str], kind: str) -> None:
    left = leave(earlier, kind, "XDG_CACHE_HOME")
    found = defaults_for("/o", environ=earlier, is_root=False)
    assert getattr(found, kind) == left
    assert {found.cache.parent, found.metadata.parent, found.log.parent} == {left.parent}
    assert str(left.parent) in found.note
    assert f"move {left.stem}.* to {earlier['XDG_STATE_HOME']}/fusecache" in found.note


def test_f05_what_lies_in_the_usual_place_comes_first(earlier: dict[str, str]) -> None:
    leave(earlier, "metadata", "XDG_CACHE_HOME")
    usual = leave(earlier, "metadata", "XDG_STATE_HOME")
    found = defaults_for("/o", environ=earlier, is_root=False)
    assert (found.metadata, found.note) == (usual, "")


def test_f05_other_origins_are_not_concerned(earlier: dict[str, str]) -> None:
    leave(earlier, "metadata", "XDG_CACHE_HOME")
    found = defaults_for("/other", environ=earlier, is_root=False)
    assert str(found.cache).startswith(earlier["XDG_STATE_HOME"])
    assert not found.note


def test_f05_root_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "EARLIER_ROOT_DIRECTORY", tmp_path)
    assert not defaults_for("/o", environ={}, is_root=True).note
    (tmp_path / defaults_for("/o", environ={}, is_root=True).cache.name).touch()
    found = defaults_for("/o", environ={}, is_root=True)
    assert found.cache.parent == tmp_path
    assert "/var/lib/fusecache" in found.note


def test_f05_who_has_no_home_but_a_place_for_state() -> None:
    found = defaults_for("/o", environ={"XDG_STATE_HOME": "/x"}, is_root=False)
    assert found.cache.parent == Path("/x/fusecache")
