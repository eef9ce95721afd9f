"""Traces that other programs wrote: fio's logs, and what blkparse prints."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache.simulator.trace import Trace, TraceError, read_trace

GIB = 1 << 30
END = 2**63 - 1

FIO_2 = """fio version 2 iolog
/dev/sda add
/dev/sda open
/dev/sda read 4096 8192
/dev/sda sync 0 0
/dev/sda trim 0 1048576
/dev/sda write 0 512
/dev/sda datasync 0 0
/dev/sda close
"""
FIO_3 = """fio version 3 iolog
17 /dev/sda add
125 /dev/sda open
129 /dev/sda read 4096 8192
131 /dev/sda sync 0 0
132 /dev/sda trim 0 1048576
2000 /dev/sda write 0 512
2001 /dev/sda close
"""
BLKPARSE = """Input file sda.blktrace.0 added
  8,0    3        1     0.000000000   697  A   W 223490 + 8 <- (8,1) 223427
  8,0    3        2     0.000001829   697  Q   W 223490 + 8 [kjournald]
  8,0    3        3     0.000004117   697  G   W 223490 + 8 [kjournald]
  8,0    3        4     0.000005317   697  P   N [kjournald]
  8,0    3        5     0.000006000     0  m   N cfq697 insert_request
  8,0    3        6     0.000020000   697  Q  FN [kjournald]
  8,0    3        7     0.000021000   697  Q FWFSM 8 + 16 [kworker/0:1H]
  8,0    3        8     0.000022000   697  Q   D 2048 + 4096 [fstrim]
  8,0   11        1    12.500000999 31337  Q  RA 0 + 256 [a b]
  8,0   11        2    12.500001999 31337  U   N [fio] 1
  8,0   11        3    12.500009000     0  C  RA 0 + 256 [0]
CPU3 (sda):
 Reads Queued:           0,        0KiB	 Writes Queued:           2,       12KiB
 IO unplugs:             1        	 Timer unplugs:           0

Total (sda):
 Reads Queued:           1,      128KiB	 Writes Queued:           2,       12KiB

Throughput (R/W): 10KiB/s / 1KiB/s
Events (sda): 12 entries
Skips: 0 forward (0 -   0.0%)
"""


def read(directory: Path, content: str) -> Trace:
    path = directory / "log"
    path.write_text(content)
    trace = read_trace(path)
    trace.check()
    return trace


def rows(trace: Trace) -> list[tuple[int, int, int, int]]:
    return list(zip(trace.times_us, trace.writes, trace.offsets, trace.lengths, strict=True))


def refusal(directory: Path, content: str) -> str:
    """What is said of a log that cannot be read, less the file's name."""
    with pytest.raises(TraceError) as caught:
        read(directory, content)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{directory / 'log'}:")


# fio


def test_fio_2_has_no_time_without_waits(tmp_path: Path) -> None:
    trace = read(tmp_path, FIO_2)
    assert rows(trace) == [(0, 0, 4096, 8192), (1, 1, 0, 512)]
    assert not trace.timed


def test_fio_2_waits_add_up(tmp_path: Path) -> None:
    log = "fio version 2 iolog\nf wait 50 0\nf read 0 1\nf wait 1000\nf wait 2000 7\nf read 1 1\nf write 2 1\n"
    trace = read(tmp_path, log)
    assert rows(trace) == [(50, 0, 0, 1), (3050, 0, 1, 1), (3050, 1, 2, 1)]
    assert trace.timed


def test_fio_3_has_microseconds(tmp_path: Path) -> None:
    trace = read(tmp_path, FIO_3)
    assert rows(trace) == [(129, 0, 4096, 8192), (2000, 1, 0, 512)]
    assert trace.timed


