from __future__ import annotations

import errno
import os
import stat
from typing import Any, cast

import pyfuse3
import pytest
import trio

from fusecache.control.control import Control
from fusecache.datapath.disk import Disk
from fusecache.errors import (
    BusyError,
    FusecacheError,
    InvalidError,
    MetadataError,
    OutOfRangeError,
    ReadOnlyKeyError,
    RefusedError,
    StoreError,
    UnknownKeyError,
    UsageError,
)
from fusecache.frontends.fuse.operations import Operations
from fusecache.jobs.job import Job
from fusecache.jobs.table import Jobs
from fusecache.volume.volume import PolicyFaultError
from tests.unit.frontends.backing import attributes_of, by
from tests.unit.frontends.test_attributes import fields
from tests.unit.worlds import threaded, virtual

ROOT = pyfuse3.ROOT_INODE
IMAGE = pyfuse3.InodeT(ROOT + 1)
FH = pyfuse3.FileHandleT(1)
SIZE = 10_000
CTX = by(os.geteuid())


class FakeControl:
    """Names and values; ``error`` is what setting anything raises."""

    def __init__(self) -> None:
        self.values = {"mode": "writeback", "policy.x": "1"}
        self.error: Exception | None = None
        self.messages: list[tuple[str, str]] = []
        self.job: Job | None = None

    def get(self, name: str) -> str:
        if self.error is not None:
            raise self.error
        if name not in self.values:
            msg = f"no attribute {name!r}"
            raise UnknownKeyError(msg)
        return self.values[name]

    def begin(self, name: str, value: str) -> Job | None:
        if self.error is not None:
            raise self.error
        self.messages.append((name, value))
        return self.job


