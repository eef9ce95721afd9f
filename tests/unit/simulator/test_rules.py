from __future__ import annotations

from math import inf

import pytest

from fusecache.errors import UsageError
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.slow_disk import Disk


def test_what_is_not_said_is_as_mounts_do() -> None:
    assert Rules.parse(None, None, None, "hdd") == Rules()
    assert (Rules().data_path, Rules().dirty_requests, Rules().dirty_us, Rules().read_ahead) == (None, 10_000, inf, 0)


@pytest.mark.parametrize(
    ("text", "requests", "microseconds"),
    [("500", 500, inf), ("30s", inf, 30_000_000), ("10000,30s", 10_000, 30_000_000), ("1s,7", 7, 1_000_000)],
)
def test_ages(text: str, requests: float, microseconds: float) -> None:
    rules = Rules.parse("absorb", text, "8", "net")
    assert rules == Rules(
        data_path=DataPath.ABSORB, dirty_requests=requests, dirty_us=microseconds, read_ahead=8, disk=Disk.NET
    )


@pytest.mark.parametrize(
    ("data_path", "dirty_age", "read_ahead", "disk", "message"),
    [
        ("Copy", None, None, "hdd", "--data-path 'Copy': must be copy, fill or absorb"),
        ("", None, None, "hdd", "--data-path '': must be copy, fill or absorb"),
        ("copy", "5", None, "hdd", "--dirty-age and --data-path copy do not go together: dm-cache has no such thing"),
        ("copy", None, "0", "hdd", "--read-ahead and --data-path copy do not go together: dm-cache has no such thing"),
        (None, "0", None, "hdd", "--dirty-age '0': must be a number of requests, of seconds (30s), or both"),
        (None, "", None, "hdd", "--dirty-age '': must be"),
        (None, "-1", None, "hdd", "--dirty-age '-1': must be"),
        (None, "1.5s", None, "hdd", "--dirty-age '1.5s': must be"),
        (None, "5,", None, "hdd", "--dirty-age '5,': must be"),
        (None, "9" * 19, None, "hdd", "--dirty-age '9999999999999999999': must be"),
        (None, None, "65", "hdd", "--read-ahead '65': must be a number of blocks from 0 to 64"),
        (None, None, "-1", "hdd", "--read-ahead '-1': must be"),
        (None, None, "many", "hdd", "--read-ahead 'many': must be"),
        (None, None, None, "ssd", "--disk 'ssd': must be hdd or net"),
    ],
)
def test_nonsense_is_refused(
    data_path: str | None, dirty_age: str | None, read_ahead: str | None, disk: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Rules.parse(data_path, dirty_age, read_ahead, disk)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
