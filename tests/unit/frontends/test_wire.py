"""FUSE's messages, as a real kernel and libfuse sent them (recorded_requests.txt)."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from fusecache.frontends.fuse import wire
from fusecache.linux import KEEP_SIZE, PUNCH_HOLE
from tests.unit.frontends.fake_kernel import RECORDED

ZERO_RANGE = 16
SPLICE = 0b111 << 7
AUTO_INVAL_DATA = 1 << 12
INIT_EXT = 1 << 30
ALLOW_MMAP = 1 << 36


def received(name: str) -> bytes:
    """A request as it lies in memory, with rubbish behind it."""
    return RECORDED[name] + b"\xee" * 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("READ", (wire.READ, 12, 1, 8192, 4096)),
        ("WRITE", (wire.WRITE, 16, 1, 512, 24)),
        ("SYNC_WRITE", (wire.WRITE, 34, 2, 1024, 4)),
    ],
)
def test_reads_and_writes(name: str, expected: tuple[int, ...]) -> None:
    assert wire.REQUEST.unpack_from(received(name)) == expected


@pytest.mark.parametrize(
    ("name", "opcode"), [("INIT", wire.INIT), ("OPEN", wire.OPEN), ("FSYNC", wire.FSYNC), ("LSEEK", wire.LSEEK)]
)
def test_opcodes_of_others(name: str, opcode: int) -> None:
    assert wire.REQUEST.unpack_from(received(name))[0] == opcode


def test_the_data_of_a_write_comes_last() -> None:
    assert RECORDED["WRITE"][wire.WRITE_HEADER_BYTES :] == b"record" * 4
    assert wire.LEAST_MEMORY == wire.WRITE_HEADER_BYTES + wire.MOST_WRITTEN


def test_discards_and_seeks() -> None:
    assert wire.allocation(received("FALLOCATE")) == wire.Allocation(1, 65536, 131072, PUNCH_HOLE | KEEP_SIZE)
    assert wire.allocation(received("ZERO")) == wire.Allocation(1, 4096, 8192, ZERO_RANGE)
    assert wire.seek(received("LSEEK")) == wire.Seek(100, os.SEEK_HOLE)


@pytest.mark.parametrize(
    ("mode", "offset", "length", "done"),
    [
        (PUNCH_HOLE | KEEP_SIZE, 100, 200, (0, 200)),
        (ZERO_RANGE, 0, 1000, (0, 1000)),
        (ZERO_RANGE | KEEP_SIZE, 999, 1, (0, 1)),
        (PUNCH_HOLE | KEEP_SIZE, 900, 200, (0, 100)),
        (PUNCH_HOLE | KEEP_SIZE, 5000, 200, (0, 0)),
        (ZERO_RANGE | KEEP_SIZE, 900, 2**63 - 901, (0, 100)),
        (ZERO_RANGE, 900, 101, (errno.EINVAL, 0)),
        (0, 0, 100, (errno.EOPNOTSUPP, 0)),
        (KEEP_SIZE, 0, 2000, (errno.EOPNOTSUPP, 0)),
        (PUNCH_HOLE, 0, 100, (errno.EOPNOTSUPP, 0)),
        (8, 0, 100, (errno.EOPNOTSUPP, 0)),
    ],
)
def test_what_a_disk_of_1000_bytes_does(mode: int, offset: int, length: int, done: tuple[int, int]) -> None:
    assert wire.Allocation(1, offset, length, mode).zeroed(1000) == done


def test_which_attribute_is_asked_for() -> None:
    assert wire.REQUEST.unpack_from(received("CAPABILITY"))[0] == wire.GETXATTR
    assert wire.attribute(received("CAPABILITY")) == b"security.capability"
    assert wire.attribute(RECORDED["STATISTICS"]) == b"user.fusecache.stats"


def test_answers() -> None:
    assert wire.refusal(18, 0).hex() == "10000000000000001200000000000000"
    assert struct.unpack("=IiQ", wire.refusal(7, errno.EIO)) == (16, -errno.EIO, 7)
    assert wire.ANSWER.pack(16 + 4, 0, 7) + b"data" == struct.pack("=IiQ4s", 20, 0, 7, b"data")
    assert wire.WRITTEN.pack(24, 0, 16, 24).hex() == "180000000000000010000000000000001800000000000000"


def test_the_invalidation_of_all_pages() -> None:
    notification = wire.invalidation(2)
    assert len(notification) == 40
    assert struct.unpack("=IiQQqq", notification) == (40, 2, 0, 2, 0, 0)


# INIT


def flags_of(answer: bytes) -> int:
    flags: int
    flags, more = struct.unpack_from("=I", answer, 28)[0], struct.unpack_from("=I", answer, 48)[0]
    return flags | more << 32 if flags & INIT_EXT else flags


def amended(answer: bytes, offers: int) -> bytes:
    return wire.amended_init(answer, offers, background=64, congested=48)


def test_neither_splicing_nor_dropping_pages_is_offered_to_libfuse_and_all_else_is() -> None:
    request = RECORDED["INIT"]
    assert wire.offered(request) & SPLICE == SPLICE
    assert wire.offered(request) & AUTO_INVAL_DATA
    changed = wire.with_less_offered(request)
    assert wire.offered(changed) == wire.offered(request) & ~(SPLICE | AUTO_INVAL_DATA)
    assert changed[:52] + changed[56:] == request[:52] + request[56:]


def test_what_a_kernel_offers_beyond_32_bits_counts_only_if_it_says_so() -> None:
    assert wire.offered(RECORDED["INIT"]) & ALLOW_MMAP
    old = RECORDED["INIT"][:56]  # before version 7.36
    assert wire.offered(old) == wire.offered(RECORDED["INIT"]) % (1 << 32)
    without = bytearray(RECORDED["INIT"])
    struct.pack_into("=I", without, 52, struct.unpack_from("=I", without, 52)[0] & ~INIT_EXT)
    assert not wire.offered(bytes(without)) & ALLOW_MMAP


def test_more_requests_at_a_time_and_maps_of_the_image() -> None:
    before = RECORDED["INIT_ANSWER"]
    answer = amended(before, wire.offered(RECORDED["INIT"]))
    assert struct.unpack_from("=HH", answer, 32) == (64, 48)
    assert flags_of(answer) == flags_of(before) | INIT_EXT | ALLOW_MMAP
    assert struct.unpack_from("=I", answer, 36) == (wire.MOST_WRITTEN,)
    assert answer[:28] + answer[36:48] + answer[52:] == before[:28] + before[36:48] + before[52:]


def test_limits_that_libfuse_was_told_stay() -> None:
    told = bytearray(RECORDED["INIT_ANSWER"])
    struct.pack_into("=HH", told, 32, 20, 10)
    assert struct.unpack_from("=HH", amended(bytes(told), 0), 32) == (20, 10)


@pytest.mark.parametrize("missing", [ALLOW_MMAP, INIT_EXT])
def test_what_the_kernel_does_not_offer_is_not_asked_for(missing: int) -> None:
    answer = amended(RECORDED["INIT_ANSWER"], wire.offered(RECORDED["INIT"]) & ~missing)
    assert flags_of(answer) == flags_of(RECORDED["INIT_ANSWER"])


def test_no_write_is_larger_than_our_memory() -> None:
    larger = bytearray(RECORDED["INIT_ANSWER"])
    struct.pack_into("=I", larger, 36, 4 * wire.MOST_WRITTEN)
    assert struct.unpack_from("=I", amended(bytes(larger), 0), 36) == (wire.MOST_WRITTEN,)
    struct.pack_into("=I", larger, 36, 4096)
    assert struct.unpack_from("=I", amended(bytes(larger), 0), 36) == (4096,)


@pytest.mark.parametrize("length", [16, 16 + 8, 16 + 24])
def test_shorter_answers_of_older_versions_pass_as_they_are(length: int) -> None:
    answer = RECORDED["INIT_ANSWER"][:length]
    assert amended(answer, wire.offered(RECORDED["INIT"])) == answer


# OPEN


def test_writers_past_the_page_cache_need_not_wait_for_one_another() -> None:
    assert struct.unpack_from("=QI", RECORDED["OPEN_ANSWER"], 16) == (1, 0b1)
    assert struct.unpack_from("=QI", wire.amended_open(RECORDED["OPEN_ANSWER"]), 16) == (1, 0b1000001)


def test_through_the_page_cache_they_do() -> None:
    cached = bytearray(RECORDED["OPEN_ANSWER"])
    struct.pack_into("=I", cached, 24, 0b10)
    assert wire.amended_open(bytes(cached)) == cached
    assert wire.amended_open(wire.refusal(3, errno.EROFS)) == wire.refusal(3, errno.EROFS)


def test_whether_the_kernel_can_ask_again() -> None:
    init = bytearray(RECORDED["INIT"])
    flags, more = struct.unpack_from("=II", init, 52)
    for extended, bit, expected in ((True, 1 << 7, True), (True, 0, False), (False, 1 << 7, False)):
        old = flags | INIT_EXT if extended else flags & ~INIT_EXT
        struct.pack_into("=II", init, 52, old, (more & ~(1 << 7)) | bit)
        assert wire.can_resend(bytes(init)) is expected
    assert not wire.can_resend(bytes(init[:56]))
    assert wire.resending() == struct.pack("=IiQ", 16, 7, 0)
