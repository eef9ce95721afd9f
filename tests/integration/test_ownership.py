"""G02: the image belongs to whom the mount was told, and the mount to who runs it."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB, need
from tests.integration.mounts import Mount, is_mounted, program, run
from tests.integration.sessions import NOBODY, Session

OTHER = 64055
"""Such as libvirt's qemu runs as."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


@pytest.fixture
def room(mounted: Mounted) -> Iterator[Callable[..., Mount]]:
    """Mount where every user can reach it, with these options."""
    need("setpriv")
    with tempfile.TemporaryDirectory(prefix="fusecache-ownership-") as directory:
        Path(directory).chmod(0o711)

        def mount(*options: str) -> Mount:
            made = mounted(content=bytes(MIB))
            made.unmount()
            made.mountpoint = Path(directory, "mnt")
            made.mountpoint.mkdir()
            made.mount(*options)
            return made

        yield mount
        run("fusermount3", "-uzq", Path(directory, "mnt"), check=False)


def as_user(uid: int, *command: str | Path, gid: int | None = None) -> str:
    """Run a command as another user; returns what it complained of."""
    who = [f"--reuid={uid}", f"--regid={uid if gid is None else gid}", "--clear-groups"]
    result = run("setpriv", *who, *command, check=False)
    return result.stderr if result.returncode else ""


def read(mount: Mount) -> list[str | Path]:
    return ["dd", f"if={mount.image}", "of=/dev/null", "count=1", "status=none"]


def write(mount: Mount) -> list[str | Path]:
    return ["dd", "if=/dev/zero", f"of={mount.image}", "count=1", "conv=notrunc", "status=none"]


