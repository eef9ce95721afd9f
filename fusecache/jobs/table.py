"""The one table of long work: what runs, and what became of the last job of each kind."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fusecache.jobs.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Jobs:
    """The jobs of one volume.  Pure: time comes from ``clock``, in seconds.

    :ivar running: in the order in which they began.
    """

    __slots__ = ("_block_size", "_clock", "_closed", "_latest", "running")

    def __init__(self, block_size: int, clock: Callable[[], float]) -> None:
        self._block_size = block_size
        self._clock = clock
        self._closed = ""
        self._latest: dict[str, Job] = {}
        self.running: list[Job] = []

    def begin(self, name: str, detail: str = "", *, total: int = 0) -> Job:
        """Begin a job."""
        job = Job(name, detail, total, block_size=self._block_size, clock=self._clock)
        if self._closed:
            job.cancel(self._closed)
        self.running.append(job)
        self._latest[name] = job
        return job

    def end(self, job: Job) -> None:
        """End a job that runs."""
        job.end()
        self.running.remove(job)

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
        except BaseException as exc:
            job.fail(str(exc) or type(exc).__name__)
            raise
        finally:
            self.end(job)

    def latest(self, name: str) -> Job | None:
        """Return the job of a kind that began last, whether it still runs or has ended."""
        return self._latest.get(name)

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
        for name, job in self._latest.items():
            job.check()
            assert job.name == name, job
            assert (job.ended is None) == (job in self.running), job
