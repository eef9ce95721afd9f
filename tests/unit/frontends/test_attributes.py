"""What stat(2) and statfs(2) say of the image."""

from __future__ import annotations

import os
import stat
from typing import cast

import pyfuse3
import pytest

from fusecache.attach import Space
from fusecache.config import Ownership
from fusecache.frontends.fuse.attributes import IMAGE_INODE, ROOT_INODE
from tests.unit.frontends.backing import FakeBacking, attributes_of
from tests.unit.worlds import threaded

SIZE = 100_000


class Fields:
    """What pyfuse3 tells about a setattr; its own class cannot be filled in from Python."""

    def __init__(self, *names: str) -> None:
        for name in ("size", "mode", "uid", "gid", "atime", "mtime", "ctime"):
            setattr(self, f"update_{name}", name in names)


def fields(*names: str) -> pyfuse3.SetattrFields:
    return cast("pyfuse3.SetattrFields", Fields(*names))


@threaded
async def test_g01_image_and_directory_begin_with_the_times_of_the_backing() -> None:
    backing = FakeBacking()
    attributes = attributes_of(SIZE, backing=backing)
    for inode in (IMAGE_INODE, ROOT_INODE):
        entry = await attributes.of(inode)
        assert (entry.st_mtime_ns, entry.st_ctime_ns, entry.st_atime_ns) == (1_000, 2_000, 1_000)
    backing.written = True
    assert (await attributes.of(ROOT_INODE)).st_mtime_ns == 1_000
    assert (await attributes.of(IMAGE_INODE)).st_mtime_ns > 2_000


@threaded
async def test_g01_who_asks_before_and_after_a_write_gets_two_answers() -> None:
    backing = FakeBacking()
    attributes = attributes_of(SIZE, backing=backing)
    told = []
    for _ in range(3):
        backing.written = True
        told += [(await attributes.of(IMAGE_INODE)).st_mtime_ns, attributes.image_times().modified_ns]
    assert told[0] == told[1] < told[2] == told[3] < told[4] == told[5]


@threaded
async def test_g01_a_kernel_that_keeps_pages_hears_of_a_new_time_once_nobody_has_written_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = written = 10**18
    monkeypatch.setattr("fusecache.frontends.fuse.attributes.time.time_ns", lambda: now)
    backing = FakeBacking()
    attributes = attributes_of(SIZE, backing=backing, keeps_pages=True)
    for _ in range(9):
        backing.written = True
        now += 10**9
        written = now
        entry = await attributes.of(IMAGE_INODE)
        assert entry.st_mtime_ns == 1_000
        assert entry.attr_timeout <= 3, "the kernel asks again"
        assert attributes.image_times().modified_ns == written
    now += 4 * 10**9
    entry = await attributes.of(IMAGE_INODE)
    assert (entry.st_mtime_ns, entry.attr_timeout) == (written, 300)
    backing.written = True
    assert (await attributes.of(IMAGE_INODE)).st_mtime_ns == written
    wanted = pyfuse3.EntryAttributes()
    wanted.st_mtime_ns = now
    assert attributes.set(IMAGE_INODE, wanted, fields("mtime"))
    assert (await attributes.of(IMAGE_INODE)).st_mtime_ns == now, "what the owner sets he sees at once"


@threaded
async def test_g02_it_belongs_to_who_runs_the_mount_or_to_whom_it_was_told() -> None:
    entry = await attributes_of(SIZE).of(IMAGE_INODE)
    assert (entry.st_uid, entry.st_gid, stat.S_IMODE(entry.st_mode)) == (os.getuid(), os.getgid(), 0o600)
    told = attributes_of(SIZE, ownership=Ownership(uid=64055, gid=108, umask=0o007))
    for inode, mode in ((IMAGE_INODE, stat.S_IFREG | 0o660), (ROOT_INODE, stat.S_IFDIR | 0o750)):
        entry = await told.of(inode)
        assert (entry.st_uid, entry.st_gid, entry.st_mode) == (64055, 108, mode)


