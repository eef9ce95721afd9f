"""A trace is the same trace, whenever its recorder's clock began: in every format, and for every policy."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache.simulator.replay import simulate
from fusecache.simulator.rules import DataPath, Rules
from fusecache.simulator.trace import read_trace

BLOCK = 4096
SECOND = 1_000_000_000

Request = tuple[int, bool, int, int]
"""Nanoseconds, whether it writes, sector, sectors."""


def seconds(time: int) -> str:
    return f"{time // SECOND}.{time % SECOND:09}"


def csv(requests: Sequence[Request]) -> str:
    lines = [f"{time // 1000},{'rw'[write]},{sector * 512},{count * 512}\n" for time, write, sector, count in requests]
    return "t_us,op,offset,length\n" + "".join(lines)


def fio(requests: Sequence[Request]) -> str:
    lines = [
        f"{time // 1000} /dev/sda {('read', 'write')[write]} {sector * 512} {count * 512}\n"
        for time, write, sector, count in requests
    ]
    return "fio version 3 iolog\n" + "".join(lines)


def fio_waits(requests: Sequence[Request]) -> str:
    clock = 0
    text = "fio version 2 iolog\n"
    for time, write, sector, count in requests:
        text += f"f wait {time // 1000 - clock}\nf {('read', 'write')[write]} {sector * 512} {count * 512}\n"
        clock = time // 1000
    return text


def blkparse(requests: Sequence[Request]) -> str:
    return "".join(
        f"  8,0 1 {number} {seconds(time)} 1 Q {'RW'[write]} {sector} + {count} [a]\n"
        for number, (time, write, sector, count) in enumerate(requests)
    )


def msr(requests: Sequence[Request]) -> str:
    return "".join(
        f"{time // 100},srv,0,{('Read', 'Write')[write]},{sector * 512},{count * 512},7\n"
        for time, write, sector, count in requests
    )


def alibaba(requests: Sequence[Request]) -> str:
    return "".join(
        f"3,{'RW'[write]},{sector * 512},{count * 512},{time // 1000}\n" for time, write, sector, count in requests
    )


def tencent(requests: Sequence[Request]) -> str:
    return "".join(
        f"{10**9 + time // SECOND},{sector},{count},{int(write)},4\n" for time, write, sector, count in requests
    )


def spc(requests: Sequence[Request]) -> str:
    return "".join(
        f"0,{sector},{count * 512},{'RW'[write]},{seconds(time)}\n" for time, write, sector, count in requests
    )


def systor(requests: Sequence[Request]) -> str:
    return "".join(
        f"{seconds(time)},0.1,{'RW'[write]},0,{sector * 512},{count * 512}\n" for time, write, sector, count in requests
    )


def cloudphysics(requests: Sequence[Request]) -> bytes:
    return b"".join(
        struct.pack("<IIIHHQQ", 1, count * 512, 1, 0x2A if write else 0x28, 0x100, sector, time // 1000)
        for time, write, sector, count in requests
    )


def cloudphysics_csv(requests: Sequence[Request]) -> str:
    lines = [
        f"1,{time // SECOND},{'2a' if write else '28'},{count * 512},{sector}\n"
        for time, write, sector, count in requests
    ]
    return "version,time,op,size,lbn\n" + "".join(lines)


FORMATS: list[tuple[Callable[[Sequence[Request]], str | bytes], int]] = [
    (csv, 1000),
    (fio, 1000),
    (fio_waits, 1000),
    (blkparse, 1000),
    (msr, 100),
    (alibaba, 1000),
    (tencent, SECOND),
    (spc, 1000),
    (systor, 1000),
    (cloudphysics, 1000),
    (cloudphysics_csv, SECOND),
]
"""What writes a trace, and the nanoseconds that its clock's shifts are multiples of."""

any_requests = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), st.booleans(), st.integers(0, 400), st.integers(1, 20)),
    min_size=1,
    max_size=30,
).map(lambda requests: sorted(requests, key=lambda request: request[0]))


@pytest.mark.parametrize(("write", "unit"), FORMATS, ids=[write.__name__ for write, _ in FORMATS])
@settings(max_examples=60, deadline=None)
@given(requests=any_requests, shift=st.integers(0, 8 * 10**9))
def test_g06_a_shift_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    write: Callable[[Sequence[Request]], str | bytes],
    unit: int,
    requests: list[Request],
    shift: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"shifted-{write.__name__}"
    traces = []
    for by in (0, shift * unit):
        content = write([(time + by, writes, sector, count) for time, writes, sector, count in requests])
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        traces.append(read_trace(path))
        traces[-1].check()
    assert traces[0] == traces[1]
    assert traces[0].times_us[0] == 0


@pytest.mark.parametrize("data_path", DataPath)
@pytest.mark.parametrize("policy", ["smq", "mq", "adaptive", "lru", "opt"])
@settings(max_examples=5, deadline=None)
@given(shift=st.integers(1, 10**15))
def test_g06_a_shift_changes_no_figure(
    tmp_path_factory: pytest.TempPathFactory, policy: str, data_path: DataPath, shift: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "figures"
    results = []
    for by in (0, shift):
        lines = (f"{by + 1700 * i},{'rw'[i % 3 == 1]},{BLOCK * (i * i % 97)},{BLOCK}\n" for i in range(4000))
        path.write_text("t_us,op,offset,length\n" + "".join(lines))
        result = simulate(
            read_trace(path),
            policy,
            tunables=(),
            block_size=BLOCK,
            cache_blocks=20,
            rules=Rules(data_path=data_path, dirty_us=1_000_000),
        )
        results.append(replace(result, seconds=0))
    assert results[0] == results[1]
    assert results[0].hits > 0
