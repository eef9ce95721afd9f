from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusecache.migration.backlog import Backlog
from policies import Op, Work
from tests.unit.worlds import ToyPolicy

ALL = tuple(Op)


def backlog_of(*oblocks: int, op: Op = Op.WRITEBACK, most: int = 4) -> Backlog:
    backlog = Backlog(most)
    for oblock in oblocks:
        backlog.add(Work(op, oblock, 100 + oblock))
    return backlog


def runs_of(backlog: Backlog, *ops: Op) -> list[list[int]]:
    runs = []
    while run := backlog.next_neighbours(ops or tuple(Op)):
        runs.append([work.oblock for work in backlog.take(run)])
        backlog.check()
    return runs


def test_neighbours_come_together_and_in_order() -> None:
    assert runs_of(backlog_of(9, 3, 4, 12, 5, 11)) == [[3, 4, 5], [9], [11, 12]]


def test_a_run_is_no_longer_than_it_may_be() -> None:
    assert runs_of(backlog_of(*range(9))) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_it_goes_on_where_it_was_and_begins_again_at_the_end() -> None:
    backlog = backlog_of(5, 20)
    backlog.take(backlog.next_neighbours(ALL))
    backlog.add(Work(Op.WRITEBACK, 2, 2))
    backlog.add(Work(Op.WRITEBACK, 9, 9))
    assert runs_of(backlog) == [[9], [20], [2]]


def test_demotions_come_one_by_one() -> None:
    assert runs_of(backlog_of(3, 4, op=Op.DEMOTE)) == [[3], [4]]


def test_kinds_take_turns_as_they_came_and_do_not_mix() -> None:
    backlog = backlog_of(5)
    backlog.add(Work(Op.PROMOTE, 6, 6))
    backlog.add(Work(Op.WRITEBACK, 7, 7))
    assert runs_of(backlog) == [[5], [6], [7]]


def test_only_what_is_asked_for() -> None:
    backlog = backlog_of(5)
    assert runs_of(backlog, Op.PROMOTE) == []
    assert len(backlog) == 1


def test_what_was_removed_meanwhile_is_not_taken() -> None:
    backlog = backlog_of(3, 4, 5)
    run = backlog.next_neighbours(ALL)
    policy = ToyPolicy(200)
    policy.outstanding = list(run)
    assert backlog.recall(104, policy)
    assert policy.completed == [(Op.WRITEBACK, 4, False)]
    assert [work.oblock for work in backlog.take(run)] == [3, 5]
    assert not backlog.recall(104, policy)


def test_what_the_policy_has_queued_is_recalled_with_all_before_it() -> None:
    backlog = backlog_of(3)
    policy = ToyPolicy(200)
    policy.queue.extend(Work(Op.WRITEBACK, oblock, 100 + oblock) for oblock in (7, 4, 5))
    assert backlog.recall(104, policy)
    assert policy.completed == [(Op.WRITEBACK, 7, False), (Op.WRITEBACK, 4, False)]
    assert [work.oblock for work in policy.queue] == [5]
    assert not backlog.recall(104, policy)
    assert not policy.outstanding
    assert len(backlog) == 1


def test_all_of_it_at_once() -> None:
    backlog = backlog_of(3, 4)
    assert [work.oblock for work in backlog.clear()] == [3, 4]
    backlog.check()
    assert not backlog
    assert backlog.next_neighbours(ALL) == []


@given(items=st.dictionaries(st.integers(0, 40), st.sampled_from(Op), max_size=40), most=st.integers(1, 8))
def test_everything_comes_once_and_every_run_is_one(items: dict[int, Op], most: int) -> None:
    backlog = Backlog(most)
    for oblock, op in items.items():
        backlog.add(Work(op, oblock, oblock))
    seen = []
    while run := backlog.next_neighbours(ALL):
        assert 1 <= len(run) <= most
        assert len({work.op for work in run}) == 1
        assert [work.oblock for work in run] == list(range(run[0].oblock, run[0].oblock + len(run)))
        seen += [work.oblock for work in backlog.take(run)]
        backlog.check()
    assert sorted(seen) == sorted(items)