def owner(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@needs_root
def test_g02_roots_mount_serves_root_alone_unless_it_is_told(room: Callable[..., Mount]) -> None:
    mount = room("-o", "allow_other")
    assert owner(mount.image) == (0, 0, 0o600)
    assert "Permission denied" in as_user(OTHER, *read(mount))


@needs_root
@pytest.mark.parametrize(
    "options",
    [
        ("-o", f"allow_other,uid={OTHER},gid=0"),
        ("-o", "allow_other", "--uid", str(OTHER), "--gid", "root", "--umask", "0077"),
        ("-o", f"uid=1,allow_other,umask=077,uid={OTHER}"),
    ],
)
def test_g02_a_virtual_machine_of_another_user_has_its_disk(
    room: Callable[..., Mount], options: tuple[str, ...]
) -> None:
    mount = room(*options)
    assert owner(mount.image) == (OTHER, 0, 0o600)
    assert not as_user(OTHER, *read(mount))
    assert not as_user(OTHER, *write(mount))
    assert "Permission denied" in as_user(OTHER + 1, *read(mount))
    assert mount.read(0, 512) == bytes(512)


@needs_root
def test_g02_a_group_has_it(room: Callable[..., Mount]) -> None:
    mount = room("-o", f"allow_other,gid={OTHER},mode=0660")
    assert owner(mount.image) == (0, OTHER, 0o660)
    assert not as_user(1234, *write(mount), gid=OTHER)
    assert "Permission denied" in as_user(1234, *write(mount), gid=1234)


@needs_root
def test_g02_whoever_has_the_data_has_no_control(room: Callable[..., Mount]) -> None:
    mount = room("-o", f"allow_other,uid={OTHER},mode=0666")
    for uid in (OTHER, OTHER + 1):
        assert not as_user(uid, *write(mount))
        for name, value in (("mode", "passthrough"), ("message", "decommission"), ("request", "t mode passthrough")):
            told = as_user(uid, "setfattr", "-n", f"user.fusecache.{name}", "-v", value, mount.image)
            assert "Operation not permitted" in told
        assert not as_user(uid, "getfattr", "-n", "user.fusecache.mode", mount.image), "looking is free"
    assert mount.getxattr("mode") == "writeback"
    mount.setxattr("mode", "writethrough")


@needs_root
def test_g02_the_owner_changes_mode_and_owner_for_the_life_of_the_mount(room: Callable[..., Mount]) -> None:
    mount = room("-o", "allow_other")
    run("chown", f"{OTHER}:{OTHER}", mount.image)  # as libvirt does before it starts a machine
    run("chmod", "0640", mount.image)
    assert owner(mount.image) == (OTHER, OTHER, 0o640)
    assert not as_user(OTHER, *write(mount))
    assert not as_user(OTHER, "chmod", "0600", mount.image)
    assert "Operation not permitted" in as_user(OTHER, "chown", "0", mount.image)
    assert "Operation not permitted" in as_user(OTHER + 1, "chmod", "0666", mount.image)
    assert "denied" in as_user(OTHER + 1, "touch", "--date=@1", mount.image)
    assert owner(mount.image) == (OTHER, OTHER, 0o600)
    run("chown", "0:0", mount.image)  # and after it
    run("chmod", "0711", mount.mountpoint)
    assert owner(mount.mountpoint) == (0, 0, 0o711)
    run("chown", str(OTHER), mount.image)
    mount.remount()
    assert owner(mount.image) == (0, 0, 0o600)


def test_g02_a_disk_is_no_program(mounted: Mounted) -> None:
    mount = mounted(size=MIB)
    for mode in ("4755", "2755", "1755"):
        assert run("chmod", mode, mount.image, check=False).returncode == 1
    assert owner(mount.image)[2] == 0o600
    with pytest.raises(OSError, match="Operation not permitted"):
        os.truncate(mount.image, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-o", "uid=no-such-user"), "there is no user 'no-such-user' here"),
        (("--gid", "no-such-group"), "there is no group 'no-such-group' here"),
        (("-o", "mode=writethrough"), "--mode is what happens to writes"),
        (("-o", "mode=04755"), "octal digits from 0 to 777"),
        (("--umask", "9"), "octal digits from 0 to 777"),
        (("--umask", "007", "-o", "mode=0660"), "do not go together"),
    ],
)
def test_g02_what_cannot_be_is_one_line(mounted: Mounted, options: tuple[str, ...], told: str) -> None:
    mount = mounted(size=MIB)
    mount.unmount()
    result = run(*mount.mount_command(*options), check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert told in result.stderr
    assert not is_mounted(mount.mountpoint)


def test_g02_a_user_gives_his_image_to_nobody_else(session: Session) -> None:
    printed = session.run(f"""
        fusecache mount disk.img mnt --uid root 2>&1 && exit 1
        fusecache mount disk.img mnt -o gid=root 2>&1 && exit 1
        fusecache mount disk.img mnt -o uid={NOBODY},gid={NOBODY},mode=0640
        stat -c %u:%g:%a mnt/image
        chmod 600 mnt/image
        touch -d @1000000000 mnt/image
        chown root mnt/image 2>&1 && exit 1
        stat -c %u:%g:%a:%Y mnt/image
        setfattr -n user.fusecache.policy -v mq mnt/image
        fusecache unmount mnt
    """)
    lines = printed.splitlines()
    assert [line for line in lines if line.startswith("fusecache: ")] == [
        "fusecache: only root can give the image to user 0",
        "fusecache: only root, or who is in group 0, can give the image to that group",
    ]
    assert f"{NOBODY}:{NOBODY}:640" in lines
    assert f"{NOBODY}:{NOBODY}:600:1000000000" in lines
    assert any("Operation not permitted" in line for line in lines)


@needs_root
def test_g02_names_of_users_are_understood(mounted: Mounted) -> None:
    entry = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    mount = mounted("--uid", entry.pw_name, size=MIB)
    assert mount.image.stat().st_uid == entry.pw_uid
    assert subprocess.run([program(), "status", mount.mountpoint], check=False, capture_output=True).returncode == 0
