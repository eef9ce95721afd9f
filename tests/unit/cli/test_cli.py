"""The command line from the outside: what it makes of words, and what it answers to nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fusecache import __version__, cli, daemon
from fusecache.client.client import Client, _status_rows
from fusecache.config import DirtyAge, DirtyLimit, Mode, MountConfig, PageCache, PolicyChoice
from fusecache.errors import FusecacheError, RefusedError, UsageError
from tests.unit.control.statuses import make_status

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = "0 2048 cache m c o 128 1 writethrough mq 2 random_threshold 8"
PROGRAM = [sys.executable, "-c", "from fusecache.cli import main; main()"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[MountConfig]:
    """What was to be mounted."""
    started: list[MountConfig] = []
    monkeypatch.setattr(daemon, "start", started.append)
    return started


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the program in this process; return its exit code."""

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fusecache", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return run


def test_the_least_mount(run: Callable[..., int], started: list[MountConfig]) -> None:
    assert run("mount", "disk.img", "/mnt") == 0
    assert started == [MountConfig(origin="disk.img", mountpoint=Path("/mnt"))]


def test_g04_mount_may_be_left_out_as_mount_8_does(run: Callable[..., int], started: list[MountConfig]) -> None:
    assert run("/nfs/disk.img", "/mnt", "-o", "rw,dev,nofail,cache=/ssd/c,cache_size=1GiB") == 0
    assert (
        run("./disk.img", "mnt", "--cache", "d", "--cache-size", "1", "-o", "cache=/ssd/c,cache_size=2,metadata=m") == 0
    )
    first = MountConfig(
        origin="/nfs/disk.img", mountpoint=Path("/mnt"), cache=Path("/ssd/c"), cache_size=1024**3, fuse_options=("dev",)
    )
    second = MountConfig(origin="./disk.img", mountpoint=Path("mnt"), cache=Path("d"), cache_size=1, metadata=Path("m"))
    assert started == [first, second]


def test_every_option_of_mount(run: Callable[..., int], started: list[MountConfig]) -> None:
    words = (
        "mount disk.img /mnt --cache c --cache-size 1GiB --metadata m --block-size 64K --mode passthrough "
        "--policy mq,Random_Threshold=8,migration_threshold=0 -o allow_other,max_read=4096 -o ro --foreground "
        "--format --format --raw --page-cache image --dirty-age 60s --dirty-limit 2GiB --read-ahead 8MiB --no-gate "
        "--no-discard-passdown"
    )
    assert run(*words.split()) == 0
    assert started == [
        MountConfig(
            origin="disk.img",
            mountpoint=Path("/mnt"),
            cache=Path("c"),
            cache_size=1024**3,
            metadata=Path("m"),
            block_size=65536,
            mode=Mode.PASSTHROUGH,
            policy=PolicyChoice("mq", (("random_threshold", "8"),), 0),
            fuse_options=("allow_other", "max_read=4096"),
            read_only=True,
            raw=True,
            page_cache=PageCache.IMAGE,
            dirty_age=DirtyAge(60, 0),
            dirty_limit=DirtyLimit(size=2 * 1024**3),
            read_ahead=8 * 1024**2,
            gate=False,
            discard_passdown=False,
            foreground=True,
            format=2,
        )
    ]


