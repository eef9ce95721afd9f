"""The default files of an origin are found again under another name of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusecache.attach import Location, locate
from fusecache.attach.places import default_places
from fusecache.metadata import Identity, Superblock
from fusecache.metadata.database import Database
from fusecache.paths import DefaultPaths


class Home:
    """A user's home with default files, and origins beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {"HOME": str(directory)}

    def origin(self, name: str) -> Location:
        (self.directory / name).touch()
        return locate(str(self.directory / name))

    def places(self, origin: Location) -> DefaultPaths:
        return default_places(origin, environ=self.environ, is_root=False)

    def cached(self, origin: Location) -> DefaultPaths:
        """Have a cache for an origin."""
        places = self.places(origin)
        places.metadata.parent.mkdir(parents=True, exist_ok=True)
        identity = Identity(origin.address, "1:1", "1", 1, signs=origin.signs())
        superblock = Superblock(
            uuid=origin.address,
            block_size=4096,
            cache_blocks=1,
            region_blocks=1,
            image_bytes=4096,
            origin=identity,
            clean_shutdown=True,
        )
        places.cache.touch()
        Database.create(places.metadata, superblock.pack()).close()
        return places

    def moved(self, origin: Location, name: str) -> Location:
        Path(origin.address).rename(self.directory / name)
        return locate(str(self.directory / name))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_f02_a_new_name_leads_to_the_old_files(home: Home) -> None:
    sdb = home.origin("sdb")
    places = home.cached(sdb)
    assert home.places(sdb) == places
    assert home.places(home.moved(sdb, "sdc")) == places
    assert home.places(home.origin("sdd")).metadata != places.metadata


def test_f02_two_disks_that_swapped_their_names_keep_their_caches(home: Home) -> None:
    """F02: under the present name lie the other one's files; these were taken, and the mount refused."""
    first, second = home.origin("sdb"), home.origin("sdc")
    its, other = home.cached(first), home.cached(second)
    between = home.moved(first, "between")
    now_sdb = home.moved(second, "sdb")
    now_sdc = home.moved(between, "sdc")
    assert home.places(now_sdc) == its
    assert home.places(now_sdb) == other


def test_f02_another_disk_without_a_cache_is_told_of_the_one_that_lies_there(home: Home) -> None:
    """F02: that is refused by the mount, which is better than a second cache under a third name."""
    sdb = home.origin("sdb")
    places = home.cached(sdb)
    home.moved(sdb, "away")
    assert home.places(home.origin("sdb")) == places


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0" + bytes(84)])
def test_what_cannot_be_read_is_left_to_the_mount(home: Home, content: bytes) -> None:
    sdb = home.origin("sdb")
    places = home.cached(sdb)
    places.metadata.write_bytes(content)
    assert home.places(sdb) == places
    assert home.places(home.moved(sdb, "sdc")) != places


def test_a_cache_without_metadata_is_not_passed_by(home: Home) -> None:
    sdb = home.origin("sdb")
    places = home.cached(sdb)
    places.metadata.unlink()
    assert home.places(sdb) == places


def test_nothing_is_written(home: Home) -> None:
    sdb = home.origin("sdb")
    home.cached(sdb)
    moved = home.moved(sdb, "sdc")
    before = sorted(home.directory.rglob("*"))
    home.places(moved)
    assert sorted(home.directory.rglob("*")) == before
