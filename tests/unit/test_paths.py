from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

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
