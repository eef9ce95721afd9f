"""What may wait for ever is waited for a second."""

from __future__ import annotations

import threading

import trio

from fusecache.frontends.fuse.patience import PATIENCE_SECONDS, Patience
from tests.unit.worlds import threaded


@threaded
async def test_g08_the_answer_is_asked_for_each_time() -> None:
    answers = iter([1, 2])
    patience = Patience(lambda: next(answers), 0)
    assert [await patience.answer(), await patience.answer()] == [1, 2]


@threaded
async def test_g08_who_fails_is_taken_by_the_last_word() -> None:
    answers = iter([7])

    def ask() -> int:
        try:
            return next(answers)
        except StopIteration:
            raise OSError(5, "gone") from None

    patience = Patience(ask, 0)
    assert [await patience.answer(), await patience.answer()] == [7, 7]


@threaded
async def test_g08_a_server_that_is_away_costs_a_second_and_one_thread() -> None:
    released, asked = threading.Event(), []

    def ask() -> int:
        asked.append(threading.get_ident())
        released.wait(30)
        return 1

    patience = Patience(ask, 0)
    began = trio.current_time()
    assert await patience.answer() == 0
    assert PATIENCE_SECONDS <= trio.current_time() - began < 10 * PATIENCE_SECONDS
    assert await patience.answer() == 0
    assert len(asked) == 1
    released.set()
    assert await patience.answer() == 1
