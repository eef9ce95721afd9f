"""The client against attributes that are not a mount's, and against programs that unmount nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fusecache.client import holders, unmounting
from fusecache.client.attributes import ImageAttributes
from fusecache.client.client import Client
from fusecache.errors import BusyError, FusecacheError, RefusedError
from fusecache.linux.mounts import Mounted
from fusecache.metadata import Database, Identity, Superblock, Transaction
from tests.unit.control.statuses import make_status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fusecache.client.attributes import Attributes

MNT = Path("/mnt/disk")


class FakeAttributes:
    """Attributes in a dict; each look at the statistics goes one step on in ``history``, and stays at its end.

    :ivar reports: what is said of the request, one after the other; the last one again and again.
    """

    def __init__(self, *history: dict[str, Any], reports: tuple[str, ...] = ("done 0 0 it",)) -> None:
        self.history = [json.loads(make_status(pid=os.getpid()).as_json()) | changes for changes in history or ({},)]
        self.values = {"policy": "mq", "error": ""}
        self.reports = list(reports)
        self.ticket = ""
        self.told: list[str] = []
        self.refuse: Callable[[str, str], None] = lambda _name, _value: None

    def get(self, name: str) -> str:
        if name == "stats":
            now = self.history[0]
            if len(self.history) > 1:
                del self.history[0]
            return json.dumps(now)
        if name == f"request.{self.ticket}" and self.reports:
            return self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]
        if name not in self.values:
            raise OSError(errno.ENODATA, "No data available")
        return self.values[name]

    def set(self, name: str, value: str) -> None:
        assert name == "request"
        self.ticket, setting = value.split(" ", 1)
        self.told.append(setting)
        self.refuse(name, value)


class NoAttributes:
    """What answers everything with one errno."""

    def __init__(self, code: int) -> None:
        self.code = code

    def get(self, name: str) -> str:
        raise OSError(self.code, os.strerror(self.code))

    def set(self, name: str, value: str) -> None:
        raise OSError(self.code, os.strerror(self.code))


def make_client(attributes: Attributes, mountpoint: Path = MNT) -> Client:
    return Client(mountpoint, attributes, poll_seconds=0.001)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


# Status


def test_status_as_json_is_what_the_mount_said(capsys: pytest.CaptureFixture[str]) -> None:
    attributes = FakeAttributes({"origin": "/a path [bold] with 'quotes' " + "and much length " * 30})
    make_client(attributes).show_status(as_json=True)
    assert capsys.readouterr().out == json.dumps(attributes.history[0]) + "\n"


def test_status_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    make_client(FakeAttributes({})).show_status(as_json=False)
    lines = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert {
        "image /mnt/disk/image, 10GiB",
        "used 70.0% (700 blocks, 43.8MiB)",
        "dirty 3.0% (30 blocks, 1.9MiB), 2 of them suspect since a crash",
        "read hits 47.8% (11 hits, 12 misses)",
        "mode writeback",
        "policy mq random_threshold=4 sequential_threshold=512",
        "threshold 1MiB",
        "job none",
        f"up 1:01:01, pid {os.getpid()}, fusecache 0.1.0",
    } <= lines


def test_long_work_shows_in_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    make_client(FakeAttributes({"job": "flush 120/4000 blocks, 12MiB/s"})).show_status(as_json=False)
    assert "flush 120/4000 blocks, 12MiB/s" in capsys.readouterr().out


def test_status_of_a_cache_that_was_never_used(capsys: pytest.CaptureFixture[str]) -> None:
    make_client(FakeAttributes({"read_hits": 0, "read_misses": 0})).show_status(as_json=False)
    assert "- (0 hits, 0 misses)" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "nonsense", "[" * 50_000])
def test_f19_a_file_that_only_looks_like_an_image_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    attributes = FakeAttributes({})
    monkeypatch.setattr(attributes, "get", lambda _name: text)
    with pytest.raises(RefusedError, match="/mnt/disk does not answer as this version of fusecache does"):
        make_client(attributes).show_status(as_json=False)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (errno.ENODATA, "/mnt/disk is not a fusecache mount"),
        (errno.ENOTSUP, "/mnt/disk is not a fusecache mount"),
        (errno.ENOENT, "/mnt/disk is not a fusecache mount"),
        (errno.ENOTDIR, "/mnt/disk is not a fusecache mount"),
        (errno.ENOTCONN, "umount.*/mnt/disk"),
        (errno.EACCES, "/mnt/disk: Permission denied"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        lambda c: c.show_status(as_json=True),
        lambda c: c.set_value("policy", "smq"),
        lambda c: c.send_message(["a", "1"]),
        Client.flush,
        Client.decommission,
        Client.unmount,
    ],
)
def test_every_command_says_what_is_not_there(command: Callable[[Client], None], code: int, complaint: str) -> None:
    with pytest.raises(RefusedError, match=complaint):
        command(make_client(NoAttributes(code)))


def test_a_plain_directory_is_no_mount(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not a fusecache mount"):
        Client(tmp_path).stats()
    (tmp_path / "image").touch()
    with pytest.raises(RefusedError, match="not a fusecache mount"):
        Client(tmp_path).stats()


# Setting and messages


def test_setting_passes_key_and_value_on() -> None:
    attributes = FakeAttributes()
    make_client(attributes).set_value("policy.random_threshold", "-4")
    assert attributes.told == ["policy.random_threshold -4"]


@pytest.mark.parametrize(
    ("code", "key", "error", "complaint"),
    [
        (errno.EINVAL, "policy", RefusedError, "in the daemon's words"),
        (errno.EPERM, "status", RefusedError, "in the daemon's words"),
        (errno.EBUSY, "policy", BusyError, "in the daemon's words"),
        (errno.EIO, "mode", RefusedError, "in the daemon's words"),
        (errno.ENOSPC, "mode", FusecacheError, "mode x: No space left"),
        (errno.ENOTCONN, "mode", RefusedError, "has died"),
    ],
)
def test_refused_settings(code: int, key: str, error: type[FusecacheError], complaint: str) -> None:
    def refuse(_name: str, _value: str) -> None:
        raise OSError(code, os.strerror(code))

    attributes = FakeAttributes({"mode": "writethrough"}, reports=("failed 0 0 in the daemon's words",))
    attributes.values["error"] = "what somebody else was told"
    attributes.refuse = refuse
    with pytest.raises(error, match=complaint) as caught:
        make_client(attributes).set_value(key, "x")
    assert "\n" not in str(caught.value)


def test_a_refusal_of_which_nothing_is_known() -> None:
    def refuse(_name: str, _value: str) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    attributes = FakeAttributes(reports=())
    attributes.refuse = refuse
    with pytest.raises(RefusedError, match="a b: Invalid argument"):
        make_client(attributes).send_message(["a", "b"])


def test_f10_a_change_is_followed_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    reports = ("running 0 30 it", "running 8 30 it", "running 29 30 it", "done 30 30 it")
    attributes = FakeAttributes({"dirty_blocks": 30}, reports=reports)
    make_client(attributes).set_value("mode", "writethrough")
    assert attributes.told == ["mode writethrough"]
    assert attributes.reports == ["done 30 30 it"]
    assert capsys.readouterr().out == "writing back 30 blocks (1.9MiB)\n"


def test_f10_a_change_that_fails_later_is_told_in_the_daemons_words() -> None:
    attributes = FakeAttributes({}, reports=("running 0 30 it", "failed 30 30 1 blocks could not be written: dead"))
    with pytest.raises(RefusedError, match=r"^mode passthrough: 1 blocks could not be written: dead; .*log") as caught:
        make_client(attributes).set_value("mode", "passthrough")
    assert "\n" not in str(caught.value)


def test_f10_what_waits_for_others_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    attributes = FakeAttributes({"job": "mode writethrough 3/30 blocks"}, reports=("waiting 0 0 it", "done 8 8 it"))
    make_client(attributes).set_value("policy", "mq")
    assert capsys.readouterr().out == "waiting for what was asked before: mode writethrough 3/30 blocks\n"


def test_f10_an_interrupt_leaves_the_work_running_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    attributes = FakeAttributes({}, reports=("running 0 30 it",))
    monkeypatch.setattr("time.sleep", interrupt)
    with pytest.raises(FusecacheError, match=r"it goes on: mode writethrough; `fusecache status /mnt/disk`"):
        make_client(attributes).set_value("mode", "writethrough")
    assert attributes.told == ["mode writethrough"], "nothing is taken back"


def test_f10_two_clients_have_two_tickets() -> None:
    tickets = set()
    for _ in range(2):
        attributes = FakeAttributes()
        make_client(attributes).set_value("mode", "writethrough")
        tickets.add(attributes.ticket)
    assert len(tickets) == 2


@pytest.mark.parametrize("changes", [{"dirty_blocks": 0}, {}])
def test_nothing_is_shown_of_what_is_done_at_once(changes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    make_client(FakeAttributes(changes)).set_value("mode", "passthrough")
    assert capsys.readouterr().out == ""


def test_messages_go_out_in_one_line() -> None:
    attributes = FakeAttributes()
    make_client(attributes).send_message(["invalidate_cblocks", "0-3", "7"])
    assert attributes.told == ["message invalidate_cblocks 0-3 7"]


# Long work


def test_flush_waits_for_its_own_end(capsys: pytest.CaptureFixture[str]) -> None:
    reports = ("running 0 16 flush", "running 13 16 flush", "done 16 16 flush")
    attributes = FakeAttributes({"dirty_blocks": 16}, {"dirty_blocks": 16}, {"dirty_blocks": 20}, reports=reports)
    make_client(attributes).flush()
    assert attributes.told == ["message flush"]
    assert capsys.readouterr().out == "writing back 16 blocks (1MiB)\n/data/disk.img is complete up to now\n"


def test_on_a_terminal_the_progress_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    reports = ("running 0 16 flush", "running 13 16 flush", "done 16 16 flush")
    make_client(FakeAttributes({}, reports=reports)).flush()
    told = capsys.readouterr()
    assert told.out == "/data/disk.img is complete up to now\n"
    assert "flush" in told.err
    assert "16/16" in told.err


def test_flush_that_fails() -> None:
    attributes = FakeAttributes({}, reports=("running 0 16 flush", "failed 16 16 2 blocks could not be written"))
    with pytest.raises(FusecacheError, match=r"flush: 2 blocks could not be written; "):
        make_client(attributes).flush()


def test_decommission_ends_when_its_job_does(capsys: pytest.CaptureFixture[str]) -> None:
    reports = ("running 0 16 it", "running 16 32 it", "done 32 32 it")
    attributes = FakeAttributes({"dirty_blocks": 16}, {"decommissioned": True}, reports=reports)
    make_client(attributes).decommission()
    assert attributes.told == ["message decommission"]
    assert capsys.readouterr().out.splitlines() == [
        "writing back 16 blocks (1MiB)",
        "/data/disk.img is complete, and nothing is cached any more",
        "after `fusecache unmount -- /mnt/disk` these can be deleted:",
        "  /fast/disk.cache",
        "  /fast/disk.metadata",
    ]


def test_decommission_that_fails() -> None:
    attributes = FakeAttributes({}, reports=("failed 16 16 16 blocks could not be written",))
    with pytest.raises(FusecacheError, match="16 blocks could not be written"):
        make_client(attributes).decommission()


def test_f11_decommission_ends_although_somebody_sets_another_mode_then() -> None:
    attributes = FakeAttributes({}, {"mode": "writeback", "decommissioned": False})
    with pytest.raises(FusecacheError, match="somebody has set the mode to writeback since"):
        make_client(attributes).decommission()


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        (errno.ENOTCONN, "has died"),
        (errno.ECONNABORTED, "has died"),
        (errno.ENOENT, "/mnt/disk was unmounted before this was done: mode writethrough"),
        (errno.ENODATA, "/mnt/disk was unmounted before this was done: mode writethrough"),
    ],
)
def test_f10_a_daemon_that_goes_away_while_it_is_followed(code: int, complaint: str) -> None:
    class Going(FakeAttributes):
        def get(self, name: str) -> str:
            if self.reports == ["gone"]:
                raise OSError(code, os.strerror(code))
            return super().get(name)

    with pytest.raises(FusecacheError, match=complaint):
        make_client(Going({}, reports=("running 0 16 it", "gone"))).set_value("mode", "writethrough")


# What is no mount of ours


@pytest.mark.parametrize(
    "stats",
    [
        "",
        "[]",
        "7",
        "{}",
        "not json",
        "[" * 100_000,
        json.dumps({"pid": 1}),
        json.loads(make_status(pid=1).as_json()) | {"pid": "1"},
        json.loads(make_status(pid=1).as_json()) | {"origin": ["x"]},
        json.loads(make_status(pid=1).as_json()) | {"dirty_blocks": None},
    ],
)
def test_f18_odd_answers_are_refused(stats: Any) -> None:
    answer = stats if isinstance(stats, str) else json.dumps(stats)

    class Odd(FakeAttributes):
        def get(self, name: str) -> str:
            return answer

    attributes = Odd()
    mounted = make_client(attributes)
    for name, arguments in (("unmount", ()), ("flush", ()), ("set_value", ("mode", "writethrough"))):
        with pytest.raises(RefusedError, match="does not answer as this version of fusecache does"):
            getattr(mounted, name)(*arguments)
    with pytest.raises(RefusedError, match="does not answer as this version of fusecache does"):
        mounted.show_status(as_json=False)
    assert not attributes.told


@pytest.mark.parametrize("changes", [{"uptime_s": float("inf")}, {"origin_bytes": "x"}, {"policy": 7}, {"health": 7}])
def test_f18_a_status_of_odd_values_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="does not answer"):
        make_client(FakeAttributes(changes)).show_status(as_json=False)


@pytest.mark.parametrize("pid", [0, -1, 1 << 40, 1 << 80])
def test_f18_a_process_that_cannot_be(pid: int) -> None:
    with pytest.raises(RefusedError, match="cannot be seen from here"):
        make_client(FakeAttributes({"pid": pid})).unmount()


def test_f18_a_process_of_another_user_is_not_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = Mounted("fuse.fusecache", (f"user_id={os.getuid() + 1}",))
    monkeypatch.setattr(unmounting, "mounted_at", lambda _path: mounted)
    with pytest.raises(RefusedError, match="cannot be seen from here"):
        make_client(FakeAttributes()).unmount()


def test_f18_attributes_of_an_ordinary_file_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    os.setxattr(tmp_path / "image", "user.fusecache.stats", make_status(pid=os.getpid()).as_json().encode())
    with pytest.raises(RefusedError, match="is not a fusecache mount"):
        Client(tmp_path).show_status(as_json=True)
    with pytest.raises(RefusedError, match="is not a fusecache mount"):
        Client(tmp_path).unmount()
    with pytest.raises(OSError, match="No data"):
        ImageAttributes(tmp_path).set("policy", "mq")


def test_f18_names_do_nothing_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_client(FakeAttributes({"origin": "/\x1b]0;owned\x07[red]\n\udcfc"})).show_status(as_json=False)
    assert r"/\x1b]0;owned\x07[red]\n\xfc" in capsys.readouterr().out


# Unmounting


class Daemon:
    """A process in the daemon's place, the metadata that it leaves, and the program that would unmount."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.metadata = directory / "odd ?name#.metadata"
        self.process = subprocess.Popen(["sleep", "60"])
        self.programs = directory / "bin"
        self.programs.mkdir()
        monkeypatch.setenv("PATH", f"{self.programs}:{os.environ['PATH']}")
        self.client = make_client(FakeAttributes({"pid": self.process.pid, "metadata": str(self.metadata)}))

    def unmounts_by(self, script: str) -> None:
        for name in ("umount", "fusermount3"):
            program = self.programs / name
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)

    def leaves(self, *, clean: bool = True, dirty: int = 0) -> None:
        superblock = Superblock(
            uuid="u",
            block_size=4096,
            cache_blocks=16,
            region_blocks=1,
            image_bytes=1 << 20,
            origin=Identity("/origin", "1:2", "3", 1 << 20),
            clean_shutdown=clean,
        )
        with closing(Database.create(self.metadata, superblock.pack())) as database:
            database.apply(Transaction(mapped=[(n, n, n < dirty, None, None) for n in range(10)]))


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, monkeypatch)
    daemon.unmounts_by(f"kill {daemon.process.pid}")
    yield daemon
    daemon.process.kill()
    daemon.process.wait()


