"""The house's own traces: what is read from them, and what is said of those that cannot be."""

from __future__ import annotations

import gzip
import os
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache.errors import UsageError
from fusecache.simulator import csv_trace
from fusecache.simulator.trace import Trace, TraceError, read_trace, trace_names

HEADER = "t_us,op,offset,length\n"
GOOD = HEADER + "5,r,0,4096\n5,w,8192,512\n1000007,r,4096,1\n"
END = 2**63 - 1


def written(directory: Path, content: str | bytes, name: str = "some.csv") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(trace: Trace) -> list[tuple[int, int, int, int]]:
    trace.check()
    return list(zip(trace.times_us, trace.writes, trace.offsets, trace.lengths, strict=True))


def refusal(path: Path) -> str:
    """What is said of a trace that cannot be read, less the file's name."""
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def test_a_trace(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, GOOD))
    assert rows(trace) == [(0, 0, 0, 4096), (0, 1, 8192, 512), (1000002, 0, 4096, 1)]
    assert trace.timed
    assert len(trace) == 3
    assert (trace.format, trace.notes) == ("csv", ())


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + GOOD,
        "\ufeff" + GOOD.replace("\n", "\r\n"),
        GOOD.replace(",r,", ",R,").replace(",w,", ",W,"),
        GOOD.replace("\n", "\n\n"),
        GOOD + "\n\n",
        GOOD.replace("\n", "\r\n \t\r\n"),
        GOOD.replace("length\n", "length \n"),
    ],
    ids=["mark", "mark, dos", "capitals", "blank", "blank at the end", "blank, dos", "header with a blank"],
)
def test_g07_what_spreadsheets_make_of_a_trace_is_read(tmp_path: Path, content: str) -> None:
    assert rows(read_trace(written(tmp_path, content))) == rows(read_trace(written(tmp_path, GOOD, "good")))


def test_g07_lines_are_counted_with_the_blank_ones(tmp_path: Path) -> None:
    assert (
        refusal(written(tmp_path, GOOD.replace("\n", "\n\n") + "7,r\n"))
        == "9: expected t_us,op,offset,length, found 2 fields"
    )


def test_g07_text_in_utf_16_is_told_from_nonsense(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.encode("utf-16"))
    assert refusal(path) == f" text in UTF-16: iconv -f UTF-16 -t UTF-8 {path} | fusecache simulate - ..."


@pytest.mark.parametrize("content", [GOOD.replace("\n", "\r\n"), GOOD.rstrip("\n")], ids=["dos", "no newline"])
def test_line_ends_of_other_kinds(tmp_path: Path, content: str) -> None:
    assert rows(read_trace(written(tmp_path, content))) == rows(read_trace(written(tmp_path, GOOD, "good")))


def test_compressed_traces_are_told_by_their_content(tmp_path: Path) -> None:
    assert len(read_trace(written(tmp_path, gzip.compress(GOOD.encode()), "unnamed"))) == 3


@pytest.mark.parametrize(
    ("file", "name"),
    [("a.csv.gz", "a"), ("a.csv", "a"), ("a", "a"), ("v1.2.csv", "v1.2"), ("hosts.log.gz", "hosts"), (".csv", ".csv")],
)
def test_a_trace_is_named_after_its_file(tmp_path: Path, file: str, name: str) -> None:
    assert read_trace(written(tmp_path, GOOD, file)).name == name


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.csv", "b.csv.gz"], ["a", "b"]),
        (["x/a.csv", "y/a.csv", "b.csv"], ["x/a.csv", "y/a.csv", "b"]),
        (["a.csv", "a.csv.xz"], ["a.csv", "a.csv.xz"]),
        (["a.csv", "a.csv", "./a.csv"], ["a.csv", "a.csv (2)", "a.csv (3)"]),
        (["-", "stdin.csv"], ["-", "stdin.csv"]),
    ],
)
def test_g07_traces_are_told_from_each_other(files: list[str], names: list[str]) -> None:
    assert trace_names([Path(file) for file in files]) == names


def test_g07_the_standard_input_is_one_trace() -> None:
    with pytest.raises(UsageError, match="- can stand once"):
        trace_names([Path("-"), Path("a"), Path("-")])


