from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fusecache.linux import mounts
from fusecache.linux.mounts import mounted_at

TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
90 22 0:50 / /home/u/vm rw,nosuid - fuse.fusecache /home/u/disk.img rw,user_id=1000,group_id=1000
91 22 0:51 / /mnt/with\040blank\134 rw - fuse.other x rw,user_id=0,group_id=0
92 22 0:52 / /mnt/J%crgen rw - fuse.fusecache x rw,user_id=0
93 22 0:53 / /mnt/twice rw - fuse.fusecache x rw,user_id=0
94 22 0:54 / /mnt/twice rw shared:3 master:1 - tmpfs tmpfs rw
""".replace(b"%c", b"\xfc")


@pytest.fixture(autouse=True)
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_bytes(TABLE)
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")


@pytest.mark.parametrize(
    ("path", "kind", "user"),
    [
        ("/home/u/vm", "fuse.fusecache", 1000),
        ("/home/u/vm/", "fuse.fusecache", 1000),
        ("/home/u/../u/./vm", "fuse.fusecache", 1000),
        ("/mnt/with blank\\", "fuse.other", 0),
        ("/mnt/J\udcfcrgen", "fuse.fusecache", 0),
        ("/mnt/twice", "tmpfs", None),
        ("/", "ext4", None),
    ],
)
def test_f18_what_is_mounted(path: str, kind: str, user: int | None) -> None:
    found = mounted_at(Path(path))
    assert found is not None
    assert (found.kind, found.user) == (kind, user)


@pytest.mark.parametrize("path", ["/home/u/vm/image", "/home/u", "/nowhere"])
def test_f18_and_what_is_not(path: str) -> None:
    assert mounted_at(Path(path)) is None


def test_f18_links_lead_to_mounts(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/home/u/vm")
    (tmp_path / "home").symlink_to("/home")
    for path in (tmp_path / "link", tmp_path / "home" / "u" / "vm"):
        found = mounted_at(path)
        assert found is not None
        assert found.user == 1000


def test_g04_the_number_of_a_file_system_is_the_same_in_all_namespaces() -> None:
    found = mounted_at(Path("/home/u/vm"))
    assert found is not None
    assert found.device == "0:50"


@pytest.mark.parametrize(
    ("uid", "command"),
    [
        (0, ["umount", "--lazy", "--no-canonicalize", "--", "/a b"]),
        (1000, ["fusermount3", "-u", "-z", "-q", "--", "/a b"]),
    ],
)
def test_what_is_taken_away_is_not_looked_at(monkeypatch: pytest.MonkeyPatch, uid: int, command: list[str]) -> None:
    ran: list[list[str]] = []

    def run(words: list[str], **_options: object) -> None:
        ran.append(words)
        raise FileNotFoundError(words[0])  # which is no reason to fail

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(subprocess, "run", run)
    mounts.take_away(Path("/a b"))
    assert ran == [command]