@pytest.mark.parametrize("inode", [IMAGE_INODE, ROOT_INODE])
@threaded
async def test_g02_owner_and_mode_can_be_set_for_the_life_of_the_mount(inode: pyfuse3.InodeT) -> None:
    attributes = attributes_of(SIZE)
    before = await attributes.of(inode)
    kind, size = stat.S_IFMT(before.st_mode), before.st_size
    wanted = pyfuse3.EntryAttributes()
    wanted.st_mode, wanted.st_uid, wanted.st_gid = pyfuse3.ModeT(0o640), 5, 6
    assert attributes.set(inode, wanted, fields("mode", "uid", "gid"))
    after = await attributes.of(inode)
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_size) == (kind | 0o640, 5, 6, size)
    assert after.st_ctime_ns > 2_000
    assert after.st_mtime_ns == 1_000


@threaded
async def test_g02_what_is_refused_changes_nothing() -> None:
    attributes = attributes_of(SIZE)
    wanted = pyfuse3.EntryAttributes()
    wanted.st_mode, wanted.st_uid, wanted.st_size, wanted.st_mtime_ns = pyfuse3.ModeT(0o4755), 5, SIZE - 1, 9
    assert not attributes.set(IMAGE_INODE, wanted, fields("mode", "uid", "mtime"))
    assert not attributes.set(IMAGE_INODE, wanted, fields("size", "uid", "mtime"))
    entry = await attributes.of(IMAGE_INODE)
    assert (entry.st_uid, stat.S_IMODE(entry.st_mode), entry.st_size) == (os.getuid(), 0o600, SIZE)
    assert (entry.st_mtime_ns, entry.st_ctime_ns) == (1_000, 2_000)


@pytest.mark.parametrize(
    ("room", "dirty", "blocks"),
    [
        (None, 0, 196),  # a device: all of it
        (0, 0, 0),
        (0, 4096, 8),  # no part that waits in the cache looks like a hole
        (40_960, 8192, 96),
        (98_304, 65_536, 196),  # not more than there is
        (102_400, 0, 200),  # as the origin has it, to the last byte
        (1 << 20, 4096, 2048),
    ],
)
@threaded
async def test_g08_it_takes_the_room_of_the_origin_and_of_what_waits(room: int | None, dirty: int, blocks: int) -> None:
    attributes = attributes_of(SIZE, backing=FakeBacking(room=room, dirty=dirty))
    assert (await attributes.of(IMAGE_INODE)).st_blocks == blocks


@threaded
async def test_g08_an_origin_without_holes_is_asked_once() -> None:
    backing = FakeBacking(room=102_400)
    attributes = attributes_of(SIZE, backing=backing)
    for _ in range(3):
        assert (await attributes.of(IMAGE_INODE)).st_blocks == 200
    assert backing.asked == 1
    with_holes = FakeBacking(room=4096)
    attributes = attributes_of(SIZE, backing=with_holes)
    await attributes.of(IMAGE_INODE)
    with_holes.room = 8192
    assert (await attributes.of(IMAGE_INODE)).st_blocks == 16


@threaded
async def test_g08_an_origin_that_cannot_be_asked_has_no_holes() -> None:
    attributes = attributes_of(SIZE, backing=FakeBacking(error=OSError(116, "stale")))
    assert (await attributes.of(IMAGE_INODE)).st_blocks == 196


@threaded
async def test_g08_the_file_system_is_as_full_as_the_origins() -> None:
    backing = FakeBacking(told=Space(4096, 1000, 400, 350, 64, 60))
    data = await attributes_of(SIZE, backing=backing).file_system()
    assert (data.f_frsize, data.f_blocks, data.f_bfree, data.f_bavail) == (4096, 1000, 400, 350)
    assert (data.f_files, data.f_ffree) == (64, 60)


@threaded
async def test_g08_an_origin_on_no_file_system_has_no_size_to_be_full() -> None:
    data = await attributes_of(SIZE).file_system()
    assert (data.f_blocks, data.f_bfree, data.f_bavail, data.f_files, data.f_ffree) == (0, 0, 0, 0, 0)
    assert data.f_frsize
