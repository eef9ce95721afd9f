"""Simulations side by side: one process a core.  Each has the trace, and is told only what to simulate.

Small studies run in this process: starting others takes longer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from fusecache.errors import FusecacheError, InvalidError
from fusecache.simulator.replay import simulate
from fusecache.simulator.result import Result
from fusecache.simulator.rules import Rules
from policies import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, MutableSequence, Sequence

    from fusecache.simulator.study import Contender
    from fusecache.simulator.trace import Trace

_FEWEST_REQUESTS: Final = 100_000
"""Other processes pay off from this many requests on, those of all simulations together."""
_POLL_SECONDS: Final = 0.1
_SAFE_PATH: Final = "PYTHONSAFEPATH"


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation of a trace."""

    contender: Contender
    block_size: int
    cache_blocks: int
    rules: Rules

    def run(self, trace: Trace, report: Callable[[float], None]) -> Result:
        """Simulate; ``report`` is told the share that is done.

        :raises FusecacheError: memory does not suffice, or the policy refuses the sizes.
        """
        try:
            result = simulate(
                trace,
                self.contender.choice.name,
                tunables=self.contender.choice.tunables,
                block_size=self.block_size,
                cache_blocks=self.cache_blocks,
                rules=self.rules,
                progress=lambda done, total: report(done / total),
            )
        except PolicyError as exc:
            raise InvalidError(str(exc)) from exc
        except MemoryError as exc:
            msg = f"not enough memory to simulate {self.contender.text} with {self.cache_blocks} blocks"
            raise FusecacheError(msg) from exc
        return replace(result, policy=self.contender.text)


def run_jobs(trace: Trace, jobs: Sequence[Job], report: Callable[[float], None]) -> list[Result]:
    """Run simulations of one trace; results come in the order of the jobs.

    :param report: is told now and then which share of all is done.
    :raises FusecacheError: a simulation failed, or its process was killed.
    """
    processes = min(len(jobs), len(os.sched_getaffinity(0)))
    if processes > 1 and len(trace) * len(jobs) >= _FEWEST_REQUESTS:
        return _run_side_by_side(trace, jobs, report, processes)

    def report_part(before: int, share: float) -> None:
        report((before + share) / len(jobs))

    results = []
    for index, job in enumerate(jobs):
        results.append(job.run(trace, partial(report_part, index)))
        report_part(index, 1)
    return results


def _run_side_by_side(
    trace: Trace, jobs: Sequence[Job], report: Callable[[float], None], processes: int
) -> list[Result]:
    # Not forked: what other threads of this process hold locked would stay locked in the copy.
    context = multiprocessing.get_context("spawn")
    shares = context.RawArray("d", len(jobs))
    others = set(multiprocessing.active_children())
    with _safe_path(), ProcessPoolExecutor(processes, context, _Worker.start, (trace, shares)) as pool:
        try:
            with _interrupts_held():
                futures = [pool.submit(_Worker.run, index, job) for index, job in enumerate(jobs)]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, _POLL_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                report(sum(shares) / len(jobs))
            return [future.result() for future in futures]
        except BrokenProcessPool as exc:
            msg = "a simulating process was killed; perhaps memory ran out"
            raise FusecacheError(msg) from exc
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


@contextmanager
def _safe_path() -> Iterator[None]:
    """Let Python processes that are started within this block import nothing from the current directory (-P)."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C from this process for now, and from the processes that it starts for good.

    Ctrl-C reaches all processes of a terminal, and this one ends those that it started.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class _Worker:
    """What a simulating process knows."""

    trace: ClassVar[Trace]
    shares: ClassVar[MutableSequence[float]]

    @classmethod
    def start(cls, trace: Trace, shares: MutableSequence[float]) -> None:
        cls.trace = trace
        cls.shares = shares

    @classmethod
    def run(cls, index: int, job: Job) -> Result:
        result = job.run(cls.trace, partial(cls.shares.__setitem__, index))
        cls.shares[index] = 1
        return result
