"""The table of states: it keeps its own rules, Mapping follows it, and nobody goes past it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import fusecache
from fusecache.block import mapping as mapping_module
from fusecache.block import states
from fusecache.block.mapping import Mapping
from fusecache.block.states import (
    ANY_FLAG,
    DIRTY,
    MISUSED,
    PARTIAL,
    RECORDED,
    SUMMED,
    WRITABLE,
    WRITE_INTENT,
    WRITEBACK_IN_FLIGHT,
    Event,
    broken_rule,
)

SOURCES = Path(fusecache.__file__).parent


def reachable() -> set[int]:
    """Follow every event that may happen, from an inserted block on."""
    found, new = set[int](), {0}
    while new:
        found |= new
        new = {event.after(state) for event in Event for state in found if event.may_meet(state)} - found
    return found


def happen(mapping: Mapping, event: Event, cblock: int = 0) -> None:
    """Let an event happen to a mapped block by the method of Mapping for it."""
    if event is Event.KEPT:
        oblock, state, valid = mapping.oblock_of[cblock], mapping.flags[cblock], mapping.valid.get(cblock)
        mapping.remove(cblock)
        mapping.put_back(oblock, cblock, state, valid)
    elif event is Event.REMOVED:
        mapping.remove(cblock)
    elif event in {Event.CLEANED, Event.SUM_KNOWN, Event.HOLDS_PART}:
        getattr(mapping, event.name.lower())(cblock, 7)
    else:
        getattr(mapping, event.name.lower())(cblock)


def in_state(state: int) -> Mapping:
    mapping = Mapping(1)
    mapping.insert(5, 0)
    mapping.flags[0] = state
    mapping.dirty_count = state & DIRTY
    if state & PARTIAL:
        mapping.valid[0] = 3
    return mapping


def test_what_can_be_reached_is_what_the_rules_allow() -> None:
    assert reachable() == {state for state in range(ANY_FLAG + 1) if not broken_rule(state)}


def test_the_rules_are_these() -> None:
    for state in range(ANY_FLAG + 1):
        sound = not state & DIRTY or state & (WRITE_INTENT | SUMMED) == WRITE_INTENT
        sound = sound and bool(not state & WRITEBACK_IN_FLIGHT or state & DIRTY)
        sound = sound and state & (PARTIAL | SUMMED) != PARTIAL | SUMMED
        assert bool(broken_rule(state)) is not sound
        assert broken_rule(state | MISUSED)


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
def test_mapping_follows_the_table_from_every_state(event: Event) -> None:
    met = 0
    for state in reachable():
        mapping = in_state(state)
        if event in {Event.CLEANED, Event.CLEANED_IN_PART, Event.WRITE_LOST} and not state & DIRTY:
            assert not getattr(mapping, event.name.lower())(*[0, 7][: 1 + (event is Event.CLEANED)])
            assert mapping.flags[0] == state  # it asks first, and leaves a clean block alone
            continue
        happen(mapping, event)
        assert mapping.flags[0] & ~MISUSED == event.after(state) & ~MISUSED
        if event.may_meet(state):
            met += 1
            assert mapping.flags[0] == event.after(state)
            mapping.check()
        else:
            with pytest.raises(AssertionError):
                mapping.check()
    assert met


def test_a_mistake_stays_visible() -> None:
    mapping = in_state(0)
    mapping.written(0)
    assert mapping.flags[0] & DIRTY  # the event takes effect all the same: dirty data is never forgotten
    for event in (Event.CLEANED, Event.SUM_KNOWN, Event.TAKEN_AS_CLEAN):
        happen(mapping, event)
        with pytest.raises(AssertionError, match="an event happened that could not"):
            mapping.check()


@pytest.mark.parametrize(
    ("flag", "set_by", "cleared_by"),
    [
        (
            DIRTY,
            {Event.WRITTEN, Event.RECOVERED_DIRTY, Event.RECOVERED_SUSPECT},
            {Event.CLEANED, Event.CLEANED_IN_PART, Event.WRITE_LOST, Event.DISCARDED},
        ),
        (
            WRITE_INTENT,
            {Event.PROMOTED, Event.INTENT_RECORDED, Event.RECOVERED_DIRTY, Event.RECOVERED_SUSPECT},
            {Event.TAKEN_AS_CLEAN, Event.REMOVED},
        ),
        (
            RECORDED,
            {Event.COMMITTED_DIRTY, Event.RECOVERED_DIRTY},
            {Event.COMMITTED_CLEAN, Event.KEPT, Event.REMOVED},
        ),
        (
            SUMMED,
            {Event.CLEANED, Event.SUM_KNOWN},
            {Event.WRITTEN, Event.REWRITING, Event.REMOVED, Event.HOLDS_PART},
        ),
        (PARTIAL, {Event.HOLDS_PART}, {Event.COMPLETED, Event.REMOVED}),
        (
            WRITEBACK_IN_FLIGHT,
            {Event.WRITEBACK_BEGUN},
            {
                Event.WRITEBACK_ENDED,
                Event.WRITTEN,
                Event.WRITE_FAILED,
                Event.CLEANED,
                Event.CLEANED_IN_PART,
                Event.WRITE_LOST,
                Event.HOLDS_PART,
            },
        ),
    ],
)
def test_who_sets_and_who_clears_a_flag(flag: int, set_by: set[Event], cleared_by: set[Event]) -> None:
    steps = [(event, state, event.after(state)) for event in Event for state in reachable() if event.may_meet(state)]
    assert {event for event, before, after in steps if after & flag and not before & flag} == set_by
    assert {event for event, before, after in steps if before & flag and not after & flag} == cleared_by


def test_a_write_changes_nothing_where_the_data_path_skips_it() -> None:
    for state in reachable():
        if state & (WRITABLE | WRITEBACK_IN_FLIGHT | PARTIAL) == WRITABLE:
            assert Event.WRITTEN.after(state) == state


class OneBlock(RuleBasedStateMachine):
    """A block of a tiny Mapping to which anything happens that may."""

    reached: set[int] = set()  # noqa: RUF012 - of all runs together

    def __init__(self) -> None:
        super().__init__()
        self.mapping = Mapping(2)
        self.mapping.insert(9, 1)
        self.mapping.insert(5, 0)

    @rule(event=st.sampled_from(Event))
    def something_happens(self, event: Event) -> None:
        if event.may_meet(self.mapping.flags[0]):
            happen(self.mapping, event)
            if event is Event.REMOVED:
                self.mapping.insert(5, 0)

    @invariant()
    def it_is_sound(self) -> None:
        self.mapping.check()
        assert self.mapping.flags[1] == 0
        self.reached.add(self.mapping.flags[0])


def test_a_mapping_reaches_the_states_of_the_table_and_no_others() -> None:
    OneBlock.reached.clear()
    run_state_machine_as_test(
        OneBlock, settings=settings(max_examples=400, stateful_step_count=50, derandomize=True, deadline=None)
    )
    assert OneBlock.reached == reachable()


def test_every_event_and_every_flag_is_used() -> None:
    source = inspect.getsource(mapping_module)
    for event in Event:
        assert source.count(f"_{event.name}[") == 1, f"one method of Mapping carries out {event.name}"
    table = inspect.getsource(Event)
    for name in ("DIRTY", "WRITE_INTENT", "RECORDED", "SUMMED", "WRITEBACK_IN_FLIGHT", "PARTIAL"):
        assert getattr(states, name) & ANY_FLAG
        assert name in table


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCES)))
def test_only_mapping_changes_a_state(path: Path) -> None:
    if path == SOURCES / "block" / "mapping.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        targets = list(node.targets) if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            written = ast.unparse(target.value) if isinstance(target, ast.Subscript) else ""
            assert written.rpartition(".")[2] != "flags", f"{path} changes a state: {ast.unparse(node)}"
