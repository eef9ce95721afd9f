"""``fusecache simulate`` from the outside: what it makes of words, and what it answers to nonsense."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusecache import cli
from fusecache.config import PolicyChoice
from fusecache.errors import FusecacheError, InvalidError
from fusecache.simulator import runner
from fusecache.simulator.result import Result
from fusecache.simulator.rules import Rules
from fusecache.simulator.runner import Job, run_jobs
from fusecache.simulator.study import CacheSize, Contender, parse_contenders, resolve_sizes
from fusecache.simulator.trace import Trace, read_trace

PROGRAM = [sys.executable, "-c", "from fusecache.cli import main; main()"]
HEADER = "t_us,op,offset,length\n"
BLOCK = 4096
TRACES = Path(__file__).parents[4] / "shared" / "traces"


def write_trace(path: Path, requests: int, blocks: int = 50) -> Path:
    rng = random.Random(3)
    lines = (
        f"{900 * i},{rng.choice('rw')},{BLOCK * int(rng.triangular(0, blocks, 0))},{BLOCK}\n" for i in range(requests)
    )
    path.write_text(HEADER + "".join(lines))
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "disk.csv", 3000)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the program in this process; return its exit code."""

    def run(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["fusecache", "simulate", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


@pytest.fixture
def answer(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """Run the program with --json; return what it answers."""

    def answer(*words: str | Path) -> list[dict[str, Any]]:
        assert run(*words, "--json") == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        objects: list[dict[str, Any]] = json.loads(captured.out)
        return objects

    return answer


def test_every_trace_size_and_policy_in_order_the_limits_last(
    answer: Callable[..., list[dict[str, Any]]], disk: Path, tmp_path: Path
) -> None:
    other = write_trace(tmp_path / "other.csv", 500)
    words = "--policy mq,random_threshold=1 --policy smq --block-size 4KiB --cache-size 10blocks --cache-size 100%"
    results = answer(disk, other, *words.split())
    policies = ["mq,random_threshold=1", "smq", "opt", "exact-lru"]
    assert [(each["trace"], each["policy"]) for each in results] == [
        (trace, policy) for trace in ("disk", "other") for _ in range(2) for policy in policies
    ]
    assert [each["cache_blocks"] for each in results[:8]] == [10] * 4 + [results[0]["unique_blocks"]] * 4
    for each in results:
        assert each["requests"] == (3000 if each["trace"] == "disk" else 500)
        assert each["block_size"] == BLOCK
        assert each["hit_ratio"] == each["hits"] / each["requests"]
    best = [each["hits"] for each in results if each["policy"] == "opt"]
    assert best == [max(each["hits"] for each in results[begin : begin + 4]) for begin in range(0, 16, 4)]


def test_tunables_make_a_difference(answer: Callable[..., list[dict[str, Any]]], disk: Path) -> None:
    tuned = "mq,read_promote_adjustment=900,write_promote_adjustment=900"
    words = f"--policy mq --policy {tuned} --block-size 4KiB --cache-size 9blocks"
    plain, reluctant, *_ = answer(disk, *words.split())
    assert plain["promotions"] > 0 == reluctant["promotions"]


def test_each_policy_is_played_as_mounts_do_unless_told(
    answer: Callable[..., list[dict[str, Any]]], disk: Path
) -> None:
    words = "--policy smq --policy mq --block-size 4KiB --cache-size 9blocks"
    told = {path: answer(disk, *words.split(), "--data-path", path) for path in ("copy", "fill", "absorb")}
    for path, results in told.items():
        assert [each["data_path"] for each in results] == [path] * 4
        for each in results:
            assert each["slow_ops"] == each["origin_reads"] + each["origin_writes"]
            assert each["slow_ops_per_1000"] == 1000 * each["slow_ops"] / each["requests"]
    untold = answer(disk, *words.split())
    assert [each | {"seconds": 0} for each in untold] == [
        each | {"seconds": 0} for each in told["fill"][:2] + told["absorb"][2:]
    ]
    copied, filled, absorbed = (sum(each["slow_ops"] for each in results) for results in told.values())
    assert copied > filled == absorbed  # it writes whole blocks


def test_the_disk_whose_time_is_modelled_can_be_chosen(answer: Callable[..., list[dict[str, Any]]], disk: Path) -> None:
    words = "--policy smq --block-size 4KiB --cache-size 9blocks"
    for name in ("hdd", "net"):
        for each in answer(disk, *words.split(), "--disk", name):
            assert each["disk"] == name
            assert each["modelled_seconds"] == each[f"{name}_seconds"] > 0
            assert each["hdd_seconds"] > each["net_seconds"]


def test_reading_ahead_and_the_dirty_age_make_a_difference(
    answer: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    path = tmp_path / "stream.csv"
    path.write_text(HEADER + "".join(f"{i},w,{BLOCK * (i % 7) * 2},512\n{i},r,{BLOCK * i},512\n" for i in range(2000)))
    words = "--policy exact-lru --block-size 4KiB --cache-size 100blocks"
    plain, ahead, young = (
        answer(path, *words.split(), *more)[0] for more in ((), ("--read-ahead", "8"), ("--dirty-age", "50"))
    )
    assert ahead["hits"] == plain["hits"]
    assert plain["read_ahead"] == 0 < ahead["read_ahead_used"] <= ahead["read_ahead"]
    assert 5 * ahead["origin_reads"] < plain["origin_reads"] == young["origin_reads"]
    assert young["origin_writes"] > plain["origin_writes"]


def test_g07_traces_of_one_name_are_told_apart(
    run: Callable[..., int],
    answer: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for directory in ("monday", "tuesday"):
        (tmp_path / directory).mkdir()
        write_trace(tmp_path / directory / "disk.csv", 300)
    words = "--policy exact-lru --block-size 4096 --cache-size 10blocks"
    files = "monday/disk.csv", "tuesday/disk.csv"
    results = answer(*files, *words.split())
    assert [(each["trace"], each["file"], each["policy"]) for each in results] == [
        (f"{directory}/disk.csv", f"{directory}/disk.csv", policy)
        for directory in ("monday", "tuesday")
        for policy in ("exact-lru", "opt")
    ]
    assert run(*files, *words.split()) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "different blocks" in line] == [
        *files
    ]


def test_g07_what_was_made_of_a_trace_is_said(
    run: Callable[..., int],
    answer: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "two.spc"
    path.write_text("".join(f"{i % 2},{8 * i},4096,R,{i}.5\n" for i in range(100)))
    options = "--policy exact-lru --block-size 4KiB --cache-size 10blocks"
    words = [path, *options.split()]
    both = answer(*words)[0]
    assert (both["format"], both["requests"], both["unique_blocks"]) == ("spc", 100, 100)
    assert both["notes"] == "2 devices side by side: 0, 1 (--device chooses)"
    one = answer(*words, "--device", "1", "--format", "spc")[0]
    assert (one["requests"], one["notes"]) == (50, "")
    assert run(*words) == 0
    assert capsys.readouterr().out.splitlines()[1] == both["notes"]
    assert run(*words, "--device", "2") == 1
    assert capsys.readouterr().err == f"fusecache: {path}: no device 2 in it, but 0, 1\n"


def test_what_is_asked_for_twice_is_done_once(answer: Callable[..., list[dict[str, Any]]], disk: Path) -> None:
    words = "--policy exact-lru --policy smq --policy smq --block-size 4096 --cache-size 40KiB --cache-size 10blocks"
    assert [each["policy"] for each in answer(disk, *words.split())] == ["exact-lru", "smq", "opt"]


def test_without_json_there_is_a_table(run: Callable[..., int], disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(disk, "--policy", "smq", "--block-size", "4KiB", "--cache-size", "40KiB") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("disk: 3,000 requests of blocks of 4KiB, 50 different blocks\n")
    assert [line.split()[0] for line in captured.out.splitlines()[-4:] if line.strip()] == ["40KiB", "opt", "exact-lru"]


def test_curves(run: Callable[..., int], disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = "--policy smq --block-size 4KiB --cache-size 1% --cache-size 50%"
    assert run(disk, *words.split(), "--plot", tmp_path / "curves.svg") == 0
    assert b"<svg" in (tmp_path / "curves.svg").read_bytes()


GOOD = {"--policy": "smq", "--block-size": "4KiB", "--cache-size": "10%"}


@pytest.mark.parametrize(
    ("option", "value", "code", "message"),
    [
        ("--policy", "nonsense", 1, "unknown policy 'nonsense'; known are: "),
        ("--policy", "", 2, "policy name '': must have 1 to 15 characters"),
        ("--policy", "mq,random_threshold", 2, "--policy: 'random_threshold' is not KEY=VALUE"),
        ("--policy", "mq,random_threshold=", 2, "--policy: 'random_threshold=' is not KEY=VALUE"),
        (
            "--policy",
            "mq,random_threshold=x",
            1,
            "random_threshold must be a whole number from 0 to 4294967295, not 'x'",
        ),
        ("--policy", "mq,random_threshold=4294967296", 1, "random_threshold must be a whole number from 0"),
        ("--policy", "mq,speed=1", 1, "policy mq has no tunable 'speed'"),
        ("--policy", "opt,speed=1", 1, "opt has no tunables"),
        ("--policy", "smq,migration_threshold=1", 1, "a simulation has no migration_threshold"),
        ("--block-size", "4KB", 2, "'4KB' is not a size"),
        ("--block-size", "1000", 2, "block size 1000: must be a multiple of 4096"),
        ("--block-size", "0", 2, "block size 0: must be a multiple of 4096"),
        ("--cache-size", "many", 2, "'many' is not a size"),
        ("--cache-size", "-5%", 2, "'-5%' is not a size"),
        ("--cache-size", "0", 2, "cache size '0' is less than one block"),
        ("--cache-size", "4095", 2, "cache size '4095' is less than one block"),
        ("--cache-size", "0%", 2, "cache size '0%' is less than one block"),
        ("--cache-size", "0blocks", 2, "cache size '0blocks' is less than one block"),
        ("--cache-size", "8EiB", 2, "'8EiB' is not a size"),
        ("--cache-size", "999999999999blocks", 1, "cache_blocks must be from 1 to 268435456, not 999999999999"),
        ("--cache-size", "99999999999999%", 1, "cache_blocks must be from 1 to 268435456"),
        ("--data-path", "dm-cache", 2, "--data-path 'dm-cache': must be copy, fill or absorb"),
        ("--dirty-age", "30m", 2, "--dirty-age '30m': must be a number of requests, of seconds (30s), or both"),
        ("--read-ahead", "1000", 2, "--read-ahead '1000': must be a number of blocks from 0 to 64"),
        ("--format", "xls", 2, "--format 'xls': must be one of csv, fio, blkparse, msr, alibaba, tencent, spc"),
        ("--format", "msr", 1, "{disk}:1: not a row of MSR Cambridge"),
        ("--device", "8,0", 1, "{disk}: traces of the format csv name no devices"),
        ("--disk", "floppy", 2, "--disk 'floppy': must be hdd or net"),
        ("--plot", "curves.pdf", 2, "--plot curves.pdf: the name must end in .png or .svg"),
        ("--plot", "/missing/curves.png", 1, "--plot /missing/curves.png: /missing is not a directory"),
    ],
)
def test_nonsense_is_refused_before_anything_is_simulated(
    run: Callable[..., int],
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(runner, "simulate", lambda *_, **__: pytest.fail("it was simulated"))
    words = [f"{name}={text}" for name, text in (GOOD | {option: value}).items()]
    assert run(disk, *words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"fusecache: {message.replace('{disk}', str(disk))}")
    assert captured.err.count("\n") == 1


def test_a_bad_trace_is_refused_before_a_good_one_is_simulated(
    run: Callable[..., int],
    disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "simulate", lambda *_, **__: pytest.fail("it was simulated"))
    bad = tmp_path / "bad.csv.gz"
    bad.write_bytes(gzip.compress((disk.read_text() + "1,r,0\n").encode()))
    assert run(disk, bad, *(f"{name}={text}" for name, text in GOOD.items())) == 1
    assert capsys.readouterr().err == f"fusecache: {bad}:3002: expected t_us,op,offset,length, found 3 fields\n"


def test_f19_long_requests_that_become_too_many_are_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "simulate", lambda *_, **__: pytest.fail("it was simulated"))
    wide = tmp_path / "wide.csv"
    wide.write_text(HEADER + "".join(f"{i},w,{i << 30},{1 << 30}\n" for i in range(65)))
    assert run(wide, *(f"{name}={text}" for name, text in GOOD.items())) == 1
    assert capsys.readouterr().err.startswith("fusecache: wide: 17039360 requests when cut into blocks of 4096 bytes")


def test_f19_more_requests_are_simulated_if_asked_for(
    run: Callable[..., int], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [disk, *(f"{name}={text}" for name, text in GOOD.items() if name != "--plot")]
    assert run(*words, "--most-requests", "2999") == 1
    assert "more than 2999 requests" in capsys.readouterr().err
    assert run(*words, "--most-requests", "3000") == 0


@pytest.mark.parametrize("left_out", [*GOOD, "TRACE"])
def test_nothing_has_a_default(
    run: Callable[..., int], disk: Path, capsys: pytest.CaptureFixture[str], left_out: str
) -> None:
    words = [f"{name}={text}" for name, text in GOOD.items() if name != left_out]
    assert run(*([] if left_out == "TRACE" else [disk]), *words) == 2
    assert left_out in capsys.readouterr().err


# Sizes


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("1blocks", 1),
        ("1block", 1),
        ("7 blocks", 7),
        ("10000", 2),
        ("1MiB", 256),
        ("25%", 8),
        ("0.001%", 1),
        ("200%", 60),
    ],
)
def test_sizes(tmp_path: Path, text: str, blocks: int) -> None:
    lines = (f"{i},r,{i * BLOCK},1\n" for i in range(30))
    path = tmp_path / "thirty"
    path.write_text(HEADER + "".join(lines))
    assert resolve_sizes([CacheSize.parse(text, BLOCK)], read_trace(path), BLOCK) == [blocks]


@pytest.mark.skipif(not TRACES.is_dir(), reason="the reference traces are not here")
@pytest.mark.parametrize("name", ["hplajw_week1992", "lirs_multi2", "lirs_sprite"])
def test_shares_are_those_of_the_reference(name: str) -> None:
    wanted: dict[int, set[int]] = {}
    with (TRACES / "reference.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["trace"] == name:
                wanted.setdefault(int(row["block_size"]), set()).add(int(row["cache_blocks"]))
    trace = read_trace(TRACES / f"{name}.csv.gz")
    for block_size, blocks in wanted.items():
        sizes = [CacheSize.parse(share, block_size) for share in ("1%", "5%", "10%", "20%")]
        assert set(resolve_sizes(sizes, trace, block_size)) == blocks


# Processes


def timeless(results: list[Result]) -> list[Result]:
    return [replace(result, seconds=0) for result in results]


@pytest.fixture
def trace(disk: Path) -> Trace:
    return read_trace(disk)


JOBS = [
    Job(contender, BLOCK, blocks, Rules()) for blocks in (5, 20) for contender in parse_contenders(["smq", "mq"], BLOCK)
]


def test_processes_side_by_side_give_the_same(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    alone: list[float] = []
    inside = run_jobs(trace, JOBS, alone.append)
    monkeypatch.setattr(runner, "_FEWEST_REQUESTS", 0)
    together: list[float] = []
    assert timeless(run_jobs(trace, JOBS, together.append)) == timeless(inside)
    for shares in (alone, together):
        assert shares == sorted(shares)
        assert shares[-1] == 1


@pytest.mark.parametrize("fewest", [0, 10**9], ids=["processes", "alone"])
def test_what_a_policy_refuses_is_an_error(trace: Trace, monkeypatch: pytest.MonkeyPatch, fewest: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(runner, "_FEWEST_REQUESTS", fewest)
    wrong = Job(Contender("nonsense", PolicyChoice("nonsense")), BLOCK, 5, Rules())
    with pytest.raises(InvalidError, match="unknown policy 'nonsense'"):
        run_jobs(trace, [*JOBS, wrong], lambda _: None)


def test_too_little_memory_is_an_error(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(*_: object, **__: object) -> Result:
        raise MemoryError

    monkeypatch.setattr(runner, "simulate", simulate)
    with pytest.raises(FusecacheError, match="not enough memory to simulate smq with 5 blocks"):
        run_jobs(trace, JOBS[:1], lambda _: None)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: one process")
def test_interrupting_ends_all_processes_quietly(tmp_path: Path) -> None:
    long = write_trace(tmp_path / "long.csv", 300_000, blocks=100_000)
    words = [
        *PROGRAM,
        "simulate",
        str(long),
        "--policy=smq",
        "--block-size=4KiB",
        "--cache-size=10%",
        "--cache-size=20%",
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True, text=True) as program:
        deadline = time.monotonic() + 60
        while len(processes := children(program.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(processes) >= 2
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=30)
    assert program.returncode not in {0, 2}
    assert "Traceback" not in errors
    deadline = time.monotonic() + 10
    while left := [process for process in processes if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
