"""Origins that are no files: what is asked of an origin is asked of all kinds, and nothing else is."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from fusecache import paths
from fusecache.attach import locate
from fusecache.attach.choice import KINDS
from fusecache.attach.claim import Claim
from fusecache.attach.inspection import inspect
from fusecache.attach.origin import OpenStore, Space, Strengths
from fusecache.config import PageCache
from fusecache.errors import BusyError, FusecacheError, RefusedError, UsageError
from fusecache.metadata import Database, Identity, ImageTimes, Transaction
from fusecache.offline import Files, check, find_files, write_back
from tests.unit.places import BLOCK, CACHE_BLOCKS, CLEAN, DIRTY, IMAGE, Place
from tests.unit.worlds import MemoryStore

ADDRESS = "memory://rack/disk"
STRENGTHS = Strengths(request_bytes=1 << 20, parallelism=16, reads_ahead=False, can_discard=False)


class Disk:
    """A disk somewhere: no descriptor, no path."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.content = bytearray(b"o" * IMAGE)
        self.version = 1
        self.claim: Claim | None = None
        self.leased = False
        self.settled = 0

    def is_claimed(self) -> bool:
        return self.claim is not None

    def is_free(self) -> bool:
        return not self.leased


@dataclass(frozen=True)
class DiskLocation:
    """Where one is, or none."""

    address: str
    disk: Disk

    def exists(self) -> bool:
        return True

    def signs(self) -> dict[str, str]:
        return {"serial number": self.disk.name}

    def is_at(self, path: Path) -> bool:
        return False

    def open(self, resources: ExitStack, *, writable: bool = True) -> DiskOrigin:
        if self.disk.leased:
            msg = f"{self.address} is in use by another mount"
            raise BusyError(msg)
        self.disk.leased = True
        resources.callback(setattr, self.disk, "leased", False)
        return DiskOrigin(self.address, self.disk)


@dataclass(frozen=True)
class DiskOrigin:
    """One that is open."""

    address: str
    disk: Disk

    @property
    def size(self) -> int:
        return len(self.disk.content)

    @property
    def unwritable(self) -> str:
        return ""

    def identity(self) -> Identity:
        signs = {"serial number": self.disk.name}
        return Identity(self.address, "rack", f"version {self.disk.version}", self.size, signs)

    def read_now(self, offset: int, length: int) -> bytes:
        return bytes(self.disk.content[offset : offset + length])

    def claim(self) -> Claim | None:
        return self.disk.claim

    def touched(self) -> str:
        return ""

    def times(self) -> ImageTimes | None:
        return None

    def allocated(self) -> int | None:
        return None

    def space(self) -> Space | None:
        return None

    def write_claim(self, claim: Claim) -> bool:
        self.disk.claim = claim
        return True

    def remove_claim(self) -> None:
        self.disk.claim = None

    def open_store(self, size: int, page_cache: PageCache) -> OpenStore:
        store = MemoryStore(size)
        store.data = self.disk.content
        return OpenStore(store, "memory", STRENGTHS)

    def is_in_place(self) -> bool:
        return True

    def make_identity_durable(self) -> None:
        self.disk.settled += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Make ``memory://`` a kind of origin."""
    disk = Disk("serial 1")
    monkeypatch.setattr(paths, "SCHEMES", frozenset({"memory"}))
    monkeypatch.setitem(KINDS, "memory", lambda address: DiskLocation(address, disk))
    return disk


@pytest.fixture
def place(tmp_path: Path, disk: Disk) -> Place:
    place = Place(tmp_path)
    place.origin.unlink()
    place.config = replace(place.config, origin=ADDRESS)
    return place


def test_it_is_looked_at_planned_and_bound_like_any_other(place: Place, disk: Disk) -> None:
    plan = inspect(place.config, environ={})
    with plan.resources:
        assert plan.origin.address == ADDRESS
        assert plan.geometry.image_bytes == IMAGE
        assert not disk.is_free()
        binding = plan.carry_out(PageCache.NONE)
        assert (binding.origin_address, binding.engine, binding.strengths) == (ADDRESS, "memory", STRENGTHS)
        assert binding.origin.size == IMAGE
        assert not disk.is_claimed()
        binding.begin()
        assert disk.claim is not None
        assert (disk.claim.uuid, disk.claim.metadata) == (binding.uuid, str(place.metadata))
        place.refused(BusyError, f"{ADDRESS} is in use")
        values = binding.database.values()
        binding.database.set_values(binding.end_values())
        binding.end(dirty=0, cached=0)
        assert disk.settled == 1
    assert not disk.is_claimed()
    assert disk.is_free()
    assert (values["origin_path"], values["origin_inode"]) == (ADDRESS, "rack")
    assert (values["origin_mtime_ns"], values["origin_bytes"]) == ("version 1", str(IMAGE))
    assert values["origin_signs"] == '{"serial number": "serial 1"}'
    assert sorted(place.contents()) == ["cache", "metadata"]
    with place.bound(cache_size=None, block_size=None) as again:
        assert again.was_clean
        assert again.geometry.cache_blocks == CACHE_BLOCKS


