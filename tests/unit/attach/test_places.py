"""The default files of an origin are found again under another name of it, and a cache's metadata beside it."""

from __future__ import annotations

import os
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache import paths
from fusecache.attach import DATA_START, Location, Stamp, inspect, locate, write_stamp
from fusecache.attach.places import default_places, metadata_beside
from fusecache.config import MountConfig
from fusecache.errors import FusecacheError, RefusedError
from fusecache.metadata import Identity, Superblock, Transaction, packed
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


# A cache that was named, and metadata that was not


class Named(Home):
    """An origin, a cache that the user names, and the two places for its metadata."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.location = self.origin("origin")
        self.cache = directory / "ssd" / "vm.cache"
        self.cache.parent.mkdir()
        self.beside = directory / "ssd" / "vm.cache.metadata"
        self.usual = self.places(self.location).metadata
        self.usual.parent.mkdir(parents=True)

    def stamped(self, uuid: str = "ours", generation: str = "2-00000002") -> None:
        """Have a cache with a stamp."""
        self.cache.write_bytes(bytes(DATA_START + 4096))
        with self.cache.open("r+b") as file:
            write_stamp(file.fileno(), Stamp(uuid, generation))

    def record(
        self,
        place: Path,
        uuid: str = "ours",
        generation: str = "2-00000002",
        *,
        cache: Path | None,
        dirty: bool = False,
    ) -> None:
        """Have metadata somewhere; without a cache it is an earlier version's."""
        superblock = Superblock(
            uuid=uuid,
            block_size=4096,
            cache_blocks=1,
            region_blocks=1,
            image_bytes=4096,
            origin=Identity(self.location.address, "1:1", "1", 1, signs=self.location.signs()),
            clean_shutdown=True,
            generation=generation,
            cache_path="" if cache is None else str(cache),
        )
        with closing(Database.create(place, superblock.pack())) as database:
            database.apply(Transaction(mapped=[(0, 0, True, None, None)] if dirty else []))

    def found(self) -> Path:
        """Return where the metadata of the named cache is."""
        return self.all_found().metadata

    def all_found(self) -> DefaultPaths:
        return default_places(self.location, cache=self.cache, environ=self.environ, is_root=False)

    def refused(self) -> str:
        with pytest.raises(RefusedError) as caught:
            self.found()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def named(tmp_path: Path) -> Named:
    return Named(tmp_path)


def test_g09_new_metadata_goes_beside_the_cache(named: Named) -> None:
    """G09: it went to the home directory, where nobody looks for it who moves the SSD to another computer."""
    assert named.found() == named.beside
    named.cache.write_bytes(b"")
    assert named.found() == named.beside


def test_g09_what_lies_in_the_old_place_is_found(named: Named) -> None:
    named.stamped()
    named.record(named.usual, cache=None)
    assert named.found() == named.usual
    assert named.all_found().note == ""


@pytest.mark.parametrize("content", [None, b"", bytes(DATA_START), b"fusecache cache\nx"])
def test_g09_what_lies_in_the_old_place_is_found_without_a_stamp(named: Named, content: bytes | None) -> None:
    """G09: a cache that is missing, or has lost its stamp, must not get new metadata beside it."""
    if content is not None:
        named.cache.write_bytes(content)
    named.record(named.usual, cache=named.cache)
    assert named.found() == named.usual
    named.usual.unlink()
    named.record(named.usual, cache=None)
    assert named.found() == named.usual


def test_g09_a_second_cache_of_an_origin_has_metadata_of_its_own(named: Named) -> None:
    named.record(named.usual, "other", cache=named.directory / "other.cache")
    assert named.found() == named.beside
    named.stamped()
    assert named.found() == named.beside


@pytest.mark.parametrize("stamped", [True, False])
def test_g09_newer_data_in_another_cache_is_not_passed_by(named: Named, stamped: bool) -> None:
    """G09: where the origin can keep no claim, the record in the old place is all that says so."""
    if stamped:
        named.stamped()
    named.record(named.usual, "other", cache=named.directory / "other.cache", dirty=True)
    assert named.found() == named.usual


@pytest.mark.parametrize("content", [b"x", b"SQLite format 3\0" + bytes(84)])
def test_g09_what_cannot_be_read_is_left_to_the_mount(named: Named, content: bytes) -> None:
    named.stamped()
    named.usual.write_bytes(content)
    assert named.found() == named.usual
    named.beside.write_bytes(content)
    assert named.found() == named.beside


