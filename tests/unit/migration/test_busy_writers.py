from __future__ import annotations

from fusecache.migration.busy_writers import BusyWriters


def test_a_second_with_many_writes_counts_at_once_and_for_the_next_one() -> None:
    writers = BusyWriters()
    assert writers.look(0, 0)
    assert not writers.are_busy(32)
    assert writers.are_busy(33)
    assert not writers.look(0.9, 33)
    assert writers.look(1, 33)
    assert writers.are_busy(33)
    assert writers.look(2.5, 65)
    assert not writers.are_busy(65)
