"""The exerciser's model of crashes, against whole images that are kept after each write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.integration.promised import SECTOR, Promised, sectors

SIZE = 5 * SECTOR + 100
COUNT = 6

writes = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3 * SECTOR), st.integers(0, 255))
steps = st.lists(st.one_of(writes, st.just("flush")), max_size=12)


def sector(image: bytes, number: int) -> bytes:
    return image[number * SECTOR : (number + 1) * SECTOR]


def replayed(model: Promised, drawn: list[tuple[int, int, int] | str]) -> tuple[list[bytes], list[bytes]]:
    """Carry steps out; return the images before the last flush, and those since."""
    before: list[bytes] = []
    since = [bytes(model.expected)]
    for step in drawn:
        if isinstance(step, str):
            model.flush()
            before += since[:-1]
            since = since[-1:]
        else:
            offset, length, byte = step
            data = bytes([byte]) * min(length, SIZE - offset)
            model.write((offset, data))
            since.append(since[-1][:offset] + data + since[-1][offset + len(data) :])
        model.check()
        assert model.expected == since[-1]
    return before, since


@given(steps, st.lists(st.integers(0, 100), min_size=COUNT, max_size=COUNT))
def test_each_sector_may_be_as_it_was_after_any_write_since_the_last_flush(
    drawn: list[tuple[int, int, int] | str], choices: list[int]
) -> None:
    model = Promised(bytes(SIZE))
    _, since = replayed(model, drawn)
    left = b"".join(sector(since[choice % len(since)], number) for number, choice in enumerate(choices))
    assert model.crash(left) == ""
    assert model.expected == left
    assert model.crash(left) == ""


@given(steps, st.integers(0, COUNT - 1))
def test_no_sector_may_be_as_it_was_before(drawn: list[tuple[int, int, int] | str], number: int) -> None:
    model = Promised(bytes(SIZE))
    before, since = replayed(model, drawn)
    allowed = {sector(image, number) for image in since}
    for image in before:
        old = sector(image, number)
        if old not in allowed:
            last = since[-1]
            left = last[: number * SECTOR] + old + last[number * SECTOR + len(old) :]
            assert f"sector {number} " in model.crash(left)


@given(st.lists(writes, max_size=4), st.data())
def test_of_writes_side_by_side_any_may_have_happened(drawn: list[tuple[int, int, int]], data: st.DataObject) -> None:
    apart: list[tuple[int, bytes]] = []
    taken: set[int] = set()
    for offset, length, byte in drawn:
        end = min(offset + length, SIZE)
        if taken.isdisjoint(range(offset, end)):
            taken.update(range(offset, end))
            apart.append((offset, bytes([byte]) * (end - offset)))
    model = Promised(bytes(SIZE))
    model.write(*apart)
    left = bytearray(SIZE)
    for offset, content in apart:
        for number in sectors(offset, len(content)):
            if data.draw(st.booleans()):
                begin, end = max(offset, number * SECTOR), min(offset + len(content), (number + 1) * SECTOR)
                left[begin:end] = content[begin - offset : end - offset]
    assert model.crash(bytes(left)) == ""
