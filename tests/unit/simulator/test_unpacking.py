"""Packed traces, and those that come through a pipe."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fusecache.simulator.trace import TraceError, read_trace

TEXT = "t_us,op,offset,length\n" + "".join(f"{7 * i},r,{4096 * (i % 50)},4096\n" for i in range(20_000))
HAS_ZSTD = shutil.which("zstd") is not None


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True, timeout=60).stdout


PACKERS = [
    pytest.param(gzip.compress, id="gzip"),
    pytest.param(lzma.compress, id="xz"),
    pytest.param(bz2.compress, id="bzip2"),
    pytest.param(zstd, id="zstd", marks=pytest.mark.skipif(not HAS_ZSTD, reason="zstd is not installed")),
]
Packer = Callable[[bytes], bytes]


def refusal(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def from_stdin(monkeypatch: pytest.MonkeyPatch, file: io.BufferedReader) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))


@pytest.mark.parametrize("pack", PACKERS)
def test_g07_packed_traces_are_known_by_their_content(tmp_path: Path, pack: Packer) -> None:
    (tmp_path / "packed").write_bytes(pack(TEXT.encode()))
    (tmp_path / "plain").write_text(TEXT)
    packed, plain = read_trace(tmp_path / "packed"), read_trace(tmp_path / "plain")
    assert len(packed) == 20_000
    assert (packed.times_us, packed.offsets) == (plain.times_us, plain.offsets)


@pytest.mark.parametrize("pack", PACKERS)
def test_g07_several_packed_pieces_are_one_trace(tmp_path: Path, pack: Packer) -> None:
    half = TEXT.index("\n", len(TEXT) // 2) + 1
    (tmp_path / "packed").write_bytes(pack(TEXT[:half].encode()) + pack(TEXT[half:].encode()))
    assert len(read_trace(tmp_path / "packed")) == 20_000


@pytest.mark.parametrize("pack", PACKERS)
def test_g07_damaged_packing_is_named_as_that(tmp_path: Path, pack: Packer) -> None:
    whole = pack(TEXT.encode())
    path = tmp_path / "packed"
    for damaged in (whole[: len(whole) // 2], whole[:100] + bytes(20) + whole[120:]):
        path.write_bytes(damaged)
        assert refusal(path).startswith("the compressed data is damaged: ")


@pytest.mark.skipif(not HAS_ZSTD, reason="zstd is not installed")
def test_g07_a_bad_line_ends_the_program_that_unpacks(tmp_path: Path) -> None:
    (tmp_path / "packed").write_bytes(zstd((TEXT + "oops\n" + TEXT * 20).encode()))
    with pytest.raises(TraceError, match=r"packed:20002: expected"):
        read_trace(tmp_path / "packed")
    assert not [process for process in Path("/proc").glob("[0-9]*/stat") if is_child(process, "zstd")]


def is_child(stat: Path, program: str) -> bool:
    """Tell whether a process is ours, and runs some program."""
    with contextlib.suppress(OSError):
        _, name, _, parent, *_ = stat.read_text().split(" ", 4)
        return name == f"({program})" and int(parent) == os.getpid()
    return False


def test_g07_without_the_program_zstd_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packed").write_bytes(b"\x28\xb5\x2f\xfd whatever")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert refusal(tmp_path / "packed") == (
        "packed by zstd, and there is no program zstd here: install it (Debian: zstd), or unpack the file"
    )


def through_a_pipe(path: Path) -> subprocess.CompletedProcess[str]:
    """Simulate what comes through a pipe, 100 bytes at a time."""
    words = ["simulate", "-", "--policy=smq", "--block-size=4KiB", "--cache-size=10%", "--data-path=copy"]
    with subprocess.Popen(["dd", f"if={path}", "bs=100", "status=none"], stdout=subprocess.PIPE) as sender:
        return subprocess.run(
            [sys.executable, "-c", "from fusecache.cli import main; main()", *words],
            stdin=sender.stdout,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def test_g07_the_standard_input_is_a_trace_in_however_small_pieces_it_comes(tmp_path: Path) -> None:
    few = TEXT[: TEXT.index("\n2100,") + 1].encode()
    for content in (few, gzip.compress(few)):
        (tmp_path / "sent").write_bytes(content)
        result = through_a_pipe(tmp_path / "sent")
        assert result.stderr == ""
        assert result.stdout.startswith("stdin: 300 requests of blocks of 4KiB")


@pytest.mark.skipif(not HAS_ZSTD, reason="zstd is not installed")
def test_g07_zstd_through_a_pipe_is_told_what_to_type(tmp_path: Path) -> None:
    (tmp_path / "sent").write_bytes(zstd(TEXT.encode()))
    result = through_a_pipe(tmp_path / "sent")
    assert result.returncode == 1
    assert result.stderr == "fusecache: -: packed by zstd: pipe it through zstd -dc first\n"


def test_g07_a_file_as_the_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").write_text(TEXT)
    with (tmp_path / "plain").open("rb") as file:
        from_stdin(monkeypatch, file)
        trace = read_trace(Path("-"))
    assert (trace.name, trace.file, len(trace)) == ("stdin", "-", 20_000)


def test_g07_a_closed_standard_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert refusal(Path("-")) == "the standard input is closed"
