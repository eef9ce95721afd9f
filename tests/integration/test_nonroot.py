"""Mounting as a user without any rights, with the default places for cache and metadata."""

from __future__ import annotations

import os

import pytest

from tests.integration.judges import MIB
from tests.integration.mounts import GATE
from tests.integration.sessions import NOBODY, Session


def test_a_whole_session(session: Session) -> None:
    printed = session.run("""
        fusecache mount disk.img mnt
        id -u
        printf hello | dd of=mnt/image bs=1 seek=1000 conv=notrunc,fsync status=none
        dd if=mnt/image bs=1 skip=1000 count=5 status=none
        echo
        fusecache set mnt mode writethrough
        fusecache status mnt --json | grep -o '"mode": "[a-z]*"'
        fusecache flush mnt
        fusecache unmount mnt
        dd if=disk.img bs=1 skip=1000 count=5 status=none
        echo
        fusecache mount disk.img mnt --policy mq
        fusecache decommission mnt
        fusecache unmount mnt
    """)
    lines = printed.splitlines()
    assert str(NOBODY) in lines
    assert lines.count("hello") == 2
    assert '"mode": "writethrough"' in lines
    made = sorted(path.name for path in (session.home / ".local" / "state" / "fusecache").iterdir())
    assert [name.partition("-")[0] for name in made] == ["disk.img"] * 3
    assert [name.rpartition(".")[2] for name in made] == ["cache", "log", "metadata"]
    assert session.origin.read_bytes() == bytes(1000) + b"hello" + bytes(4 * MIB - 1005)


def test_two_origins_have_two_caches(session: Session) -> None:
    session.run("""
        mkdir mnt2
        head -c 1048576 /dev/zero > other.img
        fusecache mount disk.img mnt
        fusecache mount other.img mnt2
        test $(stat -c %s mnt/image) = 4194304
        test $(stat -c %s mnt2/image) = 1048576
        fusecache unmount mnt
        fusecache unmount mnt2
    """)
    assert len(list((session.home / ".local" / "state" / "fusecache").iterdir())) == 6


def test_f07_what_the_user_may_only_read_is_read_only(session: Session) -> None:
    printed = session.run("""
        chmod 400 disk.img
        fusecache mount disk.img mnt
        dd if=/dev/zero of=mnt/image bs=1 count=1 conv=notrunc 2>&1 && exit 1
        cmp mnt/image disk.img
        fusecache set mnt policy mq
        fusecache flush mnt
        fusecache unmount mnt
    """)
    assert "the image is read-only: origin" in printed
    assert "Read-only file system" in printed


def test_what_the_user_may_not_open_is_refused_in_one_line(session: Session) -> None:
    printed = session.run("""
        touch secret
        chmod 000 secret
        fusecache mount secret mnt 2>&1 && exit 1
        fusecache mount disk.img /usr 2>&1 && exit 1
        test ! -e .local || test -z "$(find .local -type f ! -name '*.log')"
    """)
    lines = printed.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("fusecache: ") for line in lines), printed


def test_the_gate_needs_no_rights(session: Session) -> None:
    printed = session.run("""
        fusecache mount disk.img mnt 2>&1
        fusecache status mnt --json
        fusecache unmount mnt
        fusecache mount --no-gate disk.img mnt 2>&1
        fusecache status mnt --json
        fusecache unmount mnt
    """)
    at, without = printed.index('"gate": true'), printed.index('"gate": false')
    assert at < without
    assert "requests at a time" not in printed[:at], "its limit is raised without anybody's help"


def test_a_mount_outlives_its_daemon(session: Session) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9) or GATE:
        pytest.skip("no mount outlives its daemon here")
    printed = session.run(
        "pid() { fusecache status --json mnt | sed 's/.*\"pid\": \\([0-9]*\\).*/\\1/'; }\n"
        "fusecache mount disk.img mnt\n"
        "printf hello | dd of=mnt/image conv=notrunc status=none\n"
        "kill -9 $(pid)\n"
        "head -c 5 mnt/image; echo\n"
        "fusecache restart mnt --scrub 1MiB\n"
        "fusecache status mnt | grep survival\n"
        "kill -9 $(pid)\n"
        "head -c 5 mnt/image; echo\n"
        "fusecache unmount mnt\n"
        "ls mnt | wc -l\n"
        "fusecache mount disk.img mnt\n"
        "kill $(pid)\n"
        'while grep -q "$PWD/mnt fuse" /proc/mounts; do sleep 0.1; done\n'
    )
    assert printed.count("hello\n") == 2
    assert "1 crashes, 1 restarts" in printed
    assert "\n0\n" in printed
