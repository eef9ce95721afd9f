"""Long work as others see it; time is what the test says it is."""

from __future__ import annotations

import random

import pytest
import trio

from fusecache.errors import FusecacheError, RefusedError, StoreError
from fusecache.jobs.job import RATE_SECONDS, Job
from fusecache.jobs.table import Jobs
from tests.unit.worlds import virtual

BLOCK = 1 << 20


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Jobs:
    return Jobs(BLOCK, clock)


def work(job: Job, clock: Clock, *, blocks: int, seconds: float) -> None:
    """Do one block after the other, in so many seconds."""
    for _ in range(blocks):
        clock.now += seconds / blocks
        job.advance()
        job.check()


def work_that_fails(jobs: Jobs) -> None:
    with jobs.job("drop", total=2):
        msg = "dead"
        raise StoreError(msg)


# One job


def test_a_job_says_how_far_it_is_and_how_fast(jobs: Jobs, clock: Clock) -> None:
    job = jobs.begin("flush", total=4000)
    assert str(job) == "flush 0/4000 blocks"
    assert (job.done, job.left, job.rate) == (0, 4000, 0)
    work(job, clock, blocks=120, seconds=10)
    assert str(job) == "flush 120/4000 blocks, 12MiB/s"
    assert (job.done, job.left, job.rate) == (120, 3880, 12 * BLOCK)


def test_what_it_is_after_stands_beside_its_name(jobs: Jobs) -> None:
    assert str(jobs.begin("mode", "passthrough")) == "mode passthrough"
    assert str(jobs.begin("policy", "mq", total=3)) == "policy mq 0/3 blocks"


def test_the_rate_is_that_of_late(jobs: Jobs, clock: Clock) -> None:
    job = jobs.begin("flush", total=10_000)
    work(job, clock, blocks=100, seconds=100)
    assert job.rate == pytest.approx(BLOCK, rel=0.01)
    work(job, clock, blocks=2000, seconds=2 * RATE_SECONDS + 1)
    assert job.rate > 100 * BLOCK
    clock.now += 10_000
    assert job.rate < BLOCK, "it stands still"


def test_something_is_left_until_it_has_ended(jobs: Jobs, clock: Clock) -> None:
    job = jobs.begin("flush", total=1)
    job.advance()
    assert job.left == 1
    clock.now += 1
    jobs.end(job)
    assert (job.left, job.began, job.ended) == (0, 1000, 1001)


def test_more_than_was_known_of_is_no_contradiction(jobs: Jobs) -> None:
    job = jobs.begin("scrub", total=1)
    job.advance(3)
    assert (job.done, job.total) == (3, 3)
    job.check()


def test_the_first_reason_to_cancel_counts(jobs: Jobs) -> None:
    job = jobs.begin("flush", total=1)
    job.cancel("the mount is ending")
    job.cancel("somebody else asked as well")
    assert job.cancelled == "the mount is ending"
    assert job.ended is None, "it ends when it looks"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_it_stays_possible(jobs: Jobs, clock: Clock, seed: int) -> None:
    rng = random.Random(seed)
    job = jobs.begin("flush", total=rng.randrange(100))
    for _ in range(300):
        clock.now += rng.choice([0, 0.001, 1, 30])
        match rng.randrange(4):
            case 0:
                job.total += rng.randrange(10)
            case 1:
                job.fail(FusecacheError("something"))
            case _:
                job.advance(rng.randrange(5))
        assert job.rate >= 0
        assert job.left >= 1
        jobs.check()
    jobs.end(job)
    jobs.check()


# The table


def test_nothing_runs_in_the_beginning(jobs: Jobs) -> None:
    assert not str(jobs)
    assert not jobs.outcomes
    jobs.check()


def test_what_runs_is_shown_in_the_order_in_which_it_began(jobs: Jobs) -> None:
    first = jobs.begin("mode", "writethrough")
    second = jobs.begin("flush", total=7)
    assert str(jobs) == "mode writethrough; flush 0/7 blocks"
    jobs.end(first)
    assert str(jobs) == "flush 0/7 blocks"
    jobs.end(second)
    assert not str(jobs)


def test_how_the_last_of_each_kind_ended_is_known(jobs: Jobs) -> None:
    with pytest.raises(StoreError):
        work_that_fails(jobs)
    with jobs.job("policy", "mq"):
        pass
    assert jobs.outcomes == {"drop": "failed: dead", "policy": "done"}
    assert jobs.last_error == "drop: dead"
    with jobs.job("drop"):
        assert jobs.outcomes["drop"] == "failed: dead"
    assert jobs.outcomes["drop"] == "done"
    jobs.check()


def test_f10_programs_can_read_how_a_job_is(jobs: Jobs) -> None:
    job = jobs.begin("mode", "writethrough", total=3)
    job.waiting = True
    assert job.report() == "waiting 0 3 mode writethrough (waiting)"
    job.start()
    job.advance()
    assert job.report() == "running 1 3 mode writethrough 1/3 blocks"
    assert not job.outcome
    jobs.end(job)
    assert job.report() == "done 1 3 mode writethrough"
    job = jobs.begin("policy")
    job.fail(StoreError("one\ntwo"))
    jobs.end(job)
    assert job.report() == "failed 0 0 one two"


@virtual
async def test_f10_whoever_waits_for_a_job_hears_what_became_of_it() -> None:
    jobs = Jobs(BLOCK, trio.current_time)
    job = jobs.begin("mode")
    with trio.move_on_after(1) as waiting:
        await job.wait()
    assert waiting.cancelled_caught
    job.fail(StoreError("dead"))
    jobs.end(job)
    with pytest.raises(StoreError, match="dead"):
        await job.wait()


def test_f10_work_that_is_to_end_early_can_ask(jobs: Jobs) -> None:
    job = jobs.begin("policy")
    job.require_going_on()
    jobs.close("the mount is ending")
    with pytest.raises(RefusedError, match="ending"):
        job.require_going_on()


def test_an_error_without_words_is_named_by_its_kind(jobs: Jobs) -> None:
    with pytest.raises(KeyError), jobs.job("policy") as job:
        raise KeyError
    assert job.error == "KeyError"


def test_once_closed_everything_is_cancelled_and_so_is_what_begins_later(jobs: Jobs) -> None:
    before = jobs.begin("flush")
    jobs.close("the mount is ending")
    after = jobs.begin("flush")
    assert before.cancelled == after.cancelled == "the mount is ending"
    jobs.check()


def test_a_job_in_the_wrong_place_is_seen(jobs: Jobs) -> None:
    job = jobs.begin("flush")
    job.end()
    with pytest.raises(AssertionError):
        jobs.check()
    jobs = Jobs(BLOCK, Clock())
    job = jobs.begin("flush")
    job.done = 1
    with pytest.raises(AssertionError):
        jobs.check()
