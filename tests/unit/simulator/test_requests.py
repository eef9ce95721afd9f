from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusecache.simulator import requests
from fusecache.simulator.requests import GOES_ON, WHOLE, WRITES, Portion, count_origin, count_unique, split
from tests.unit.simulator.making import BLOCK, Request, make_trace

Piece = tuple[int, int, int, int, int]

any_requests = st.lists(
    st.tuples(st.sampled_from("rw"), st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=30
)


def cut(requests: list[Request], block_size: int) -> list[Piece]:
    """Cut requests byte by byte: time, kind, oblock, offset, length of each piece."""
    pieces: list[Piece] = []
    for number, (op, offset, length) in enumerate(requests):
        ends = [end for end in range(offset + 1, offset + length) if end % block_size == 0]
        for start, stop in pairwise([offset, *ends, offset + length]):
            kind = WRITES * (op == "w") + WHOLE * (stop - start == block_size) + GOES_ON * (stop < offset + length)
            pieces.append((number, kind, start // block_size, start, stop - start))
    return pieces


def joined(portions: list[Portion]) -> list[Piece]:
    return [
        piece
        for portion in portions
        for piece in zip(
            portion.times_us, portion.kinds, portion.oblocks, portion.offsets, portion.lengths, strict=True
        )
    ]


@given(any_requests, st.integers(1, 12), st.integers(1, 5))
def test_requests_are_cut_at_block_boundaries_however_they_are_chunked(
    wanted: list[Request], block_size: int, portion: int
) -> None:
    trace = make_trace(wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "PORTION", portion)
        portions = list(split(trace, block_size))
    assert joined(portions) == cut(wanted, block_size)
    assert all(0 < len(each.oblocks) <= portion for each in portions)
    assert portions[-1].done == len(wanted)
    assert [each.done for each in portions] == sorted(each.done for each in portions)


def test_requests_inside_blocks_and_others_are_cut_alike() -> None:
    inside: list[Request] = [("r", 0, BLOCK), ("w", BLOCK, BLOCK), ("w", 2 * BLOCK + 1, BLOCK - 1), ("r", 512, 512)]
    across: Request = ("r", BLOCK - 1, 2)
    kinds = [WHOLE, WHOLE + WRITES, WRITES, 0]
    assert [list(portion.kinds) for portion in split(make_trace(inside), BLOCK)] == [kinds]
    assert [list(portion.kinds) for portion in split(make_trace([*inside, across]), BLOCK)] == [[*kinds, GOES_ON, 0]]


def test_the_longest_request_comes_in_chunks_of_the_usual_size() -> None:
    trace = make_trace([("w", 100, 2**30)])
    portions = list(islice(split(trace, 512), 3))
    assert [len(portion.oblocks) for portion in portions] == [requests.PORTION] * 3
    assert portions[0].lengths[:2] == [412, 512]
    assert portions[2].oblocks[-1] == 3 * requests.PORTION - 1


@given(any_requests, st.integers(1, 12))
def test_unique_blocks_and_the_origin_are_counted(wanted: list[Request], block_size: int) -> None:
    trace = make_trace(wanted)
    oblocks = {oblock for _, _, oblock, _, _ in cut(wanted, block_size)}
    assert count_unique(trace, block_size) == len(oblocks)
    assert count_origin(trace, block_size) == max(oblocks) + 1


def test_counting_costs_nothing_by_the_block() -> None:
    trace = make_trace([("r", n * 2**29, 2**30) for n in range(1000)])
    assert count_unique(trace, 1) == count_origin(trace, 1) == 1001 * 2**29
