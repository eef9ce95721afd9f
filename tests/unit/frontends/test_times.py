"""G01: the image's times move with its writes, and with nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusecache.frontends.fuse.times import Times
from fusecache.metadata import ImageTimes

BEGIN = ImageTimes(1_000, 2_000)


class Mark:
    """What a write leaves."""

    is_there = False

    def take(self) -> bool:
        was_there, self.is_there = self.is_there, False
        return was_there


def test_g01_they_begin_as_they_were_and_stay_so() -> None:
    times = Times(BEGIN)
    assert times.at(5_000) == times.at(6_000) == BEGIN
    assert times.accessed_ns == 1_000


def test_g01_a_write_moves_both_once() -> None:
    mark = Mark()
    times = Times(BEGIN, mark.take)
    mark.is_there = True
    assert times.at(5_000) == ImageTimes(5_000, 5_000)
    assert times.at(6_000) == ImageTimes(5_000, 5_000)


def test_g01_who_asks_before_and_after_a_write_gets_two_answers() -> None:
    mark = Mark()
    times = Times(BEGIN, mark.take)
    answers = []
    for now in range(5_000, 5_010):
        mark.is_there = True
        answers.append(times.at(now).modified_ns)
    assert len(set(answers)) == len(answers)


def test_g01_what_the_owner_sets_counts_until_the_next_write() -> None:
    mark = Mark()
    times = Times(BEGIN, mark.take)
    mark.is_there = True  # by whoever then sets the time of what he copied here
    times.set(5_000, modified_ns=7, accessed_ns=8)
    assert times.at(6_000) == ImageTimes(7, 5_000)
    assert times.accessed_ns == 8
    mark.is_there = True
    assert times.at(7_000) == ImageTimes(7_000, 7_000)


def test_g01_another_mode_or_owner_changes_the_time_of_change_alone() -> None:
    times = Times(BEGIN)
    times.set(5_000)
    assert times.at(6_000) == ImageTimes(1_000, 5_000)


@given(st.lists(st.sampled_from(["write", "ask", "set", "mode"])))
def test_g01_they_never_lie(events: list[str]) -> None:
    """The image never looks older than its last write, nor newer than a second after it; nobody waits longer to ask."""
    mark = Mark()
    times = Times(BEGIN, mark.take)
    now, written, modified = 10_000, None, BEGIN.modified_ns
    for event in events:
        now += 1
        match event:
            case "write":
                mark.is_there, written = True, now
            case "ask":
                told = times.at(now)
                modified = modified if written is None else told.modified_ns
                assert told.modified_ns == modified
                assert written is None or written <= told.modified_ns <= now
                assert told.changed_ns <= now
                written = None
            case "set":
                times.set(now, modified_ns=now - 5_000)
                written, modified = None, now - 5_000
            case "mode":
                times.set(now)
                modified = modified if written is None else now
                written = None
        times.check()