def test_mount_by_table(run: Callable[..., int], started: list[MountConfig]) -> None:
    assert run("mount", "--table", TABLE, "/mnt", "-o", "ro", "--page-cache", "none", "--foreground", "--format") == 0
    (config,) = started
    assert (config.origin, config.mountpoint, config.image_size) == ("o", Path("/mnt"), 2048 * 512)
    assert config.mode is Mode.WRITETHROUGH
    assert config.policy == PolicyChoice("mq", (("random_threshold", "8"),))
    assert (config.read_only, config.fuse_options, config.foreground, config.format) == (True, (), True, 1)
    assert config.page_cache is PageCache.NONE
    assert config.read_ahead is None
    assert config.gate


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["mount", "o"], "ORIGIN and MOUNTPOINT"),
        (["mount", "o", "m", "more"], "not 3 arguments"),
        (["mount", "o", "m", "--block-size", "1000"], "block size 1000"),
        (["mount", "o", "m", "--block-size", "2KiB"], "block size 2048"),
        (["mount", "o", "m", "--cache-size", "big"], "'big' is not a size"),
        (["mount", "o", "m", "--mode", "writearound"], "unknown mode 'writearound'"),
        (["mount", "o", "m", "--page-cache", "both"], "unknown page cache 'both': stores, image or none"),
        (["mount", "o", "m", "--read-ahead", "far"], "read-ahead 'far': auto, off or a size"),
        (["mount", "o", "m", "--policy", ""], "policy name ''"),
        (["mount", "o", "m", "--policy", "abcdefghijklmnop"], "1 to 15 characters"),
        (["mount", "o", "m", "--policy", "mq,random_threshold"], "'random_threshold' is not KEY=VALUE"),
        (["mount", "o", "m", "--policy", "mq,=1"], "is not KEY=VALUE"),
        (["mount", "o", "m", "--policy", "mq,a="], "is not KEY=VALUE"),
        (["mount", "o", "m", "--dirty-age", "long"], "a dirty age is 30s"),
        (["mount", "o", "m", "--dirty-limit", "all"], "a dirty limit is a share"),
        (["mount", "--table", TABLE, "m", "--dirty-age", "0"], "--dirty-age and --table"),
        (["mount", "--table", TABLE], "Missing argument"),
        (["mount", "--table", TABLE, "o", "m"], "mount takes MOUNTPOINT, not 2"),
        (["mount", "--table", TABLE, "m", "--policy", "smq"], "--policy and --table"),
        (["mount", "--table", TABLE, "m", "--cache-size", "1G"], "--cache-size and --table"),
        (["mount", "--table", "0 1 cache", "m"], "table: it ends"),
        (["mount", "o", "m", "--colour"], "No such option"),
        (["mount"], "Missing argument"),
        (["status"], "Missing argument"),
        (["set", "m", "key"], "Missing argument"),
        (["message", "m"], "Missing argument"),
        (["flush", "m", "n"], "unexpected extra argument"),
        (["nonsense"], "No such command"),
    ],
)
def test_bad_usage_is_exit_code_2_and_no_traceback(
    run: Callable[..., int],
    started: list[MountConfig],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    complaint: str,
) -> None:
    assert run(*words) == 2
    told = capsys.readouterr()
    assert complaint in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
    assert started == []


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("no such thing"), 2), (RefusedError("not now"), 1), (FusecacheError("broken"), 1)]
)
def test_errors_are_one_line_and_an_exit_code(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: FusecacheError,
    code: int,
) -> None:
    def start(_config: MountConfig) -> None:
        raise error

    monkeypatch.setattr(daemon, "start", start)
    assert run("mount", "o", "m") == code
    assert capsys.readouterr() == ("", f"fusecache: {error}\n")


