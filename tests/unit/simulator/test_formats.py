"""Traces that other programs wrote: fio's logs, and what blkparse prints."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
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
    assert rows(trace) == [(0, 0, 0, 1), (3000, 0, 1, 1), (3000, 1, 2, 1)]
    assert trace.timed


def test_fio_3_has_microseconds(tmp_path: Path) -> None:
    trace = read(tmp_path, FIO_3)
    assert rows(trace) == [(0, 0, 4096, 8192), (1871, 1, 0, 512)]
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
        (FIO_2 + f"f read {END - GIB - 1} 1\n", f" the files end beyond {END} when laid one after another"),
        (FIO_2 + "f wait\n", "10: unknown action 'wait'"),
        (FIO_2 + "f wait soon\n", "10: the time to wait must be a whole number, not 'soon'"),
        (FIO_2 + f"f read 0 1\nf wait {END}\nf wait 1\nf read 0 1\n", f"13: the time is beyond {END} us"),
        (FIO_3 + "f read 0 512\n", "9: the time must be a whole number, not 'f'"),
        (FIO_3 + "3000\n", "9: expected a file and an action"),
        (FIO_3 + "3000 f wait 100\n", "9: unknown action 'wait'"),
        (FIO_3 + "3000000 f read 0 1\n0 f read 0 1\n", "10: time goes back by 3000000 us"),
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
        (0, 1, 223490 * 512, 8 * 512),
        (19, 1, 8 * 512, 16 * 512),
        (12_499_999, 0, 0, 256 * 512),
    ]
    assert trace.timed
    assert (trace.format, trace.notes) == ("blkparse", ())


def test_events_of_several_processors_are_put_in_order(tmp_path: Path) -> None:
    swapped = "8,0 0 1 0.900000000 1 Q R 8 + 8 [a]\n8,0 1 1 0.100000000 1 Q R 0 + 8 [a]\n"
    assert rows(read(tmp_path, swapped)) == [(0, 0, 0, 4096), (800_000, 0, 4096, 4096)]


def test_traces_after_a_summary_are_read_too(tmp_path: Path) -> None:
    assert len(read(tmp_path, BLKPARSE + " 8,0 1 1 13.000000000 1 Q R 0 + 8 [a]\n")) == 4


def events(*lines: str) -> str:
    return "".join(f" {line}\n" for line in lines)


EVENTS = {
    "Q": events("8,0 0 1 1.0 1 Q WS 8 + 8 [a]", "8,0 0 2 3.0 1 Q R 16 + 8 [a]").replace(".0 ", ".000000000 "),
    "I": events("8,0 0 1 1.1 1 I WS 8 + 8 [a]", "8,0 0 2 3.1 1 I R 16 + 8 [a]").replace(".1 ", ".100000000 "),
    "D": events("8,0 0 1 1.2 1 D WS 8 + 8 [a]", "8,0 0 2 3.2 1 D R 16 + 8 [a]").replace(".2 ", ".200000000 "),
    "C": events("8,0 0 1 1.3 1 C WS 8 + 8 [0]", "8,0 0 2 3.3 1 C R 16 + 8 [0]").replace(".3 ", ".300000000 "),
}


@pytest.mark.parametrize("order", ["QIDC", "CDIQ", "IDC", "CDI", "IC", "CI", "C", "D", "Q"])
def test_g07_the_best_events_that_are_there_stand_for_the_requests(tmp_path: Path, order: str) -> None:
    trace = read(tmp_path, "".join(sorted("".join(EVENTS[action] for action in order).splitlines(keepends=True))))
    assert rows(trace) == [(0, 1, 4096, 4096), (2_000_000, 0, 8192, 4096)]
    best = min(order, key="QDIC".index)
    assert [note[-2] for note in trace.notes] == ([] if best == "Q" else [best])


def test_g07_events_without_data_are_skipped_as_blkparse_prints_them(tmp_path: Path) -> None:
    """What blkparse 1.2.0 printed of flushes, SCSI commands, failed and forced requests."""
    printed = """  8,0    0        2     0.000000000    77  A   W 2048 + 8 <- (8,1) 0
  8,0    0        4     0.000002000    77  R   W 2048 + 8 [0]
  8,0    0        5     0.000003000    77  X  WS 2048 / 542599534 [(null)]
  8,0    0        6     0.000004000    77  D  WS 2048 + 8 [(null)]
  8,0    0        7     0.899998000    77  C  WS 2048 + 8 [0]
  8,0    0        9     1.999998000    77  D  FW [(null)]
  8,0    0       10     2.099998000    77  C  FW 0 [0]
  8,0    0       12     2.299998000    77  D  RA 8 + 128 [(null)]
  8,0    0       13     2.399998000    77  C  RA 8 + 128 [5]
  8,0    0       15     2.599998000    77  D   R 36 (4a 01 00 00 10) [(null)]
  8,0    0       16     2.649998000    77  C   R (4a 01 00 00 10) [0]
  8,0    0       17     2.699998000    77  D  WF 16 + 1 [(null)]
  8,0    0       18     2.799998000    77  P   W [(null)]
  8,0    0       19     2.899998000    77 UT   W [(null)] 24
  8,0    0       23     3.299998000    77  C  WM 16 + 1 [0]
