"""Traces of public archives, as their descriptions say that they are; all samples are made up here."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusecache.simulator.archives import LAYOUTS
from fusecache.simulator.trace import Trace, TraceError, read_trace

GIB = 1 << 30
END = 2**63 - 1
FILETIME = 128_166_372_000_000_000  # a day of 2007, in units of 100 ns since 1601
UNIX = 1_538_323_200

MSR = f"""{FILETIME + 3},srv,1,Write,4096,512,999
{FILETIME + 17},srv,1,Read,8192,4096,45361
{FILETIME + 10_000_003},srv,1,Read,0,1024,12
"""
ALIBABA = """7,W,126703644672,4096,1577808000000626
7,R,8126464,512,1577808000000700
7,W,126703648768,4096,1577808001000626
"""
TENCENT = f"""{UNIX},1000,8,1,1063
{UNIX},0,1,0,1063
{UNIX + 1},2000,16,0,1063
"""
SPC = """0,1000,8192,W,0.551706,host/one
0, 16,\t512,r,0.554041
0,2000,1024,w,1.551706,0x123,5.99,more
"""
SYSTOR = f"""Timestamp,Response,IOType,LUN,Offset,Size
{UNIX}.013118000,0.000806000,W,4,4096,8192
{UNIX}.014118999,0.000806000,R,4,0,4096
{UNIX + 1}.013118000,0.1,R,4,8192,512
"""
CLOUDPHYSICS_CSV = """version,time,op,size,lbn
1,5633898,2a,512,1000
1,5633898,28,4096,8
1,5633899,8A,1024,16
"""
SAMPLES = {
    "msr": (MSR, [(0, 1, 4096, 512), (1, 0, 8192, 4096), (1_000_000, 0, 0, 1024)]),
    "alibaba": (
        ALIBABA,
        [(0, 1, 126_703_644_672, 4096), (74, 0, 8_126_464, 512), (1_000_000, 1, 126_703_648_768, 4096)],
    ),
    "tencent": (TENCENT, [(0, 1, 512_000, 4096), (0, 0, 0, 512), (1_000_000, 0, 1_024_000, 8192)]),
    "spc": (SPC, [(0, 1, 512_000, 8192), (2335, 0, 8192, 512), (1_000_000, 1, 1_024_000, 1024)]),
    "systor": (SYSTOR, [(0, 1, 4096, 8192), (1000, 0, 0, 4096), (1_000_000, 0, 8192, 512)]),
    "cloudphysics-csv": (CLOUDPHYSICS_CSV, [(0, 1, 512_000, 512), (0, 0, 4096, 4096), (1_000_000, 1, 8192, 1024)]),
}


def read(directory: Path, content: str | bytes, form: str | None = None, devices: tuple[str, ...] = ()) -> Trace:
    path = directory / "trace"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    trace = read_trace(path, form=form, devices=devices)
    trace.check()
    return trace


def rows(trace: Trace) -> list[tuple[int, int, int, int]]:
    return list(zip(trace.times_us, trace.writes, trace.offsets, trace.lengths, strict=True))


def refusal(directory: Path, content: str | bytes, form: str | None = None, devices: tuple[str, ...] = ()) -> str:
    """What is said of a trace that cannot be read, less the file's name."""
    with pytest.raises(TraceError) as caught:
        read(directory, content, form, devices)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{directory / 'trace'}:")


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("told", [False, True])
def test_g07_each_is_read_in_its_units_and_known_by_its_rows(tmp_path: Path, name: str, told: bool) -> None:
    content, wanted = SAMPLES[name]
    trace = read(tmp_path, content, name if told else None)
    assert rows(trace) == wanted
    assert (trace.format, trace.timed, trace.notes) == (name, True, ())


@pytest.mark.parametrize("name", SAMPLES)
def test_g07_with_and_without_the_names_of_the_columns(tmp_path: Path, name: str) -> None:
    content, wanted = SAMPLES[name]
    header = LAYOUTS[name].columns
    bare = content.removeprefix(header + "\n")
    assert rows(read(tmp_path, bare, name)) == wanted
    for first in (header, header.upper(), "\ufeff" + header + "\r"):
        trace = read(tmp_path, f"{first}\n{bare}")
        assert (trace.format, rows(trace)) == (name, wanted)


