"""The dirty age and the dirty limit as attributes, and in the status."""

from __future__ import annotations

import pytest

from fusecache.config import DirtyAge, DirtyLimit
from fusecache.errors import UsageError
from tests.unit.control.test_control import controlled
from tests.unit.worlds import BLOCK, World, virtual


@virtual
async def test_both_are_read_set_and_shown() -> None:
    world = World()
    world.cleaning.set_limit(DirtyLimit())
    async with controlled(world) as control:
        for name, value, shown in (
            ("dirty_age", "30s,10000", "30s,10000"),
            ("dirty_age", "5,60s\n", "60s,5"),
            ("dirty_age", "0", "0"),
            ("dirty_limit", "50%", "50%"),
            ("dirty_limit", "8KiB", "8192"),
        ):
            assert control.begin(name, value) is None
            assert control.get(name) == shown
            assert getattr(control.status(), name) == shown
            assert f'"{name}": "{shown}"' in control.get("stats")
        assert world.cleaning.age == DirtyAge(0, 0)
        assert world.worker.admission.most == 8192 // BLOCK
        world.volume.counters.slowed = 3
        assert control.status().slowed == 3


@virtual
@pytest.mark.parametrize("name", ["dirty_age", "dirty_limit"])
@pytest.mark.parametrize("value", ["", "much", "-1", "30x", "101%", "1 2"])
async def test_bad_values_are_refused_in_one_line_and_change_nothing(name: str, value: str) -> None:
    world = World()
    async with controlled(world) as control:
        before = control.get(name)
        with pytest.raises(UsageError, match="a dirty"):
            control.begin(name, value)
        assert control.get(name) == before
        assert control.get("error").startswith("a dirty")
        assert "\n" not in control.get("error")