def test_unmount_is_quiet_when_the_origin_is_complete(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    daemon.leaves()
    daemon.client.unmount()
    assert daemon.process.poll() is not None
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in daemon.metadata.parent.iterdir()) == ["bin", daemon.metadata.name]


def test_unmount_says_what_the_origin_lacks(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.leaves(dirty=3)
    cache = daemon.programs / "cache"
    cache.touch()
    attributes = FakeAttributes({"pid": daemon.process.pid, "metadata": str(daemon.metadata), "cache": str(cache)})
    make_client(attributes).unmount()
    expected = f"/data/disk.img lacks 3 dirty blocks (192KiB), which are safe in {cache}\n"
    assert capsys.readouterr().out == expected


def test_unmount_waits_for_the_daemon(daemon: Daemon) -> None:
    daemon.leaves(clean=False)
    daemon.unmounts_by(
        f"(sleep 0.3; mv '{daemon.metadata}.new' '{daemon.metadata}'; kill {daemon.process.pid}) >&- 2>&- &"
    )
    shutil.move(daemon.metadata, f"{daemon.metadata}.old")
    daemon.leaves()
    shutil.move(daemon.metadata, f"{daemon.metadata}.new")
    daemon.client.unmount()


def test_an_unclean_end_is_no_success(daemon: Daemon) -> None:
    daemon.leaves(clean=False)
    with pytest.raises(FusecacheError, match="did not end cleanly"):
        daemon.client.unmount()


def test_what_only_the_write_ahead_log_knows_counts(daemon: Daemon) -> None:
    daemon.leaves()
    with closing(sqlite3.connect(daemon.metadata)) as writer:
        with writer:
            writer.execute("UPDATE meta SET value = '0' WHERE name = 'clean_shutdown'")
        with pytest.raises(FusecacheError, match="did not end cleanly"):
            daemon.client.unmount()


def test_metadata_that_cannot_be_read_is_no_success(daemon: Daemon) -> None:
    daemon.metadata.write_bytes(b"not a database")
    with pytest.raises(FusecacheError, match="did not end cleanly"):
        daemon.client.unmount()


def test_a_busy_mount_stays(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmounting, "_BUSY_SECONDS", 0)
    daemon.unmounts_by("echo 'umount: /mnt/disk: target is busy.' >&2; exit 32")
    with pytest.raises(BusyError, match=r"is busy, so it stays mounted.*fuser -vm /mnt/disk"):
        daemon.client.unmount()
    assert daemon.process.poll() is None


def test_f11_a_mount_that_is_busy_for_a_moment_is_tried_again(daemon: Daemon) -> None:
    daemon.leaves()
    daemon.unmounts_by(
        f"""test -e {daemon.programs}/tried && exec kill {daemon.process.pid}
touch {daemon.programs}/tried; echo 'target is busy.' >&2; exit 32"""
    )
    daemon.client.unmount()


def test_f11_who_keeps_a_mount_busy_is_named(tmp_path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmounting, "_BUSY_SECONDS", 0)
    daemon.unmounts_by("echo 'umount: target is busy.' >&2; exit 32")
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    attributes = FakeAttributes({"pid": daemon.process.pid})
    (mountpoint / "image").touch()
    with (mountpoint / "image").open() as image:
        users = [
            subprocess.Popen(["sleep", "60"], cwd=mountpoint),
            subprocess.Popen(["sleep", "60"], stdin=image),
        ]
    try:
        with pytest.raises(BusyError) as caught:
            make_client(attributes, mountpoint).unmount()
    finally:
        for user in users:
            user.kill()
            user.wait()
    assert all(f"pid {user.pid} (" in str(caught.value) for user in users)
    assert f"{mountpoint} is busy, so it stays mounted: in use by pid " in str(caught.value)


def test_f11_loop_devices_and_mounts_inside_keep_it_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loops, processes = tmp_path / "block", tmp_path / "proc"
    for number, file in enumerate(("/mnt/disk/image", "/mnt/disk2/image")):
        (loops / f"loop{number}/loop").mkdir(parents=True)
        (loops / f"loop{number}/loop/backing_file").write_text(f"{file}\n")
    (processes / "self").mkdir(parents=True)
    (processes / "self/mountinfo").write_text("1 2 0:3 / /mnt/disk rw\n1 2 0:3 / /mnt/disk/a\\040b rw\n")
    for number in range(6):
        (processes / f"{1000 + number}").mkdir()
        (processes / f"{1000 + number}/comm").write_text("odd\nname\n")
        (processes / f"{1000 + number}/maps").write_text("0-1 r-xp 0 00:1 5 /mnt/disk/image\n2-3 rw-p 0 00:00 0\n")
    monkeypatch.setattr(holders, "DEVICES", loops)
    monkeypatch.setattr(holders, "PROCESSES", processes)
    named = "/dev/loop0, a mount on /mnt/disk/a b, pid 1000 (odd?name), pid 1001 (odd?name) and 4 more"
    assert holders.holders_of(MNT) == named
    assert not holders.holders_of(Path("/mnt"[:3]))


def test_f06_unmount_does_not_call_safe_what_is_not_there(tmp_path: Path, daemon: Daemon) -> None:
    daemon.leaves(dirty=3)
    cache = tmp_path / "cache"
    attributes = FakeAttributes({"pid": daemon.process.pid, "metadata": str(daemon.metadata), "cache": str(cache)})
    with pytest.raises(FusecacheError, match=r"lacks 3 dirty blocks .*cache is not there"):
        make_client(attributes).unmount()


def test_f06_unmount_does_not_throw_away_an_origin_that_has_no_name(daemon: Daemon) -> None:
    attributes = FakeAttributes({"pid": daemon.process.pid, "gone": "cache origin"})
    with pytest.raises(RefusedError, match=r"/data/disk\.img was removed or replaced.*copy /mnt/disk/image first"):
        make_client(attributes).unmount()
    assert daemon.process.poll() is None


@pytest.mark.parametrize(
    ("script", "complaint"),
    [("echo 'not\npermitted' >&2; exit 1", "could not unmount /mnt/disk: not permitted"), ("exit 3", "exit code 3")],
)
def test_unmounting_may_fail_otherwise(daemon: Daemon, script: str, complaint: str) -> None:
    daemon.unmounts_by(script)
    with pytest.raises(FusecacheError, match=complaint):
        daemon.client.unmount()


def test_unmounting_without_the_program(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FusecacheError, match="cannot run"):
        daemon.client.unmount()


def test_users_and_root_unmount_differently(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.leaves()
    daemon.unmounts_by(f'echo "$(basename $0) $*" > "{daemon.programs}/called"; kill {daemon.process.pid}')
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    daemon.client.unmount()
    assert (daemon.programs / "called").read_text() == "fusermount3 -u -- /mnt/disk\n"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    daemon.process.wait()
    with pytest.raises(RefusedError, match="cannot be seen from here"):
        daemon.client.unmount()
    assert unmounting.unmount_command(MNT) == ["umount", "--", "/mnt/disk"]


@pytest.mark.parametrize("name", ["-V", "--help", "-u"])
def test_f18_a_mountpoint_is_no_option(daemon: Daemon, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.leaves()
    daemon.unmounts_by(f'echo "$*" > "{daemon.programs}/called"; kill {daemon.process.pid}')
    stats = {"pid": daemon.process.pid, "metadata": str(daemon.metadata)}
    make_client(FakeAttributes(stats), Path(f"./{name}")).unmount()
    assert (daemon.programs / "called").read_text().endswith(f"-- {name}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_f16_root_does_not_read_what_a_user_left(daemon: Daemon) -> None:
    daemon.leaves()
    os.chown(daemon.metadata, 65534, 65534)
    with pytest.raises(FusecacheError, match=r"only its user can see: `fusecache check --metadata .* says so"):
        daemon.client.unmount()


def test_a_restart_is_followed_into_the_next_process(capsys: pytest.CaptureFixture[str]) -> None:
    under_way, done = {"restart": "under way"}, {"restart": "done", "pid": 77}
    attributes = FakeAttributes({}, under_way, under_way, done)
    make_client(attributes).restart({"page_cache": "none", "policy": "a b"})
    assert attributes.told == ["restart page_cache=none policy=a\\ b"]
    assert capsys.readouterr().out == f"pid 77 goes on in the place of pid {os.getpid()}\n"


@pytest.mark.parametrize(
    ("restart", "told"),
    [("failed: no such size", "no such size; "), ("", "the daemon died meanwhile; ")],
)
def test_one_that_fails_says_why(restart: str, told: str) -> None:
    attributes = FakeAttributes({}, {"restart": "under way"}, {"restart": restart})
    with pytest.raises(RefusedError, match=f"^restart: {told}"):
        make_client(attributes).restart({})


def test_one_that_is_refused_says_why() -> None:
    attributes = FakeAttributes(reports=("failed 0 0 no restart: the mount was told so",))

    def refuse(_name: str, _value: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    attributes.refuse = refuse
    with pytest.raises(RefusedError, match=r"^no restart: the mount was told so$"):
        make_client(attributes).restart({})


@pytest.mark.parametrize(
    ("stats", "row"),
    [
        ({"holder": 5, "crashes": 0, "restarts": 0}, "held by pid 5"),
        ({"holder": 5, "crashes": 2, "restarts": 1}, "held by pid 5; 2 crashes, 1 restarts"),
        ({"holder": 0, "unheld": "so", "crashes": 0, "restarts": 0}, "ends with its daemon: so"),
    ],
)
def test_the_status_says_what_a_death_would_mean(
    stats: dict[str, Any], row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_client(FakeAttributes(stats)).show_status(as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("survival")]
    assert line.split(None, 1)[1] == row