@pytest.mark.parametrize("name", SAMPLES)
def test_g07_lines_of_dos_blank_ones_and_no_last_end(tmp_path: Path, name: str) -> None:
    content, wanted = SAMPLES[name]
    assert rows(read(tmp_path, content.replace("\n", "\r\n\r\n"))) == wanted
    assert rows(read(tmp_path, content.rstrip("\n"))) == wanted


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("damage", ["oops", "1,2", "-1,-1,-1,-1,-1,-1,-1", "\0\0\0", "1" * 30])
def test_g07_a_damaged_line_is_named(tmp_path: Path, name: str, damage: str) -> None:
    content, layout = SAMPLES[name][0], LAYOUTS[name]
    line = content.count("\n") + 1
    said = refusal(tmp_path, f"{content}{damage}\n{content}")
    assert said.startswith(f"{line}: not a row of {layout.title} ({layout.columns}): '")
    assert refusal(tmp_path, f"{content}{'1,' * 5000}\n").startswith(f"{line}: a line longer than 4096 bytes")


def test_g07_the_ops_of_each_are_known(tmp_path: Path) -> None:
    assert list(read(tmp_path, MSR.replace("Read", "read").replace("Write", "WRITE")).writes) == [1, 0, 0]
    assert list(read(tmp_path, ALIBABA.replace("W", "w").replace("R", "r")).writes) == [1, 0, 1]
    assert refusal(tmp_path, MSR + MSR.replace("Read", "Trim")).startswith("5: not a row of MSR Cambridge")
    assert refusal(tmp_path, TENCENT + TENCENT.replace(",0,1063", ",2,1063")).startswith("5: not a row of Tencent")


def test_g07_requests_without_data_or_answer_are_left_out(tmp_path: Path) -> None:
    assert rows(read(tmp_path, SPC + "0,5,0,R,2.0\n")) == SAMPLES["spc"][1]
    trace = read(tmp_path, SYSTOR + f"{UNIX + 2}.000000000,,,4,8192,4096\n")
    assert rows(trace) == SAMPLES["systor"][1]
    assert trace.notes == ("requests left out, of which nobody knows whether they read or write: 1",)


def test_g07_rows_that_were_written_at_the_end_of_requests_are_sorted_by_their_begin(tmp_path: Path) -> None:
    late = f"{FILETIME + 599 * 10_000_000},srv,1,Read,0,512,1\n{FILETIME},srv,1,Write,4096,512,9\n"
    assert rows(read(tmp_path, late)) == [(0, 1, 4096, 512), (599_000_000, 0, 0, 512)]
    later = late.replace(str(FILETIME), str(FILETIME - 2 * 10_000_000))
    assert refusal(tmp_path, later) == "2: time goes back by 601000000 us"


def test_g07_times_differ_by_what_the_recorder_saw_wherever_its_clock_began(tmp_path: Path) -> None:
    for begin in (FILETIME, FILETIME + 1, FILETIME + 9, 0):
        content = f"{begin},srv,0,Read,0,512,1\n{begin + 19},srv,0,Read,0,512,1\n{begin + 20},srv,0,Read,0,512,1\n"
        assert list(read(tmp_path, content).times_us) == [0, 1, 2]


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from([*SAMPLES, "cloudphysics"]), told=st.booleans(), data=st.data())
def test_g07_a_mutilated_trace_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, told: bool, data: st.DataObject
) -> None:
    content = bytearray(SAMPLES[name][0].encode() if name in SAMPLES else records(2))
    for _ in range(data.draw(st.integers(1, 4), "mutations")):
        begin = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(begin, min(len(content), begin + 8)))
        piece = st.one_of(st.binary(max_size=8), st.sampled_from([b"\n", b",", b"9" * 19, b"8" * 5000, b"0", b" "]))
        content[begin:end] = data.draw(piece)
    path = tmp_path_factory.getbasetemp() / "mutilated-archive"
    path.write_bytes(content)
    try:
        trace = read_trace(path, form=name if told else None)
    except TraceError as exc:
        refused = str(exc)
    else:
        refused = f"{path}:"
        trace.check()
    assert refused.startswith(f"{path}:")
    assert "\n" not in refused


# Several devices


