from __future__ import annotations

import pytest

from fusecache.simulator.slow_disk import Disk, SlowDisk


def test_what_goes_on_where_the_last_operation_ended_needs_no_seek() -> None:
    disk = SlowDisk()
    disk.check()
    for offset in (0, 512, 1024, 512):
        disk.read(offset, 512)
        disk.check()
    disk.write(1024, 100)
    disk.check()
    assert (disk.reads, disk.writes, disk.seeks, disk.moved, disk.position) == (4, 1, 2, 2148, 1124)


def test_a_read_goes_on_in_its_block_unless_the_head_is_elsewhere_by_now() -> None:
    disk = SlowDisk()
    disk.read(4096, 512)
    disk.read_on(3584, 4096, 8192)
    assert (disk.reads, disk.seeks, disk.moved, disk.position) == (1, 1, 4096, 8192)
    disk.read(12288, 512)
    disk.read_on(3584, 4096, 8192)
    assert (disk.reads, disk.seeks, disk.moved, disk.position) == (2, 2, 8192, 12800)


def test_a_hard_disk_takes_5_ms_a_seek_and_moves_150_mb_a_second() -> None:
    assert SlowDisk(reads=3, writes=2, seeks=4, moved=300_000_000).seconds(Disk.HDD) == pytest.approx(0.02 + 2)


def test_a_distant_disk_takes_latency_or_bandwidth_whichever_is_longer() -> None:
    assert SlowDisk(reads=1000, writes=600, seeks=1, moved=2_000_000).seconds(Disk.NET) == pytest.approx(0.15)
    assert SlowDisk(reads=1000, writes=600, seeks=1, moved=200_000_000).seconds(Disk.NET) == pytest.approx(1.0)
