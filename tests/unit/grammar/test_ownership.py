"""G02: uid=, gid=, mode= and umask= among the options of a mount."""

from __future__ import annotations

import pytest

from fusecache.config import Ownership
from fusecache.errors import UsageError
from fusecache.grammar.ownership import take_ownership

USERS = {"libvirt-qemu": 64055}


def number(text: str) -> int:
    """Find a user or a group."""
    if text.isdigit():
        return int(text)
    if text not in USERS:
        msg = f"there is no {text}"
        raise UsageError(msg)
    return USERS[text]


def taken(*options: str) -> tuple[Ownership, tuple[str, ...]]:
    return take_ownership(options, user_number=number, group_number=number)


def test_g02_they_are_taken_out_of_the_others() -> None:
    assert taken("allow_other", "uid=libvirt-qemu", "max_read=4096", "gid=108", "mode=0660") == (
        Ownership(uid=64055, gid=108, mode=0o660),
        ("allow_other", "max_read=4096"),
    )
    assert taken("umask=7") == (Ownership(umask=7), ())
    assert taken("uid", "ro") == (Ownership(), ("uid", "ro"))


def test_g02_the_last_one_counts() -> None:
    assert taken("uid=1", "umask=0", "uid=2", "umask=077") == (Ownership(uid=2, umask=0o77), ())


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("mode=writethrough", "--mode is what happens to writes"),
        ("mode=4755", "from 0 to 777"),
        ("mode=", "octal"),
        ("umask=8", "octal"),
        ("umask=-1", "octal"),
        ("mode=0o660", "octal"),
        ("mode=\u0666\u0666\u0660", "octal"),
        ("uid=nobody-such", "there is no nobody-such"),
        ("gid=", "there is no "),
    ],
)
def test_g02_what_cannot_be_is_named(option: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        taken(option)


def test_g02_mode_and_umask_say_the_same_thing() -> None:
    with pytest.raises(UsageError, match="do not go together"):
        taken("mode=660", "umask=007")