TWO = {
    "msr": (MSR.replace("\n", "\n", 1) + MSR.replace("srv,1", "srv,2"), ("srv_1", "srv_2")),
    "alibaba": (ALIBABA + ALIBABA.replace("7,", "12,", 1), ("7", "12")),
    "tencent": (TENCENT + TENCENT.replace("1063", "9"), ("1063", "9")),
    "spc": (SPC + SPC.replace("0,", "1,", 1), ("0", "1")),
    "systor": (SYSTOR + SYSTOR.partition("\n")[2].replace(",4,", ",6,"), ("4", "6")),
}


@pytest.mark.parametrize("name", TWO)
def test_g07_the_same_place_on_two_devices_is_not_the_same_block(tmp_path: Path, name: str) -> None:
    content, devices = TWO[name]
    both = read(tmp_path, content)
    assert both.notes == (f"2 devices side by side: {devices[0]}, {devices[1]} (--device chooses)",)
    alone = [read(tmp_path, content, devices=(device,)) for device in devices]
    assert [trace.notes for trace in alone] == [(), ()]
    second = -(-max(offset + length for offset, length in zip(alone[0].offsets, alone[0].lengths, strict=True)) // GIB)
    assert sorted(both.offsets) == sorted([*alone[0].offsets, *(offset + second * GIB for offset in alone[1].offsets)])
    chosen = read(tmp_path, content, devices=devices)
    assert rows(chosen) == rows(both)


def test_g07_a_device_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    content, _ = TWO["spc"]
    assert refusal(tmp_path, content, devices=("0", "5")) == " no device 5 in it, but 0, 1"
    many = "".join(f"{asu},0,512,R,1.0\n" for asu in range(30))
    assert refusal(tmp_path, many, devices=("99",)) == " no device 99 in it, but 0, 1, 2, 3, 4, 5, 6, 7, ..."
    assert "name no devices" in refusal(tmp_path, CLOUDPHYSICS_CSV, devices=("0",))
    assert "name no devices" in refusal(tmp_path, "t_us,op,offset,length\n0,r,0,1\n", devices=("0",))


def test_g07_devices_that_are_too_large_together_are_refused(tmp_path: Path) -> None:
    row = f"{{}},R,{END - GIB - 512},512,0\n"
    assert (
        refusal(tmp_path, row.format(1) + row.format(2)) == f" the devices end beyond {END} when laid one after another"
    )


# CloudPhysics' records


def record(version: int, command: int, length: int, sector: int, time: int) -> bytes:
    if version == 1:
        return struct.pack("<IIIHHQQ", 5, length, 1, command, version << 8, sector, time)
    return struct.pack("<HHIIIQQQ", command, version << 8, 5, length, 1, sector, time, 77)


def records(version: int) -> bytes:
    commands = [(0x2A, 512, 1000), (0x28, 4096, 8), (0x00, 0, 0), (0x35, 0, 0), (0x88, 1024, 16), (0x0A, 0, 3)]
    return b"".join(
        record(version, command, length, sector, 5_633_898_611_441 + 10 * number)
        for number, (command, length, sector) in enumerate(commands)
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("times", [1, 3000])
def test_g07_binary_records_of_both_versions(tmp_path: Path, version: int, times: int) -> None:
    first = [(0, 1, 512_000, 512), (10, 0, 4096, 4096), (40, 0, 8192, 1024)]
    for form in (None, "cloudphysics"):
        trace = read(tmp_path, records(version) * times, form)
        assert trace.format == "cloudphysics"
        assert len(trace) == 3 * times
        assert sorted(set(rows(trace))) == first


@pytest.mark.parametrize("version", [1, 2])
def test_g07_damaged_records_are_named(tmp_path: Path, version: int) -> None:
    whole = records(version) * 10
    assert refusal(tmp_path, whole[:-5]) == "60: the record is cut short"
    other = record(version, 0x28, 512, 0, 0)
    mixed = whole + other.replace(struct.pack("<H", version << 8), struct.pack("<H", 0x700)) + whole
    assert refusal(tmp_path, mixed) == f"61: a record of version 7 among those of {version}"
    assert refusal(tmp_path, whole[3:]).startswith("1: not a trace that is known by its beginning")
    assert refusal(tmp_path, whole[3:], "cloudphysics").startswith("1: not a record of CloudPhysics' traces")
    assert refusal(tmp_path, b"", "cloudphysics").startswith("1: not a record of CloudPhysics' traces")
