"""Users and groups by name or number."""

from __future__ import annotations

import pytest

from fusecache.errors import UsageError
from fusecache.linux.accounts import group_number, user_number


def test_g02_by_name_and_by_number() -> None:
    assert user_number("root") == group_number("root") == 0
    assert user_number("64055") == group_number("64055") == 64055


@pytest.mark.parametrize("text", ["", "no such user", "-1", "4294967295", "99999999999", "\u0661", "a\0b", "\udcff"])
def test_g02_there_is_no_such(text: str) -> None:
    with pytest.raises(UsageError, match="there is no user"):
        user_number(text)
    with pytest.raises(UsageError, match="there is no group"):
        group_number(text)
