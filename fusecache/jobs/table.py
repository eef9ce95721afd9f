"""The one table of long work: what runs, and what became of the last job of each kind."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusecache.errors import FusecacheError
from fusecache.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Jobs:
    """The jobs of one volume.  Time comes from ``clock``, in seconds.

    :ivar running: in the order in which they began.
    :ivar outcomes: how the last one of each kind ended, by name.
    :ivar last_error: why the last thing that was asked for was refused or failed; empty if nothing has since.
    """

    __slots__ = ("_block_size", "_clock", "_closed", "last_error", "outcomes", "running")

    def __init__(self, block_size: int, clock: Callable[[], float]) -> None:
        self._block_size = block_size
        self._clock = clock
        self._closed = ""
        self.running: list[Job] = []
        self.outcomes: dict[str, str] = {}
        self.last_error = ""

    def begin(self, name: str, detail: str = "", *, total: int = 0) -> Job:
        """Begin a job."""
        job = Job(name, detail, total, block_size=self._block_size, clock=self._clock)
        if self._closed:
            job.cancel(self._closed)
        self.running.append(job)
        return job

    def end(self, job: Job) -> None:
        """End a job that runs."""
        job.end()
        self.running.remove(job)
        self.outcomes[job.name] = job.outcome
        if job.error:
            self.last_error = f"{job.title}: {job.error}"

    @contextmanager
    def job(self, name: str, detail: str = "", *, total: int = 0) -> Iterator[Job]:
        """Have a job run within this block; it fails with whatever is raised there."""
        with self.ending(self.begin(name, detail, total=total)) as job:
            yield job

    @contextmanager
    def ending(self, job: Job) -> Iterator[Job]:
        """End a job that has begun already at the end of this block; it fails with whatever is raised there."""
        try:
            yield job
        except FusecacheError as exc:
            job.fail(exc)
            raise
        except BaseException as exc:
            job.fail(FusecacheError(str(exc) or type(exc).__name__))
            raise
        finally:
            self.end(job)

    def close(self, reason: str) -> None:
        """Cancel all jobs that run, and whatever begins from now on."""
        self._closed = reason
        for job in self.running:
            job.cancel(reason)

    def __str__(self) -> str:
        """Say in one line what runs, and how far it is; nothing runs if that is empty."""
        return "; ".join(map(str, self.running))

    def check(self) -> None:
        """Assert that each job is where it belongs."""
        for job in self.running:
            job.check()
            assert job.ended is None, job
            assert job.cancelled or not self._closed, job
        assert all(self.outcomes.values()), self.outcomes
