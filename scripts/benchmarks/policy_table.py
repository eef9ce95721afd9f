"""Compare replacement policies on traces: hits and operations of the slow disk, beside what is possible (OPT).

Usage, in the repository, with the environment of ``scripts/setup``::

    PYTHONPATH=. .venv/bin/python scripts/benchmarks/policy_table.py DIRECTORY [--policies adaptive,s3fifo,tinylfu]
        [--shares 1,5,10,20] [--traces cp_w92,postmark] [--processes 2]

Plays every ``*.csv.gz`` of the directory: in blocks of 64 KiB, or of 4 KiB if no request is larger than that (then its
offsets are numbers of pages).  Caches have so many per cent of the blocks that the trace touches, at least one block.
Simulations run side by side, one process each; they are those of ``fusecache simulate``, and come out the
same each time.

Prints a table for each trace, hits in per cent of all block requests and, in brackets, operations per 1000; then for
each share the mean of hits / hits of OPT over the traces; then adaptive against the better of s3fifo and tinylfu in
operations, if all three were played: the mean, and the worst.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Final, NamedTuple

from fusecache.simulator import CacheSize, DataPath, Job, Rules, parse_contenders, read_trace, resolve_sizes

POLICIES: Final = "smq,lru,arc,twoq,s3fifo,tinylfu,adaptive"
LIMIT: Final = "opt"
OURS: Final = "adaptive"
RIVALS: Final = ("s3fifo", "tinylfu")
SHARES: Final = "1,5,10,20"
PAGE: Final = 4096
BLOCK: Final = 65536

Question = tuple[Path, str, float]
"""A trace, a policy, and the share of the cache in per cent."""


class Answer(NamedTuple):
    """What came of it."""

    trace: str
    block_size: int
    unique_blocks: int
    cache_blocks: int
    requests: int
    hits: int
    slow_ops: int


Answers = dict[Question, Answer]


_AS_IN_THE_KERNEL: Final = ("smq", "mq")
"""Operations of these are counted as dm-cache does its work."""


def play(question: Question) -> Answer:
    """Simulate."""
    path, policy, share = question
    trace = read_trace(path)
    block_size = PAGE if max(trace.lengths) <= PAGE else BLOCK
    contender = parse_contenders([policy], block_size)[0]
    (cache_blocks,) = resolve_sizes([CacheSize.parse(f"{share:g}%", block_size)], trace, block_size)
    rules = Rules(data_path=DataPath.COPY) if policy in _AS_IN_THE_KERNEL else Rules()
    result = Job(contender, block_size, cache_blocks, rules).run(trace, lambda _done: None)
    return Answer(
        result.trace, block_size, result.unique_blocks, cache_blocks, result.requests, result.hits, result.slow_ops
    )


def table(path: Path, answers: Answers, policies: list[str], shares: list[float]) -> str:
    """Return the table of one trace."""
    some = answers[path, LIMIT, shares[0]]
    lines = [f"{some.trace}, blocks of {some.block_size} bytes, {some.requests} requests, {some.unique_blocks} blocks"]
    lines.append("  ".join([f"{'cache':>14}", *(f"{policy:>13}" for policy in policies)]))
    for share in shares:
        row = [answers[path, policy, share] for policy in policies]
        cells = [f"{100 * one.hits / one.requests:6.2f} ({1000 * one.slow_ops / one.requests:4.0f})" for one in row]
        lines.append("  ".join([f"{share:4g} % {row[0].cache_blocks:7}", *(f"{cell:>13}" for cell in cells)]))
    return "\n".join(lines)


def means(paths: list[Path], answers: Answers, policies: list[str], shares: list[float]) -> str:
    """Return the table of means: hits of OPT's."""
    lines = [
        f"Hits of OPT's, mean of {len(paths)} traces",
        "  ".join([f"{'cache':>6}", *(f"{p:>8}" for p in policies)]),
    ]
    for share in shares:
        cells = [
            mean(answers[path, policy, share].hits / max(answers[path, LIMIT, share].hits, 1) for path in paths)
            for policy in policies
        ]
        lines.append("  ".join([f"{share:4g} %", *(f"{cell:8.4f}" for cell in cells)]))
    return "\n".join(lines)


def duel(paths: list[Path], answers: Answers, shares: list[float]) -> str:
    """Return how many operations the better of the rivals needs of ours, above 1 where ours is better."""
    ratios = [
        (
            min(answers[path, rival, share].slow_ops for rival in RIVALS) / answers[path, OURS, share].slow_ops,
            path,
            share,
        )
        for path in paths
        for share in shares
    ]
    worst, path, share = min(ratios)
    return (
        f"Operations of the better of {' and '.join(RIVALS)}, of {OURS}'s: mean {mean(r[0] for r in ratios):.3f}, "
        f"least {worst:.3f} ({path.name.removesuffix('.csv.gz')}, {share:g} %)"
    )


def main(arguments: list[str]) -> int:
    """Read the command line, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--policies", default=POLICIES)
    parser.add_argument("--shares", default=SHARES)
    parser.add_argument("--traces", default="")
    parser.add_argument("--processes", type=int, default=None)
    options = parser.parse_args(arguments)
    wanted = set(options.traces.split(",")) - {""}
    paths = sorted(options.directory.glob("*.csv.gz"))
    paths = [path for path in paths if not wanted or path.name.removesuffix(".csv.gz") in wanted]
    if not paths:
        parser.error(f"no such trace in {options.directory}")
    policies = list(dict.fromkeys([LIMIT, *options.policies.split(",")]))
    shares = [float(share) for share in options.shares.split(",")]
    questions: list[Question] = [(path, policy, share) for path in paths for policy in policies for share in shares]
    with ProcessPoolExecutor(options.processes) as pool:
        answers = dict(zip(questions, pool.map(play, questions), strict=True))
    for path in paths:
        print(table(path, answers, policies, shares), end="\n\n")
    print(means(paths, answers, policies, shares))
    if {OURS, *RIVALS} <= set(policies):
        print(duel(paths, answers, shares))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