def test_another_one_at_the_same_time_or_in_its_place_is_told_by_its_signs(place: Place, disk: Disk) -> None:
    place.mount(rows=DIRTY)
    disk.version += 1
    place.refused(RefusedError, f"origin {ADDRESS} was changed by others while 1 newer blocks")
    disk.version -= 1
    with place.bound(origin="memory://elsewhere/disk"):  # the same disk by another name
        pass
    disk.name = "serial 2"
    place.refused(RefusedError, "belongs to another origin, memory://elsewhere/disk.*serial 2, not serial 1")


def test_changed_by_others_it_makes_clean_blocks_stale(place: Place, disk: Disk) -> None:
    place.mount(rows=CLEAN)
    disk.version += 1
    with place.bound() as binding:
        assert binding.notes == ["the origin was changed outside fusecache: 2 cached blocks were dropped"]
    assert not place.blocks()


def test_grown_it_is_read_to_see_whether_it_is_the_same(place: Place, disk: Disk) -> None:
    place.mount(rows=DIRTY)
    disk.content += bytes(BLOCK)
    disk.version += 1
    with place.bound() as binding:
        assert binding.notes == ["the origin was grown outside fusecache: 1 cached blocks were dropped"]
    disk.content[:] = disk.content[:IMAGE]
    place.refused(RefusedError, "shrunk")


def test_a_second_cache_in_front_of_it_is_refused(place: Place) -> None:
    place.mount(rows=DIRTY)
    other = {"cache": place.directory / "cache 2", "metadata": place.directory / "metadata 2"}
    place.refused(RefusedError, f"newer data of origin {ADDRESS} may be in the cache", **other)


def test_the_tools_for_unmounted_caches_take_it_too(place: Place, disk: Disk) -> None:
    with place.bound() as binding:
        trio.run(binding.database.commit, Transaction(mapped=[(0, 3, True, None, None)]))
        trio.run(binding.cache.write, 0, b"n" * BLOCK)
        binding.database.set_values(binding.end_values())
    files = find_files(ADDRESS, cache=place.cache, metadata=place.metadata, environ={})
    assert files == Files(place.metadata, place.cache, ADDRESS)
    report = check(files)
    assert (report.problems, report.dirty) == ([], 1)
    disk.leased = True
    with pytest.raises(BusyError, match=f"{ADDRESS} is in use: unmount it first"):
        check(files)
    disk.leased = False
    outcome = write_back(place.config, {}, lambda *_: None, retries=0)
    assert (outcome.written, outcome.failures) == (1, [])
    assert disk.content[3 * BLOCK : 4 * BLOCK] == b"n" * BLOCK
    assert disk.claim is not None
    assert disk.claim.clean
    assert not disk.leased
    with closing(Database.open(place.metadata)) as database:
        assert database.superblock().clean_shutdown


def test_by_default_its_parts_lie_where_those_of_files_do(tmp_path: Path, disk: Disk) -> None:
    found = paths.defaults_for(ADDRESS, environ={"XDG_STATE_HOME": str(tmp_path)}, is_root=False)
    assert found.cache.parent == tmp_path / "fusecache"
    assert found.cache.name.startswith("disk-")
    assert found != paths.defaults_for("memory://rack2/disk", environ={"XDG_STATE_HOME": str(tmp_path)}, is_root=False)
    assert paths.absolute_address(ADDRESS) == locate(ADDRESS).address == ADDRESS


# Files


@pytest.mark.parametrize("name", ["disk", "memory:disk", "memory:/disk", "other:disk"])
def test_everything_else_is_a_path(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(name).address == paths.absolute_address(name) == str(tmp_path / name)


def test_a_file_in_two_roles_is_refused_by_any_name(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.cache.hardlink_to(place.origin)
    place.refused(UsageError, f"origin and cache are the same: {place.origin}")
    place.cache.unlink()
    place.metadata.symlink_to(place.origin)
    place.refused(UsageError, f"origin and metadata are the same: {place.origin}")
    place.refused(FusecacheError, "cache and metadata are the same", metadata=place.cache)