def test_files_of_fio_lie_one_after_another(tmp_path: Path) -> None:
    lines = ["0 a add", "0 unused add", "1 b read 0 512", f"2 a read 5 {GIB}", "3 b write 512 512", "4 c read 7 1"]
    log = "\n".join(["fio version 3 iolog", *lines, "5 a read 0 1\n"])
    # In the order of the names: a (two GiB, since it is read beyond the first), unused (nothing), b (one), c.
    assert [offset for _, _, offset, _ in rows(read(tmp_path, log))] == [2 * GIB, 5, 2 * GIB + 512, 3 * GIB + 7, 0]


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("fio version 1 iolog\n", "1: 'fio version 1 iolog': fio's logs are read in version 2 and 3"),
        ("fio version 30 iolog\n", "1: 'fio version 30 iolog': fio's logs are read in version 2 and 3"),
        (FIO_2 + "f\n", "10: expected a file and an action"),
        (FIO_2 + "\n", "10: expected a file and an action"),
        (FIO_2 + "f peek 0 1\n", "10: unknown action 'peek'"),
        (FIO_2 + "f read 0\n", "10: expected an offset and a length after read"),
        (FIO_2 + "f write\n", "10: expected an offset and a length after write"),
        (FIO_2 + "f read 0 1 2\n", "10: expected an offset and a length after read"),
        (FIO_2 + "f read -1 1\n", "10: the offset must be a whole number, not '-1'"),
        (FIO_2 + "f read 0 x\n", "10: the length must be a whole number, not 'x'"),
        (FIO_2 + "f read 0 0\n", "10: a request of no bytes"),
        (FIO_2 + f"f read {END} 1\n", f"10: the request ends beyond {END}"),
        (FIO_2 + f"f read {END - GIB - 1} 1\n", f"10: the files end beyond {END} when laid one after another"),
        (FIO_2 + "f wait\n", "10: unknown action 'wait'"),
        (FIO_2 + "f wait soon\n", "10: the time to wait must be a whole number, not 'soon'"),
        (FIO_2 + f"f wait {END}\nf wait 1\nf read 0 1\n", f"12: the time is beyond {END} us"),
        (FIO_3 + "f read 0 512\n", "9: the time must be a whole number, not 'f'"),
        (FIO_3 + "3000\n", "9: expected a file and an action"),
        (FIO_3 + "3000 f wait 100\n", "9: unknown action 'wait'"),
        (FIO_3 + "3000000 f read 0 1\n0 f read 0 1\n", "10: time goes back, from 3000000 to 0 us"),
        ("fio version 3 iolog\n0 f add\n", " no request in it"),
    ],
)
def test_a_bad_fio_log_is_refused(tmp_path: Path, log: str, message: str) -> None:
    assert refusal(tmp_path, log) == message


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
def test_what_fio_writes_here_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    files = ":".join(str(tmp_path / name) for name in ("a.img", "b.img"))
    job = ["fio", "--name=j", f"--filename={files}", "--filesize=512k", "--rw=randrw", "--bs=4k", "--number_ios=64"]
    subprocess.run(
        [*job, "--fsync=4", f"--write_iolog={log}"], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    trace = read_trace(log)
    trace.check()
    assert len(trace) == 64
    assert {offset // GIB for offset in trace.offsets} == {0, 1}
    assert set(trace.lengths) == {4096}
    assert 0 < sum(trace.writes) < 64


# blkparse


def test_queued_reads_and_writes_of_blkparse(tmp_path: Path) -> None:
    trace = read(tmp_path, BLKPARSE)
    assert rows(trace) == [
        (1, 1, 223490 * 512, 8 * 512),
        (21, 1, 8 * 512, 16 * 512),
        (12_500_000, 0, 0, 256 * 512),
    ]
    assert trace.timed


def test_events_of_several_processors_are_put_in_order(tmp_path: Path) -> None:
    swapped = "8,0 0 1 0.900000000 1 Q R 8 + 8 [a]\n8,0 1 1 0.100000000 1 Q R 0 + 8 [a]\n"
    assert rows(read(tmp_path, swapped)) == [(100_000, 0, 0, 4096), (900_000, 0, 4096, 4096)]


def test_traces_after_a_summary_are_read_too(tmp_path: Path) -> None:
    assert len(read(tmp_path, BLKPARSE + " 8,0 1 1 13.000000000 1 Q R 0 + 8 [a]\n")) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("8,16 0 1 13.000000000 1 Q R 0 + 8 [a]", "a request of device 8,16 in a trace of 8,0: take one device"),
        ("8,0 0 1 13.000000000 1 Q R 0 + [a]", "expected a kind, a sector and a number of sectors, not 'R 0 + [a]'"),
        ("8,0 0 1 13.000000000 1 Q", "expected a kind, a sector and a number of sectors, not ''"),
        (
            "8,0 0 1 13.000000000 1 Q R -8 + 8 [a]",
            "expected a kind, a sector and a number of sectors, not 'R -8 + 8 [a]'",
        ),
        (f"8,0 0 1 13.000000000 1 Q R {END} + 8 [a]", f"the request ends beyond {END}"),
        (f"8,0 0 1 13.000000000 1 Q R 0 + {'9' * 4000} [a]", f"the number of sectors is beyond {END}: '{'9' * 40}...'"),
        (f"8,0 0 1 {END}.000000000 1 Q R 0 + 8 [a]", f"the time is beyond {END} us"),
        ("8,0 0 1 1.000000000 1 Q R 0 + 8 [a]", "time goes back, from 12500000 to 1000000 us"),
        ("8,0 0 1 13.0 1 Q R 0 + 8 [a]", "not an event of blkparse's default format: '8,0 0 1 13.0 1 Q R 0 + 8 [a]'"),
        ("garbage", "not an event of blkparse's default format: 'garbage'"),
    ],
)
def test_bad_output_of_blkparse_is_refused(tmp_path: Path, line: str, message: str) -> None:
    events = BLKPARSE[: BLKPARSE.index("CPU3")]
    assert refusal(tmp_path, f"{events}{line}\n") == f"13: {message}"


def test_a_request_of_no_sectors_moves_no_data(tmp_path: Path) -> None:
    assert refusal(tmp_path, "8,0 0 1 1.000000000 1 Q WS 0 + 0 [a]\n") == " no request in it"


@settings(max_examples=400, deadline=None)
@given(log=st.sampled_from([FIO_2, FIO_3, BLKPARSE]), data=st.data())
def test_a_mutilated_log_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, log: str, data: st.DataObject
) -> None:
    content = bytearray(log.encode())
    for _ in range(data.draw(st.integers(1, 4), "mutations")):
        begin = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(begin, min(len(content), begin + 8)))
        piece = st.one_of(st.binary(max_size=8), st.sampled_from([b"\n", b" ", b"9" * 20, b"8" * 5000, b"0"]))
        content[begin:end] = data.draw(piece)
    path = tmp_path_factory.getbasetemp() / "mutilated"
    path.write_bytes(content)
    try:
        trace = read_trace(path)
    except TraceError as exc:
        refused = str(exc)
    else:
        refused = f"{path}:"
        trace.check()
    assert refused.startswith(f"{path}:")
    assert "\n" not in refused