@pytest.mark.parametrize(
    ("words", "method", "arguments"),
    [
        (["status", "/m"], "show_status", {"as_json": False}),
        (["status", "/m", "--json"], "show_status", {"as_json": True}),
        (["set", "/m", "policy.a", "-1"], "set_value", ("policy.a", "-1")),
        (["message", "/m", "invalidate_cblocks", "0-3", "-7"], "send_message", (["invalidate_cblocks", "0-3", "-7"],)),
        (["flush", "/m"], "flush", ()),
        (["decommission", "/m"], "decommission", ()),
        (["unmount", "/m"], "unmount", ()),
    ],
)
def test_commands_reach_the_client(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    method: str,
    arguments: object,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(
        Client, method, lambda client, *args, **kwargs: calls.append((client._mountpoint, kwargs or args))
    )
    assert run(*words) == 0
    assert calls == [(Path("/m"), arguments)]


def test_commands_on_what_is_no_mount(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["status"], ["flush"], ["decommission"], ["unmount"]):
        assert run(*words, str(tmp_path)) == 1
        assert capsys.readouterr() == ("", f"fusecache: {tmp_path} is not a fusecache mount\n")


def test_version(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"fusecache {__version__}\n"


HEAVY = {"asyncio", "concurrent.futures", "pydantic", "pyfuse3", "rich", "sqlite3", "structlog", "trio"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["mount", "--help"], 0),
        (["--version"], 0),
        (["status", "/"], 1),
        (["status", "--json", "/"], 1),
        (["set", "/", "mode", "writeback"], 1),
        (["message", "/", "flush"], 1),
        (["unmount", "/"], 1),
        (["mount", "/nowhere", "/", "--cache-size", "none"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_loads_nothing_heavy(words: list[str], code: int) -> None:
    """What costs time is what is imported; that can be held without a clock."""
    assert run_and_list_modules(words) == (code, "loaded: []")


def test_a_mount_loads_nothing_heavy_before_the_fork(tmp_path: Path) -> None:
    words = ["mount", str(tmp_path / "origin"), str(tmp_path / "none"), "--metadata", str(tmp_path / "metadata")]
    assert run_and_list_modules(words) == (1, "loaded: []")


def run_and_list_modules(words: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code, and what the process that was started has loaded of what is heavy."""
    program = (
        f"import sys, atexit; from fusecache.cli import main; heavy = {HEAVY};"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules)))); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout.splitlines()[-1]


def test_the_program_ends_with_the_code(tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, "unmount", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"fusecache: {tmp_path} is not a fusecache mount\n"


def run_with(streams: str, *words: str) -> tuple[int, str]:
    """Run the program by a shell, with its streams redirected so; returns the exit code and what stderr said."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *PROGRAM, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["status", "--help"], ["--version"], ["metadata-size", "--nr-blocks=9"]])
def test_g04_an_answer_that_nothing_takes_is_one_line(words: list[str]) -> None:
    """G04: that was a traceback of forty lines."""
    code, told = run_with(">/dev/full", *words)
    assert code == 1
    assert told.startswith("fusecache: ")
    assert told.endswith("No space left on device\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_g04_closed_streams_are_no_reason_to_fail(streams: str, tmp_path: Path) -> None:
    assert run_with(streams, "metadata-size", "--nr-blocks=9") == (0, "")
    code, told = run_with(streams, "unmount", str(tmp_path))
    assert code == 1
    assert told in {"", f"fusecache: {tmp_path} is not a fusecache mount\n"}


def test_g04_what_is_opened_later_is_not_taken_for_a_closed_stream(tmp_path: Path) -> None:
    """G04: the first file that was opened got the number of stdout, and what was printed went into it."""
    target = tmp_path / "file"
    program = (
        "from fusecache.lines import have_standard_streams, say, complain; have_standard_streams();"
        f"file = open({str(target)!r}, 'w'); say('answer'); complain('error'); assert file.fileno() > 2"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program], check=False, timeout=60
    )
    assert (done.returncode, target.read_text()) == (0, "")


def test_g04_who_reads_no_further_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", *PROGRAM, "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""


def test_g09_the_help_of_status_explains_each_row(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    rows = _status_rows(json.loads(make_status().as_json()))
    assert rows["log"] == "/fast/disk.metadata.log"
    assert run("status", "--help") == 0
    _, _, told = capsys.readouterr().out.partition("What the rows say:\n")
    assert [line[2:16].rstrip() for line in told.splitlines()] == list(rows)
    assert all(len(line) <= 100 and len(line.split()) > 3 for line in told.splitlines())


def test_g09_umount_is_unmount(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("umount", str(tmp_path)) == 1
    assert capsys.readouterr().err == f"fusecache: {tmp_path} is not a fusecache mount\n"
    assert run("--help") == 0
    assert " umount" not in capsys.readouterr().out