@pytest.mark.parametrize("ours", ["beside", "usual"])
def test_g09_metadata_of_another_cache_does_not_count(named: Named, ours: str) -> None:
    """G09: somebody has put another one's metadata into one of the two places."""
    named.stamped()
    places = {"beside": named.beside, "usual": named.usual}
    for name, place in places.items():
        named.record(place, "ours" if name == ours else "other", cache=named.cache)
    assert named.found() == places[ours]


@pytest.mark.parametrize("newer", ["beside", "usual"])
def test_g09_of_two_copies_the_one_of_the_cache_is_used(named: Named, newer: str) -> None:
    """G09: it was copied to the new place by hand; only one of them has been used since."""
    named.stamped(generation="4-00000004")
    places = {"beside": named.beside, "usual": named.usual}
    for name, place in places.items():
        named.record(place, generation="4-00000004" if name == newer else "2-00000002", cache=named.cache)
    assert named.found() == places[newer]
    assert re.search("is an older copy of .* and is not used", named.all_found().note)


@pytest.mark.parametrize("stamped", [True, False])
def test_g09_two_copies_of_one_generation_are_refused(named: Named, stamped: bool) -> None:
    """G09: one of them may have been copied while the other was in use."""
    if stamped:
        named.stamped()
    named.record(named.beside, cache=named.cache)
    named.record(named.usual, cache=named.cache)
    told = named.refused()
    assert f"{named.beside} and {named.usual} both describe cache {named.cache}" in told
    assert "--metadata" in told


def test_g09_two_copies_that_are_both_older_are_refused(named: Named) -> None:
    named.stamped(generation="9-00000009")
    named.record(named.beside, cache=named.cache)
    named.record(named.usual, cache=named.cache)
    assert "both describe cache" in named.refused()


def test_g09_an_empty_file_that_was_left_there_is_no_record(named: Named) -> None:
    named.stamped()
    named.beside.touch()
    named.record(named.usual, cache=None)
    assert named.found() == named.usual
    named.usual.write_bytes(b"")
    assert named.found() == named.beside


def test_g09_nothing_lies_beside_a_device() -> None:
    assert metadata_beside(Path("/dev/sdx")) is None
    assert metadata_beside(Path("/dev/mapper/fast")) is None
    in_memory = Path("/dev", "shm", "c")
    assert metadata_beside(in_memory) == in_memory.with_name("c.metadata")


def test_g09_where_nothing_may_be_written_beside_a_cache_it_goes_to_the_old_place(
    named: Named, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: path != named.cache.parent)  # root may write anywhere
    assert named.found() == named.usual
    named.record(named.beside, cache=named.cache)
    assert named.found() == named.beside


def test_g09_a_directory_that_is_not_there_is_not_replaced(named: Named) -> None:
    """G09: its disk is not mounted; a mount says so, and does not begin anew elsewhere."""
    named.cache.parent.rmdir()
    assert named.found() == named.beside


def test_g09_new_metadata_may_go_to_the_old_place_if_there_is_no_room(named: Named) -> None:
    assert named.all_found().roomy == named.usual
    named.record(named.usual, "other", cache=named.directory / "other.cache")
    assert named.all_found().roomy is None
    named.record(named.beside, cache=named.cache)
    assert named.all_found().roomy is None