@pytest.mark.parametrize(
    ("times", "timed"),
    [
        ([0], False),
        ([0, 1, 2], False),
        ([0, 1, 3], True),
        ([1, 2, 3], False),
        ([7], False),
        ([7, 8, 10], True),
        ([0, 0], True),
    ],
)
def test_times_that_only_count_are_no_times(tmp_path: Path, times: list[int], timed: bool) -> None:
    content = HEADER + "".join(f"{time},r,0,512\n" for time in times)
    assert read_trace(written(tmp_path, content)).timed is timed


def test_nearly_sorted_requests_are_sorted_and_stay_in_order_otherwise(tmp_path: Path) -> None:
    content = HEADER + "5,r,1,1\n4,r,2,1\n5,r,3,1\n1000005,r,4,1\n5,r,5,1\n"
    trace = read_trace(written(tmp_path, content))
    assert rows(trace) == [(0, 0, 2, 1), (1, 0, 1, 1), (1, 0, 3, 1), (1, 0, 5, 1), (1000001, 0, 4, 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "0,r,0\n", "2: expected t_us,op,offset,length, found 3 fields"),
        (HEADER + "0,r,0,1,2\n", "2: expected t_us,op,offset,length, found 5 fields"),
        (GOOD + "7,x,0,1\n", "5: op must be r or w, not 'x'"),
        (GOOD + "7,rw,0,1\n", "5: op must be r or w, not 'rw'"),
        (GOOD + "7,,0,1\n", "5: op must be r or w, not ''"),
        (GOOD + "x,r,0,1\n", "5: t_us must be a whole number, not 'x'"),
        (GOOD + "-1,r,0,1\n", "5: t_us must be a whole number, not '-1'"),
        (GOOD + "7,r,-4096,1\n", "5: offset must be a whole number, not '-4096'"),
        (GOOD + "7,r,1_0,1\n", "5: offset must be a whole number, not '1_0'"),
        (GOOD + "7,r, 1,1\n", "5: offset must be a whole number, not ' 1'"),
        (GOOD + "7,r,0,4096.0\n", "5: length must be a whole number, not '4096.0'"),
        (GOOD + "7,r,0,\n", "5: length must be a whole number, not ''"),
        (GOOD + "2000000,r,0,0\n", "5: a request of no bytes"),
        (GOOD + f"2000000,r,0,{2**30 + 1}\n", f"5: a request of {2**30 + 1} bytes is larger than {2**30} (1 GiB)"),
        (GOOD + f"2000000,r,{END},1\n", f"5: the request ends beyond {END}"),
        (GOOD + f"{END + 1},r,0,1\n", f"5: t_us is beyond {END}: '{END + 1}'"),
        (GOOD + f"7,r,{10**30},1\n", f"5: offset is beyond {END}: '{10**30}'"),
        (GOOD + "7,r,0," + "9" * 10_000, f"5: length is beyond {END}: '{'9' * 40}...'"),
        (GOOD + "6,r,0,1\n", "5: time goes back by 1000001 us"),
        ("t_us,op,offset,length,more\n0,r,0,1\n", "1: the header must be t_us,op,offset,length"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, content: str, message: str) -> None:
    assert refusal(written(tmp_path, content)) == message
    assert refusal(written(tmp_path, gzip.compress(content.encode()), "packed")) == message


def test_the_largest_numbers_are_read(tmp_path: Path) -> None:
    content = f"{HEADER}0,r,0,1\n{END},w,{END - 2**30},{2**30}\n"
    assert rows(read_trace(written(tmp_path, content))) == [(0, 0, 0, 1), (END, 1, END - 2**30, 2**30)]


@pytest.mark.parametrize("content", [HEADER, HEADER.rstrip()])
def test_a_trace_without_requests_is_refused(tmp_path: Path, content: str) -> None:
    assert refusal(written(tmp_path, content)) == " no request in it"


@pytest.mark.parametrize("content", [b"", b"\n", b"\x7fELF\x02\x01\x01\0\0", b"hello\n", bytes(range(256)) * 20])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refusal(written(tmp_path, content)).startswith("1: not a trace")


def test_damaged_compression_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD.encode())
    flipped = whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:]
    for damaged in (whole[:-9], whole[:12], whole[:3], flipped, whole + b"junk"):
        assert refusal(written(tmp_path, damaged)).startswith(" the compressed data is damaged")


