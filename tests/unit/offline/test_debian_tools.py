"""dm-cache's own tools, Debian's package thin-provisioning-tools, read what we write and write what we read."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.errors import BusyError
from fusecache.metadata import Row
from fusecache.offline.dumping import dump, dump_to_file
from fusecache.offline.interchange import Head
from fusecache.offline.restoring import restore
from tests.unit.offline.documents import SUPERBLOCK, read, written
from tests.unit.offline.places import Blocks, Place

TOOLS = ("cache_check", "cache_dump", "cache_restore")
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=PATH) for tool in TOOLS), reason="thin-provisioning-tools are not installed"
)


def run(tool: str, *arguments: str | Path) -> str:
    """Run one of the tools, which has to succeed."""
    words = [shutil.which(tool, path=PATH) or tool, *map(str, arguments)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
    return result.stdout


def through_their_metadata(xml: Path, size: int = 16 << 20) -> str:
    """Make dm-cache's metadata of a document, check it, and dump it again."""
    theirs = xml.with_name(f"{xml.name}.dm")
    with theirs.open("wb") as file:
        file.truncate(size)
    run("cache_restore", "-i", xml, "-o", theirs)
    run("cache_check", theirs)
    return run("cache_dump", theirs)


def dumped(place: Place) -> str:
    output = io.StringIO()
    dump(place.files, output)
    return output.getvalue()


def without_identity(text: str, uuid: str) -> str:
    """Take away what their metadata has no place for."""
    return "\n".join(line for line in text.replace(uuid, "").splitlines() if not line.startswith("<!--"))


def some_blocks(seed: int) -> tuple[Blocks, dict[int, int]]:
    rng = random.Random(seed)
    count = rng.choice([0, 1, 20, 32])
    cblocks = rng.sample(range(32), count)
    blocks = dict(zip(cblocks, ((oblock, rng.random() < 0.4) for oblock in rng.sample(range(64), count)), strict=True))
    return blocks, {cblock: rng.randrange(2**32) for cblock in cblocks}


@pytest.mark.parametrize("seed", range(6))
def test_there_and_back(place: Place, seed: int) -> None:
    blocks, hints = some_blocks(seed)
    place.fill(blocks)
    place.hint(hints)
    xml = place.directory / "xml"
    dump_to_file(place.files, xml)
    ours = xml.read_text()
    theirs = through_their_metadata(xml)
    assert theirs.split() == without_identity(ours, place.values()["uuid"]).split()
    rows, uuid = place.rows(), place.values()["uuid"]
    place.metadata.unlink()
    restore(io.BytesIO(theirs.encode()), "theirs", place.files)
    assert place.rows() == [row._replace(crc=None) for row in rows]
    assert place.values()["uuid"] == uuid
    assert place.mounts()
    assert without_identity(dumped(place), uuid) == without_identity(ours, uuid)


def test_suspects_are_dirty_to_them(place: Place) -> None:
    place.fill({0: (1, False), 1: (2, False), 2: (3, True)}, regions=[1], clean=False)
    xml = place.directory / "xml"
    dump_to_file(place.files, xml)
    lines = through_their_metadata(xml).splitlines()
    assert [line.split('"')[1] for line in lines if 'dirty="true"' in line] == ["1", "2"]


def test_hints_that_are_not_known(place: Place) -> None:
    place.fill({0: (1, False), 1: (2, False)})
    place.hint({1: 9})
    xml = place.directory / "xml"
    dump_to_file(place.files, xml)
    assert 'cache_block="1" data="CQAAAA=="' in through_their_metadata(xml)


def test_a_cache_of_a_hundred_thousand_blocks(tmp_path: Path) -> None:
    count = 100_000
    oblocks = random.Random(1).sample(range(10**9), count)
    rows = [Row(cblock, oblock, oblock % 3 == 0, oblock) for cblock, oblock in enumerate(oblocks)]
    superblock = replace(SUPERBLOCK, block_size=262144, cache_blocks=count)
    xml = tmp_path / "xml"
    xml.write_text(written(superblock, rows))
    theirs = through_their_metadata(xml, 64 << 20)
    head, read_rows, hints = read(theirs)
    assert head == Head("", 262144, count, "smq")
    assert read_rows == [row._replace(hint=None) for row in rows]
    assert hints == [(row.cblock, row.hint) for row in rows]


def test_scenario_26_a_dump_of_live_metadata_is_refused(place: Place) -> None:
    """What a mount is writing to is not read by tools."""
    place.fill({0: (1, True)})
    with place.bound(), pytest.raises(BusyError, match="is in use"):
        dumped(place)
