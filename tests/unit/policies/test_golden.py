"""Conversations recorded with dm-cache's own policies, where there are any beside the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.policies.replaying import SCRIPT, play

RECORDINGS = Path(__file__).parents[3].parent / "shared" / "golden"


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="no recordings beside this checkout")
@pytest.mark.parametrize("name", ["cleaner-a", "mq-a", "mq-b", "mq-c", "smq-a", "smq-b", "smq-c", "smq-d", "smq-e"])
def test_recorded_decisions(name: str) -> None:
    result = subprocess.run(
        [sys.executable, SCRIPT, RECORDINGS / f"{name}.txt.gz"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.stdout.startswith(f"{name}: "), result.stderr
    assert result.stdout.endswith("answers, 0 mismatches\n"), result.stdout
    assert result.returncode == 0


@pytest.mark.parametrize(
    "text", ["# policy=smq\n", "", "# policy=fifo cache_blocks=1 origin_blocks=1 block_sectors=1 start_ms=0\n"]
)
def test_unusable_recordings_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    recording = tmp_path / "bad.txt"
    recording.write_text(text)
    result = subprocess.run(
        [sys.executable, SCRIPT, recording], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 1
    assert result.stdout.startswith("bad: line 1: ")
    assert result.stdout.count("\n") == 1
    assert not result.stderr


def test_a_wrong_answer_is_reported_with_its_line(tmp_path: Path) -> None:
    recording = tmp_path / "wrong.txt"
    recording.write_text("# policy=smq cache_blocks=8 origin_blocks=64 block_sectors=128 start_ms=0\nN\t0\nN\t1\n")
    result = subprocess.run(
        [sys.executable, SCRIPT, recording], capture_output=True, text=True, check=False, timeout=60
    )
    assert (result.returncode, result.stdout) == (1, "wrong: line 3: N: expected 1, got 0\n")


def test_a_played_conversation_counts_its_answers() -> None:
    assert play("policy=smq cache_blocks=8 origin_blocks=64 block_sectors=128 start_ms=0", "N -> 0\nT 5\nN -> 0") == 2