BOMBS = {
    "a line without an end": (HEADER.encode(), b"0" * 2**20, f"2: a line longer than 4096 bytes: '{'0' * 40}...'"),
    "a header without an end": (HEADER.encode().rstrip(), b"0" * 2**20, "1: the header must be t_us,op,offset,length"),
    "a log without line ends": (b"fio version 2 iolog\n", b"a" * 2**20, "2: a line longer than 4096 bytes"),
    "events without line ends": (b"  8,0 ", b"a" * 2**20, "1: a line longer than 4096 bytes"),
    "a log of many files": (
        b"fio version 2 iolog\n",
        b"".join(b"%d add\n" % number for number in range(2**16 + 1)),
        "65538: more than 65536 files",
    ),
    "many requests": (HEADER.encode(), b"0,r,0,4096\n" * 2**16, "65538: more than 65536 requests (--most-requests"),
}


@pytest.mark.parametrize("what", BOMBS)
def test_f19_what_unpacks_without_end_is_refused_in_bounded_memory(tmp_path: Path, what: str) -> None:
    start, piece, message = BOMBS[what]
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        file.write(start)
        for _ in range(64):
            file.write(piece)
    tracemalloc.start()
    try:
        with pytest.raises(TraceError) as caught:
            read_trace(path, 2**16)
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}:{message}")


def test_f19_as_many_requests_as_are_allowed_are_read(tmp_path: Path) -> None:
    for compact in (HEADER + "0,r,0,1\n" * 5, HEADER + "2,r,0,1\n1,r,0,1\n" + "2,r,0,1\n" * 3):
        path = written(tmp_path, compact)
        assert len(read_trace(path, 5)) == 5
        with pytest.raises(TraceError, match="6: more than 4 requests"):
            read_trace(path, 4)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing") == " No such file or directory"
    assert refusal(tmp_path) == " Is a directory"


def test_many_pieces_are_read_as_one_and_lines_stay_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    wanted = [(time, rng.randrange(2), rng.randrange(10**9), rng.randrange(1, 10**5)) for time in range(7, 5007)]
    lines = [f"{3 * time},{'rw'[write]},{offset},{length}\n" for time, write, offset, length in wanted]
    wanted = [(3 * (time - 7), write, offset, length) for time, write, offset, length in wanted]
    for piece in (1, 100, 10_000):
        monkeypatch.setattr(csv_trace, "_PART", piece)
        assert rows(read_trace(written(tmp_path, HEADER + "".join(lines)))) == wanted
        bad = [*lines[:4000], "oops\n", *lines[4000:]]
        assert refusal(written(tmp_path, HEADER + "".join(bad))).startswith("4002: expected")


@settings(max_examples=200, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 1), st.integers(0, 2**62), st.integers(1, 2**30)),
        min_size=1,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, ...]]) -> None:
    lines = (f"{time},{'rw'[write]},{offset},{length}\n" for time, write, offset, length in requests)
    path = written(tmp_path_factory.getbasetemp(), HEADER + "".join(lines))
    begin = min(time for time, *_ in requests)
    wanted = [(time - begin, *rest) for time, *rest in requests]
    assert rows(read_trace(path)) == sorted(wanted, key=lambda request: request[0])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_mutilated_trace_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(GOOD.encode())
    if data.draw(st.booleans(), "compressed"):
        content = bytearray(gzip.compress(content, mtime=0))
    for _ in range(data.draw(st.integers(1, 4), "mutations")):
        begin = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(begin, min(len(content), begin + 8)))
        content[begin:end] = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"\n", b",", b"9" * 20])))
    path = written(tmp_path_factory.getbasetemp(), bytes(content), "mutilated")
    try:
        trace = read_trace(path)
    except TraceError as exc:
        refused = str(exc)
    else:
        refused = f"{path}:"
        trace.check()
    assert refused.startswith(f"{path}:")
    assert "\n" not in refused


def test_a_pipe_is_read() -> None:
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(gzip.compress(GOOD.encode()))
        assert len(read_trace(Path(f"/dev/fd/{reading}"))) == 3
    finally:
        os.close(reading)
