from __future__ import annotations

import random
from itertools import pairwise

import pytest

from scripts.benchmarks.slow_disk import PROFILES, Disk

MIB = 1024 * 1024
SIZE = 1024 * MIB


def test_random_accesses_of_an_hdd_take_five_milliseconds_on_average() -> None:
    disk, rng, now = Disk(PROFILES["hdd"], SIZE), random.Random(1), 0.0
    for _ in range(4000):
        now = disk.access(now, rng.randrange(SIZE // 4096) * 4096, 4096)
    assert now / 4000 == pytest.approx(0.005, rel=0.02)


def test_sequential_access_of_an_hdd_runs_at_its_bandwidth() -> None:
    disk, now = Disk(PROFILES["hdd"], SIZE), 0.0
    for offset in range(0, 150 * MIB, MIB):
        now = disk.access(now, offset, MIB)
    assert now == pytest.approx(150 * MIB / 150e6)


def test_a_short_gap_ahead_is_waited_for_and_the_same_gap_back_is_a_seek() -> None:
    profile = PROFILES["hdd"]
    ahead, back = Disk(profile, SIZE), Disk(profile, SIZE)
    for disk in ahead, back:
        disk.access(0.0, 64 * MIB, 0)
    assert ahead.access(1.0, 64 * MIB + 15_000, 0) == pytest.approx(1.0 + 15_000 / 150e6)
    assert back.access(1.0, 64 * MIB - 15_000, 0) > 1.0 + profile.latency


def test_a_longer_way_takes_longer() -> None:
    times = []
    for distance in (1 * MIB, 16 * MIB, 256 * MIB, 1023 * MIB):
        disk = Disk(PROFILES["hdd"], SIZE)
        times.append(disk.access(0.0, distance, 0))
    assert times == sorted(times)
    assert times[-1] < 0.002 + 0.003 * 15 / 8


def test_an_hdd_serves_one_request_at_a_time_in_order() -> None:
    disk, rng = Disk(PROFILES["hdd"], SIZE), random.Random(2)
    done = [disk.access(0.0, rng.randrange(SIZE), 4096) for _ in range(10)]
    assert all(later - earlier > 0.002 for earlier, later in pairwise([0.0, *done]))


def test_sixteen_requests_overlap_on_the_net_and_the_seventeenth_waits() -> None:
    disk = Disk(PROFILES["net"], SIZE)
    done = [disk.access(0.0, i * MIB, 512) for i in range(17)]
    assert done[:16] == pytest.approx([0.0015] * 16)
    assert done[16] == pytest.approx(0.003)


def test_the_net_carries_no_more_than_its_bandwidth_however_parallel() -> None:
    disk = Disk(PROFILES["net"], SIZE)
    done = [disk.access(0.0, i * MIB, MIB) for i in range(100)]
    assert max(done) == pytest.approx(100 * MIB / 250e6, rel=0.05)


def test_ram_takes_no_time() -> None:
    disk = Disk(PROFILES["ram"], SIZE)
    assert [disk.access(3.0, i * MIB, MIB) for i in range(1000)] == [3.0] * 1000
    assert disk.flush(3.0) == 3.0


@pytest.mark.parametrize("name", ["hdd", "net"])
def test_a_flush_ends_after_all_that_came_before_it_and_holds_up_what_comes_after(name: str) -> None:
    disk = Disk(PROFILES[name], SIZE)
    before = [disk.access(0.0, i * 64 * MIB, 64 * 1024) for i in range(8)]
    flushed = disk.flush(0.0)
    assert flushed == pytest.approx(max(before) + PROFILES[name].flush)
    assert disk.access(0.0, 0, 4096) > flushed


def test_an_idle_disk_starts_at_once() -> None:
    disk = Disk(PROFILES["net"], SIZE)
    disk.access(0.0, 0, MIB)
    assert disk.access(100.0, 0, 512) == pytest.approx(100.0015)