class TestMounts:
    """What comes of it when something is mounted."""

    @pytest.fixture
    def config(self, named: Named, monkeypatch: pytest.MonkeyPatch) -> MountConfig:
        monkeypatch.setattr(paths, "ROOT_DIRECTORY", named.usual.parent)  # tests may run as root
        Path(named.location.address).write_bytes(b"o" * 65536)
        return MountConfig(
            origin=named.location.address,
            mountpoint=named.directory / "mnt",
            cache=named.cache,
            cache_size=8192,
            block_size=4096,
        )

    def mount(self, named: Named, config: MountConfig, *, dirty: bool = False, clean: bool = True) -> list[str]:
        """Mount, and end; returns the notes."""
        plan = inspect(config, environ=named.environ)
        with plan.resources:
            binding = plan.carry_out()
            binding.begin()
            values = binding.end_values() if clean else {}
            binding.database.apply(Transaction(mapped=[(0, 0, dirty, None, None)], values=values))
            if clean:
                binding.end(dirty=int(dirty), cached=1)
            return binding.notes

    def refused(self, named: Named, config: MountConfig) -> str:
        with pytest.raises(FusecacheError) as caught:
            self.mount(named, config)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_g09_the_metadata_is_found_again(self, named: Named, config: MountConfig) -> None:
        self.mount(named, config)
        assert named.beside.exists()
        assert not named.usual.exists()
        self.mount(named, config)
        with Database.read_only(named.beside) as database:
            assert database.superblock().cache_path == str(named.cache)
            assert database.superblock().generation.startswith("4-")

    def test_g09_the_metadata_of_an_earlier_version_is_used_where_it_lies(
        self, named: Named, config: MountConfig
    ) -> None:
        self.mount(named, replace(config, metadata=named.usual), dirty=True, clean=False)
        with closing(Database.open(named.usual)) as database:
            database.set_values(packed(cache_path=""))
        self.mount(named, config, dirty=True)
        assert not named.beside.exists()
        with Database.read_only(named.usual) as database:
            assert database.superblock().cache_path == str(named.cache)

    def test_g09_a_cache_that_fills_its_file_system_has_its_metadata_elsewhere(
        self, named: Named, config: MountConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """G09: a record that cannot grow makes the image read-only, months later."""
        status = os.statvfs(named.cache.parent)
        full = os.statvfs_result((*status[:4], 5 * 1024**2 // status.f_frsize, *status[5:]))
        monkeypatch.setattr(os, "statvfs", lambda _path: full)
        self.mount(named, replace(config, cache_size=16 * 4096))
        assert not named.usual.exists()
        for path in (named.cache, named.beside):
            path.unlink()
        full = os.statvfs_result((*status[:4], 4 * 1024**2 // status.f_frsize, *status[5:]))
        self.mount(named, config, dirty=True)
        assert not named.beside.exists()
        full = status
        self.mount(named, config, dirty=True)
        assert not named.beside.exists()

    def test_g09_a_cache_that_was_renamed_with_its_metadata(self, named: Named, config: MountConfig) -> None:
        self.mount(named, config, dirty=True)
        named.cache.rename(named.cache.with_name("new"))
        named.beside.rename(named.cache.with_name("new.metadata"))
        self.mount(named, replace(config, cache=named.cache.with_name("new")), dirty=True)

    @pytest.mark.parametrize("clean", [True, False])
    def test_g09_who_forgets_the_cache_is_told_where_it_is(
        self, named: Named, config: MountConfig, clean: bool
    ) -> None:
        self.mount(named, config, dirty=True, clean=clean)
        told = self.refused(named, replace(config, cache=None))
        assert f"last used: {named.cache}" in told

    def test_g09_who_forgets_the_cache_of_metadata_in_the_old_place(self, named: Named, config: MountConfig) -> None:
        self.mount(named, replace(config, metadata=named.usual))
        told = self.refused(named, replace(config, cache=None))
        assert f"is missing, and metadata {named.usual} has 1 blocks in it; last used: {named.cache}" in told

    def test_g09_who_names_another_cache_is_told(self, named: Named, config: MountConfig) -> None:
        self.mount(named, replace(config, metadata=named.usual), dirty=True)
        told = self.refused(named, replace(config, cache=named.directory / "empty"))
        assert f"last used: {named.cache}" in told

    def test_g09_who_forgets_the_metadata_is_told_where_it_is(self, named: Named, config: MountConfig) -> None:
        elsewhere = named.directory / "elsewhere"
        self.mount(named, replace(config, metadata=elsewhere), dirty=True)
        told = self.refused(named, config)
        assert f"belongs to metadata that is not here (last used: --metadata {elsewhere})" in told

    def test_g09_a_new_cache_beside_one_that_has_nothing_newer_is_told(self, named: Named, config: MountConfig) -> None:
        self.mount(named, config)
        notes = self.mount(named, replace(config, cache=None))
        assert f"last used: {named.cache}, which has nothing that the origin lacks; this is another one" in notes
        assert not any("last used" in note for note in self.mount(named, replace(config, cache=None)))
        self.mount(named, config)
        assert any(
            f"last used: {named.cache}, which" in note for note in self.mount(named, replace(config, cache=None))
        )

    def test_g09_nothing_is_written_where_it_is_refused(self, named: Named, config: MountConfig) -> None:
        self.mount(named, config, dirty=True)
        before = sorted(named.directory.rglob("*"))
        self.refused(named, replace(config, cache=None))
        assert sorted(named.directory.rglob("*")) == before
