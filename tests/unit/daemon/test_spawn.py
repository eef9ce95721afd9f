"""The fork and what the two sides tell each other, with real forks of something that does not serve at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from fusecache.config import MountConfig
from fusecache.daemon import spawn as daemon
from fusecache.errors import BusyError, FusecacheError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Children:
    """What was forked here; other tests leave processes that never end, such as multiprocessing's resource tracker."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def reap(self) -> int:
        """Wait for the oldest that was not waited for; returns its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pids.pop(0), 0)[1])


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[Children]:
    """The daemons of a test; they are reaped when it is over."""
    children = Children()
    fork = os.fork

    def remember() -> int:
        pid = fork()
        if pid:
            children.pids.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", remember)
    yield children
    while children.pids:
        with suppress(ChildProcessError):
            children.reap()


@pytest.fixture
def config(tmp_path: Path) -> MountConfig:
    return MountConfig(origin="disk.img", mountpoint=Path("mnt"), metadata=tmp_path / "meta")


def log_of(config: MountConfig) -> str:
    return Path(f"{config.metadata}.log").read_text()


def test_foreground_serves_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    served: list[MountConfig] = []

    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        served.append(config)
        on_ready(["made the cache", "made the metadata"])

    daemon.start(MountConfig(origin="o", mountpoint=Path("/m"), foreground=True), lambda: serve)
    assert capsys.readouterr().out == "made the cache\nmade the metadata\n"
    assert [config.origin for config in served] == [str(Path.cwd() / "o")]


def test_background_returns_when_ready_and_the_child_serves_on(
    config: MountConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], children: Children
) -> None:
    go_on, told = tmp_path / "go on", tmp_path / "told"
    os.mkfifo(go_on)
    os.mkfifo(told)

    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        on_ready(["ready: ünïcode"])
        go_on.read_text()
        sys.stdout.write("to stdout\n")
        facts = [
            os.getsid(0) == os.getpid(),
            f"{Path.cwd()}",
            f"{Path('/proc/self/fd/0').readlink()}",
            sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
        ]
        told.write_text(f"{facts}")

    daemon.start(config, lambda: serve)
    assert capsys.readouterr().out == "ready: ünïcode\n"
    go_on.write_text("")
    # The last of the open files is the listing itself.
    assert told.read_text() == "[True, '/', '/dev/null', [0, 1, 2, 3]]"
    children.reap()
    assert log_of(config) == "to stdout\n"


def test_the_child_sees_absolute_paths(config: MountConfig, capsys: pytest.CaptureFixture[str]) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        on_ready([config.origin, str(config.mountpoint), str(config.cache)])

    daemon.start(config, lambda: serve)
    assert capsys.readouterr().out.splitlines() == [str(Path.cwd() / "disk.img"), str(Path.cwd() / "mnt"), "None"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (UsageError("makes no sense"), UsageError),
        (FusecacheError("refused"), FusecacheError),
        (BusyError("somebody has it"), FusecacheError),
    ],
)
def test_what_the_child_refuses_the_parent_raises(
    config: MountConfig, raised: FusecacheError, expected: type[FusecacheError]
) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        raise raised

    with pytest.raises(FusecacheError) as caught:
        daemon.start(config, lambda: serve)
    assert type(caught.value) is expected
    assert str(caught.value) == str(raised)
    assert not Path(f"{config.metadata}.log").exists()


def test_a_log_that_says_something_is_kept(config: MountConfig) -> None:
    Path(f"{config.metadata}.log").write_text("an earlier mount's\n")

    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        msg = "refused"
        raise FusecacheError(msg)

    with pytest.raises(FusecacheError, match="refused"):
        daemon.start(config, lambda: serve)
    assert log_of(config) == "an earlier mount's\n"


def test_a_child_that_dies_is_named_with_its_log(config: MountConfig) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        msg = "a bug"
        raise ValueError(msg)

    with pytest.raises(FusecacheError, match=r"died before the image was ready.*meta\.log"):
        daemon.start(config, lambda: serve)
    assert "ValueError: a bug" in log_of(config)


def test_a_child_that_is_killed_is_no_hang(config: MountConfig) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(FusecacheError, match="died"):
        daemon.start(config, lambda: serve)


def test_errors_after_ready_go_to_the_log_and_the_exit_code(config: MountConfig, children: Children) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        on_ready([])
        msg = "could not write the metadata"
        raise FusecacheError(msg)

    daemon.start(config, lambda: serve)
    assert children.reap() == 1
    assert log_of(config) == "fusecache: could not write the metadata\n"


def test_the_log_is_appended_to_and_has_log_events(config: MountConfig, children: Children) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        structlog.get_logger().info("promote", oblock=7)
        structlog.get_logger().debug("unseen")
        on_ready([])

    for _ in range(2):
        daemon.start(config, lambda: serve)
        children.reap()
    lines = log_of(config).splitlines()
    assert len(lines) == 2
    assert all("promote" in line and "oblock=7" in line and "\x1b" not in line for line in lines)


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    config = MountConfig(origin="o", mountpoint=Path("m"), metadata=tmp_path / "nowhere" / "meta")
    with pytest.raises(FusecacheError, match=r"cannot open the log .*: there is no directory .*nowhere; is its"):
        daemon.start(config)


def test_the_default_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, children: Children) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "a"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        on_ready([])

    daemon.start(MountConfig(origin="o", mountpoint=Path("m")), lambda: serve)
    children.reap()
    assert [path.suffix for path in (tmp_path / "a" / "fusecache").iterdir()] == [".log"]


def test_interrupting_the_parent_ends_the_child(config: MountConfig, tmp_path: Path, children: Children) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    interrupted = threading.Event()

    def raise_once(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        begun.write_text("")
        signal.pause()

    def interrupt() -> None:
        begun.read_text()
        while not interrupted.is_set():  # a signal that comes just before the parent reads does not end its reading
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.wait(0.1)

    before = signal.signal(signal.SIGINT, raise_once)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            daemon.start(config, lambda: serve)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert children.pids
    with pytest.raises(ChildProcessError):
        children.reap()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_f20_whoever_ends_the_parent_ends_the_child(tmp_path: Path, number: signal.Signals) -> None:
    """With the default actions of a real command; the child would serve for ever."""
    begun = tmp_path / "begun"
    with waiting_parent(tmp_path, f"Path({str(begun)!r}).write_text(str(os.getpid()))\n    signal.pause()") as parent:
        child = int(eventually_read(begun))
        parent.send_signal(number)
        parent.wait(10)
    assert parent.returncode == -number  # Python ends so by SIGINT, too
    assert not is_running(child)


def test_f20_a_child_whose_parent_was_killed_ends_when_it_is_ready(tmp_path: Path) -> None:
    begun, go_on, ended = (tmp_path / name for name in ("begun", "go on", "ended"))
    os.mkfifo(go_on)
    program = f"""signal.signal(signal.SIGTERM, lambda *_: Path({str(ended)!r}).write_text("by SIGTERM"))
    Path({str(begun)!r}).write_text(str(os.getpid()))
    Path({str(go_on)!r}).read_text()
    on_ready([])
    time.sleep(0.1)"""
    with waiting_parent(tmp_path, program) as parent:
        child = int(eventually_read(begun))
        parent.kill()
        parent.wait(10)
        go_on.write_text("")
        assert eventually_read(ended) == "by SIGTERM"
        deadline = time.monotonic() + 10
        while is_running(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(child)


@pytest.mark.parametrize(
    "number", ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "PIPE", "IO", "PWR", "TTOU", "RTMIN"]
)
def test_f09_signals_that_mean_nothing_to_a_disk_do_not_end_it(
    config: MountConfig, children: Children, number: str
) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        os.kill(os.getpid(), signal.Signals[f"SIG{number}"])
        on_ready([])
        time.sleep(0.05)
        sys.stderr.write("still here\n")

    daemon.start(config, lambda: serve)
    assert children.reap() == 0
    assert log_of(config) == "still here\n"


def test_f09_a_hang_up_begins_the_log_anew(config: MountConfig, children: Children) -> None:
    path = Path(f"{config.metadata}.log")

    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        path.rename(f"{path}.1")
        os.kill(os.getpid(), signal.SIGHUP)
        on_ready([])
        sys.stderr.write("into the new one\n")

    daemon.start(config, lambda: serve)
    assert children.reap() == 0
    assert path.read_text() == "into the new one\n"


def test_f08_a_log_that_cannot_be_written_ends_nothing(config: MountConfig, children: Children) -> None:
    def serve(config: MountConfig, on_ready: Callable[[list[str]], None]) -> None:
        on_ready([])
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 1)
        os.dup2(full, 2)
        path = Path(f"{config.metadata}.log")
        path.unlink()
        path.mkdir()
        structlog.get_logger().error("nobody will read this")
        sys.stdout.write("nor this\n")
        sys.stderr.flush()
        path.rmdir()

    daemon.start(config, lambda: serve)
    assert children.reap() == 0


def test_f08_notes_that_nobody_reads_are_no_reason_not_to_mount(tmp_path: Path) -> None:
    with waiting_parent(tmp_path, "on_ready(['a note'])", stdout=subprocess.PIPE, go=tmp_path / "go") as parent:
        assert parent.stdout is not None
        parent.stdout.close()
        (tmp_path / "go").write_text("")
        parent.wait(10)
    assert parent.returncode == 0


def eventually_read(path: Path) -> str:
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def waiting_parent(
    tmp_path: Path, serve: str, *, stdout: int = subprocess.DEVNULL, go: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run what starts a daemon, as a process of its own; ``serve`` is what the daemon does."""
    program = f"""
import os, signal, time
from pathlib import Path
from fusecache.daemon import spawn as daemon
from fusecache.config import MountConfig
def serve(config, on_ready):
    {serve}
while {str(go)!r} != "None" and not os.path.exists({str(go)!r}):
    time.sleep(0.01)
config = MountConfig(origin="o", mountpoint=Path("m"), metadata=Path({str(tmp_path / "meta")!r}))
daemon.start(config, lambda: serve)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=stdout, stderr=subprocess.DEVNULL) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def test_the_daemon_outlives_its_terminal(tmp_path: Path) -> None:
    """A shell on a terminal of its own mounts and leaves; the hang-up does not reach the daemon."""
    alive = tmp_path / "alive"
    program = f"""
import time
from pathlib import Path
from fusecache.daemon import spawn as daemon
from fusecache.config import MountConfig
def serve(config, on_ready):
    on_ready([])
    time.sleep(0.3)
    Path({str(alive)!r}).write_text("served on")
config = MountConfig(origin="o", mountpoint=Path("m"), metadata=Path({str(tmp_path / "meta")!r}))
daemon.start(config, lambda: serve)
"""
    controller, terminal = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    os.close(terminal)
    os.close(controller)
    assert done.returncode == 0
    deadline = time.monotonic() + 20
    while not alive.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive.read_text() == "served on"


def test_g04_who_names_the_image_means_its_mountpoint(tmp_path: Path) -> None:
    config = MountConfig(origin="/o", mountpoint=tmp_path / "image")
    assert daemon.absolute(config).mountpoint == tmp_path
    (tmp_path / "image").mkdir()
    assert daemon.absolute(config).mountpoint == tmp_path / "image"