"""
    issued = [(0, 1, 2048 * 512, 4096), (2_299_994, 0, 4096, 65536), (2_699_994, 1, 8192, 512)]
    assert rows(read(tmp_path, printed)) == issued
    completed = "".join(line for line in printed.splitlines(keepends=True) if "  D  " not in line)
    assert [row[1:] for row in rows(read(tmp_path, completed))] == [row[1:] for row in issued]


def test_g07_several_devices_of_blkparse_lie_side_by_side_or_are_chosen(tmp_path: Path) -> None:
    log = events("8,16 0 1 1.000000000 1 Q R 8 + 8 [a]", "8,0 0 1 2.000000000 1 Q W 8 + 8 [a]")
    trace = read(tmp_path, log)
    assert rows(trace) == [(0, 0, 4096, 4096), (1_000_000, 1, GIB + 4096, 4096)]
    assert trace.notes == ("2 devices side by side: 8,16, 8,0 (--device chooses)",)
    chosen = read_trace(tmp_path / "log", devices=["8,0"])
    assert (rows(chosen), chosen.notes) == ([(0, 1, 4096, 4096)], ())
    with pytest.raises(TraceError, match=r"log: no device sda in it, but 8,16, 8,0"):
        read_trace(tmp_path / "log", devices=["sda"])


def test_g07_each_device_has_its_own_best_events(tmp_path: Path) -> None:
    queued = events("8,16 0 1 4.000000000 1 C R 64 + 8 [0]", "8,16 0 1 4.500000000 1 Q R 8 + 8 [a]")
    both = read(tmp_path, EVENTS["D"] + queued)
    assert rows(both) == [(0, 1, 4096, 4096), (2_000_000, 0, 8192, 4096), (3_300_000, 0, GIB + 4096, 4096)]
    assert both.notes == (
        "2 devices side by side: 8,0, 8,16 (--device chooses)",
        "8,0 without Q events, so requests as they were issued to the driver (D)",
    )
    alone = read_trace(tmp_path / "log", devices=["8,16"])
    assert (rows(alone), alone.notes) == ([(0, 0, 4096, 4096)], ())
    assert rows(read_trace(tmp_path / "log", devices=["8,0"])) == rows(both)[:2]


def test_g07_requests_that_went_through_two_devices_do_not_count_twice(tmp_path: Path) -> None:
    log = events(
        "253,0 0 1 1.000000000 1 Q R 8 + 8 [a]",
        "8,0 0 2 1.000001000 1 A R 108 + 8 <- (253,0) 8",
        "8,0 0 3 1.000002000 1 Q R 108 + 8 [a]",
    )
    assert refusal(tmp_path, log) == ("2: requests of 253,0 go on to 8,0, and would count twice: take --device 253,0")
    for device, offset in (("253,0", 8 * 512), ("8,0", 108 * 512)):
        assert rows(read_trace(tmp_path / "log", devices=[device])) == [(0, 0, offset, 4096)]


BINARY = bytes.fromhex("07746165") + bytes(60)


@pytest.mark.parametrize("content", [BINARY, bytes.fromhex("65617407") + bytes(60)])
def test_g07_a_recording_of_blktrace_is_told_how_to_become_text(tmp_path: Path, content: bytes) -> None:
    for name, words in (("sda.blktrace.0", "-i {}/sda"), ("a b.blktrace.11", "-i '{}/a b'"), ("raw", "-i - < {}/raw")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TraceError) as caught:
            read_trace(tmp_path / name)
        assert str(caught.value) == (
            f"{tmp_path / name}: what blktrace recorded, not yet read by blkparse: "
            f"blkparse {words.format(tmp_path)} | fusecache simulate - ..."
        )


def test_g07_an_archive_of_files_is_told_how_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "member").write_text(FIO_3)
    with tarfile.open(tmp_path / "log.tgz", "w:gz") as archive:
        archive.add(tmp_path / "member", "member")
    with pytest.raises(TraceError, match=r"log.tgz: an archive of files: tar -xOf /.*log.tgz \| fusecache simulate - "):
        read_trace(tmp_path / "log.tgz")


def test_g07_a_format_that_was_told_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(BLKPARSE)
    assert len(read_trace(path, form="blkparse")) == 3
    with pytest.raises(TraceError, match="log:1: the header must be t_us,op,offset,length"):
        read_trace(path, form="csv")
    with pytest.raises(TraceError, match="log:1: not a row of MSR Cambridge"):
        read_trace(path, form="msr")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("8,0 0 1 13.000000000 1 Q R 0 + [a]", "expected a kind, a sector and a number of sectors, not 'R 0 + [a]'"),
        ("8,0 0 1 13.000000000 1 Q", "expected a kind, a sector and a number of sectors, not ''"),
        (
            "8,0 0 1 13.000000000 1 Q R -8 + 8 [a]",
            "expected a kind, a sector and a number of sectors, not 'R -8 + 8 [a]'",
        ),
        (f"8,0 0 1 13.000000000 1 Q R {END} + 8 [a]", f"the request ends beyond {END}"),
        (f"8,0 0 1 13.000000000 1 Q R 0 + {'9' * 4000} [a]", f"the number of sectors is beyond {END}: '{'9' * 40}...'"),
        (f"8,0 0 1 {END}.000000000 1 Q R 0 + 8 [a]", f"the time is beyond {END} us"),
        ("8,0 0 1 1.000000000 1 Q R 0 + 8 [a]", "time goes back by 11500001 us"),
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