class FakeCache:
    """Zeroes; ``error`` is what everything raises."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.flushes = 0

    async def read(self, offset: int, length: int) -> bytearray:
        if self.error is not None:
            raise self.error
        return bytearray(max(0, min(length, SIZE - offset)))

    async def write(self, offset: int, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        return len(data)

    async def flush(self) -> None:
        if self.error is not None:
            raise self.error
        self.flushes += 1


class Face(Operations):
    """The operations under test, with what is behind them within reach."""

    def __init__(self, *, page_cache: bool = False) -> None:
        self.control = FakeControl()
        self.cache = FakeCache()
        attributes = attributes_of(SIZE)
        super().__init__(cast("Disk", self.cache), cast("Control", self.control), attributes, page_cache=page_cache)


@pytest.fixture
def face() -> Face:
    return Face()


def key(name: str) -> pyfuse3.XAttrNameT:
    return pyfuse3.XAttrNameT(name.encode("utf-8", "surrogateescape"))


def file(name: bytes) -> pyfuse3.FileNameT:
    return pyfuse3.FileNameT(name)


def raises(code: int) -> Any:
    return pytest.raises(pyfuse3.FUSEError, check=lambda error: error.errno == code)


ERRORS: list[tuple[Exception, int]] = [
    (OutOfRangeError("x"), errno.EFBIG),
    (ReadOnlyKeyError("x"), errno.EPERM),
    (UnknownKeyError("x"), errno.EINVAL),
    (UsageError("x"), errno.EINVAL),
    (BusyError("x"), errno.EBUSY),
    (RefusedError("x"), errno.EPERM),
    (StoreError("x"), errno.EIO),
    (MetadataError("x"), errno.EIO),
    (PolicyFaultError("x"), errno.EIO),
    (FusecacheError("x"), errno.EIO),
    (ValueError("a bug"), errno.EIO),
    (AssertionError("a bug"), errno.EIO),
    (OSError(errno.ENOSYS, "never this"), errno.EIO),
]


@pytest.mark.parametrize(("error", "code"), ERRORS)
@virtual
async def test_every_error_becomes_an_errno_and_nothing_else_gets_out(error: Exception, code: int) -> None:
    face = Face()
    face.cache.error = error
    with raises(code):
        await face.read(FH, 0, 1)
    with raises(code):
        await face.write(FH, 0, b"x")
    with raises(code):
        await face.fsync(FH, False)
    face.control.error = error
    with raises(code):
        await face.setxattr(IMAGE, key("user.fusecache.mode"), b"x", CTX)
    with raises(errno.ENODATA if isinstance(error, UnknownKeyError) else code):
        await face.getxattr(IMAGE, key("user.fusecache.mode"), CTX)


@virtual
async def test_data_goes_through() -> None:
    face = Face()
    assert await face.read(FH, 0, 100) == bytes(100)
    assert await face.read(FH, SIZE - 10, 100) == bytes(10)
    assert await face.write(FH, 5, b"hello") == 5
    await face.fsync(FH, True)
    assert face.cache.flushes == 1
    await face.flush(FH)
    await face.release(FH)
    assert face.cache.flushes == 1


@virtual
async def test_controls_are_attributes_of_the_image() -> None:
    face = Face()
    assert await face.getxattr(IMAGE, key("user.fusecache.mode"), CTX) == b"writeback"
    await face.setxattr(IMAGE, key("user.fusecache.message"), b"flush", CTX)
    assert face.control.messages == [("message", "flush")]


@pytest.mark.parametrize(
    "name",
    [
        "user.fusecache.nonsense",
        "user.fusecache.",
        "user.fusecache",
        "security.capability",
        "system.posix_acl_access",
        "\udcff",
    ],
)
@virtual
async def test_other_attributes_do_not_exist(name: str) -> None:
    face = Face()
    with raises(errno.ENODATA):
        await face.getxattr(IMAGE, key(name), CTX)


@virtual
async def test_g03_none_is_listed_for_what_is_listed_is_copied() -> None:
    face = Face()
    assert list(await face.listxattr(IMAGE, CTX)) == list(await face.listxattr(ROOT, CTX)) == []


@pytest.mark.parametrize("uid", [0, os.geteuid()])
@virtual
async def test_g02_root_and_who_runs_the_mount_set_controls(uid: int) -> None:
    face = Face()
    await face.setxattr(IMAGE, key("user.fusecache.mode"), b"writethrough", by(uid))
    assert face.control.messages == [("mode", "writethrough")]


@virtual
async def test_g02_others_set_none_although_they_may_write_and_read_them_all() -> None:
    face = Face()
    other = by(os.geteuid() + 1)
    for name in ("mode", "message", "request", "nonsense"):
        with raises(errno.EPERM):
            await face.setxattr(IMAGE, key(f"user.fusecache.{name}"), b"x", other)
    assert not face.control.messages
    assert await face.getxattr(IMAGE, key("user.fusecache.mode"), other) == b"writeback"


@pytest.mark.parametrize("name", ["security.capability", "user.other", "trusted.x", "\udcff", "user.fusecache.claim"])
@virtual
async def test_other_attributes_cannot_be_set_nor_removed(name: str) -> None:
    """As on a file system that has none: whoever copies attributes goes on without them."""
    face = Face()
    with raises(errno.EOPNOTSUPP):
        await face.setxattr(IMAGE, key(name), b"1", CTX)
    with raises(errno.ENODATA):
        await face.removexattr(IMAGE, key(name), CTX)
    assert not face.control.messages


@virtual
async def test_the_directory_has_no_controls() -> None:
    face = Face()
    with raises(errno.ENODATA):
        await face.getxattr(ROOT, key("user.fusecache.mode"), CTX)
    with raises(errno.EOPNOTSUPP):
        await face.setxattr(ROOT, key("user.fusecache.mode"), b"x", CTX)
    assert list(await face.listxattr(ROOT, CTX)) == []


@virtual
async def test_controls_cannot_be_removed() -> None:
    with raises(errno.EPERM):
        await Face().removexattr(IMAGE, key("user.fusecache.mode"), CTX)


@pytest.mark.parametrize("value", [b"smq", b"smq\n", b"smq\0", b"smq\n\0"])
@virtual
async def test_what_tools_put_at_the_end_is_taken_off(value: bytes) -> None:
    face = Face()
    await face.setxattr(IMAGE, key("user.fusecache.policy"), value, CTX)
    assert face.control.messages == [("policy", "smq")]


@virtual
async def test_bytes_that_are_no_text_go_in_and_come_out_as_they_are() -> None:
    """Paths are bytes, and some values have them in them."""
    face = Face()
    await face.setxattr(IMAGE, key("user.fusecache.policy"), b"\xff\xfe", CTX)
    assert face.control.messages == [("policy", os.fsdecode(b"\xff\xfe"))]
    face.control.values["table"] = os.fsdecode(b"/m /c /\xff\xfe 512")
    assert await face.getxattr(IMAGE, key("user.fusecache.table"), CTX) == b"/m /c /\xff\xfe 512"


@virtual
async def test_f10_a_setter_waits_a_moment_for_what_it_began_and_no_longer() -> None:
    face = Face()
    jobs = Jobs(4096, trio.current_time)
    job = face.control.job = jobs.begin("mode", "writethrough")
    await face.setxattr(IMAGE, key("user.fusecache.mode"), b"writethrough", CTX)
    assert trio.current_time() <= 0.1
    assert job.ended is None
    jobs.end(job)
    began = trio.current_time()
    await face.setxattr(IMAGE, key("user.fusecache.mode"), b"writethrough", CTX)
    assert trio.current_time() == began


@virtual
async def test_f10_what_fails_within_that_moment_is_told_by_errno() -> None:
    face = Face()
    jobs = Jobs(4096, trio.current_time)
    job = face.control.job = jobs.begin("policy", "other")

    async def fail_soon() -> None:
        await trio.sleep(0.01)
        job.fail(InvalidError("it does not take over"))
        jobs.end(job)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_soon)
        with raises(errno.EINVAL):
            await face.setxattr(IMAGE, key("user.fusecache.policy"), b"other", CTX)


# The tree


@threaded
async def test_there_is_one_file() -> None:
    face = Face()
    entry = await face.lookup(ROOT, file(b"image"), CTX)
    assert (entry.st_ino, entry.st_size, stat.S_IFMT(entry.st_mode)) == (IMAGE, SIZE, stat.S_IFREG)
    root = await face.getattr(ROOT, CTX)
    assert stat.S_ISDIR(root.st_mode)
    assert (await face.getattr(IMAGE, CTX)).st_size == SIZE


@pytest.mark.parametrize(("parent", "name"), [(ROOT, b"Image"), (ROOT, b"image2"), (ROOT, b"\xff"), (IMAGE, b"image")])
@virtual
async def test_there_is_nothing_else(parent: pyfuse3.InodeT, name: bytes) -> None:
    with raises(errno.ENOENT):
        await Face().lookup(parent, file(name), CTX)


@virtual
async def test_the_image_is_opened_past_the_page_cache() -> None:
    info = await Face().open(IMAGE, pyfuse3.FlagT(os.O_RDWR), CTX)
    assert info.direct_io
    assert not info.keep_cache


@virtual
async def test_the_image_may_be_left_to_the_page_cache() -> None:
    info = await Face(page_cache=True).open(IMAGE, pyfuse3.FlagT(os.O_RDWR), CTX)
    assert not info.direct_io
    assert info.keep_cache


@virtual
async def test_the_tree_stays_as_it_is() -> None:
    face = Face()
    with raises(errno.EPERM):
        await face.create(ROOT, file(b"new"), pyfuse3.ModeT(0o600), pyfuse3.FlagT(os.O_RDWR), CTX)
    with raises(errno.EPERM):
        await face.unlink(ROOT, file(b"image"), CTX)


@threaded
async def test_a_disk_keeps_its_size() -> None:
    face = Face()
    before = await face.getattr(IMAGE, CTX)
    modified = before.st_mtime_ns
    wanted = pyfuse3.EntryAttributes()
    wanted.st_size = SIZE // 2
    with raises(errno.EPERM):
        await face.setattr(IMAGE, wanted, fields("size", "mtime"), None, CTX)
    after = await face.getattr(IMAGE, CTX)
    assert (after.st_size, after.st_mtime_ns) == (SIZE, modified)


@threaded
async def test_its_present_size_and_new_times_are_fine() -> None:
    face = Face()
    wanted = pyfuse3.EntryAttributes()
    wanted.st_size, wanted.st_mtime_ns, wanted.st_atime_ns = SIZE, 5, 6
    entry = await face.setattr(IMAGE, wanted, fields("size", "mtime"), None, CTX)
    assert entry.st_mtime_ns == 5
    assert entry.st_atime_ns != 6
    assert (await face.getattr(IMAGE, CTX)).st_mtime_ns == 5


@virtual
async def test_no_extended_attribute_call_is_left_to_the_default_enosys() -> None:
    for name in ("getxattr", "setxattr", "listxattr", "removexattr", "fsync", "flush", "access", "opendir"):
        assert name in vars(Operations), name
