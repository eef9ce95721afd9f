"""The offline tools and real mounts: refused while mounted, and a mount goes on with what they leave."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.mounts import Mount, fusecache, program, run

SIZE = 4 << 20
BLOCK = 64 << 10
EAGER = "mq,read_promote_adjustment=0,write_promote_adjustment=0,discard_promote_adjustment=0"


def tool(name: str, mount: Mount, *options: str | Path, check: bool = True) -> str:
    """Run an offline command on the three files; returns what it printed."""
    result = run(
        program(), name, mount.origin, "--cache", mount.cache, "--metadata", mount.metadata, *options, check=check
    )
    return result.stdout + result.stderr


def used(mount: Mount, seed: int) -> bytes:
    """Read and write until much is cached and some of it is dirty; returns the image."""
    rng = random.Random(seed)
    image = bytearray(mount.read(0, SIZE))
    for _ in range(60):
        block = rng.randrange(24)
        mount.read(block * BLOCK, BLOCK)
        if rng.random() < 0.4:
            data = rng.randbytes(BLOCK)
            mount.write(block * BLOCK, data)
            image[block * BLOCK : (block + 1) * BLOCK] = data
    mount.write(0, bytes(image[:BLOCK]), sync=True)
    return bytes(image)


@pytest.fixture
def mount(mounted: Mounted) -> Mount:
    return mounted("--policy", EAGER, size=SIZE, cache_size="2MiB")


@pytest.mark.parametrize("name", ["check", "dump", "restore", "repair", "writeback"])
def test_a_mounted_cache_is_refused(mount: Mount, name: str, tmp_path: Path) -> None:
    image = used(mount, 1)
    xml = tmp_path / "xml"
    xml.write_text("<superblock/>")
    options: dict[str, list[str | Path]] = {
        "restore": ["-i", xml, "--replace"],
        "repair": ["-o", tmp_path / "new"],
        "check": ["--clear-needs-check", "--heal"],
    }
    result = run(
        *(program(), name, mount.origin, "--cache", mount.cache, "--metadata", mount.metadata, *options.get(name, [])),
        check=False,
    )
    assert result.returncode == 1
    assert "is in use" in result.stderr
    assert result.stderr.count("\n") == 1
    assert mount.read(0, SIZE) == image
    mount.remount("--policy", EAGER)
    assert mount.read(0, SIZE) == image


@pytest.mark.parametrize("end", ["unmount", "kill9"])
def test_scenario_26_writeback_leaves_an_origin_that_is_complete(mount: Mount, end: str) -> None:
    image = used(mount, 2)
    getattr(mount, end)()
    assert mount.origin.read_bytes() != image
    assert " dirty blocks were written to the origin" in tool("writeback", mount)
    assert mount.origin.read_bytes() == image
    assert "0 of them dirty" in tool("check", mount, "--data")
    mount.mount("--mode", "passthrough")
    assert mount.read(0, SIZE) == image


@pytest.mark.parametrize("end", ["unmount", "kill9"])
def test_a_dump_restored_is_mounted_again(mount: Mount, end: str, tmp_path: Path) -> None:
    """Scenarios 15 and 16: what is cached is the same as before; what was dirty still is."""
    image = used(mount, 3)
    getattr(mount, end)()
    xml = tmp_path / "xml"
    tool("dump", mount, "-o", xml)
    for leftover in mount.metadata.parent.glob(f"{mount.metadata.name}*"):
        if leftover != mount.metadata.with_name(f"{mount.metadata.name}.log"):
            leftover.unlink()
    tool("restore", mount, "-i", xml)
    assert tool("dump", mount) == xml.read_text()
    cached = xml.read_text().count("<mapping ")
    assert cached
    mount.mount("--policy", EAGER)
    assert mount.count("used_blocks") >= cached
    assert mount.read(0, SIZE) == image
    mount.unmount()
    tool("writeback", mount)
    assert mount.origin.read_bytes() == image


def test_a_dump_that_is_out_of_date_is_refused(mount: Mount, tmp_path: Path) -> None:
    used(mount, 4)
    mount.unmount()
    tool("dump", mount, "-o", tmp_path / "xml")
    mount.mount("--policy", EAGER)
    image = used(mount, 5)
    mount.unmount()
    output = tool("restore", mount, "-i", tmp_path / "xml", "--replace", check=False)
    assert "has been written since the dump was made" in output
    mount.mount("--policy", EAGER)
    assert mount.read(0, SIZE) == image


def test_metadata_whose_first_page_is_gone_is_repaired(mount: Mount, tmp_path: Path) -> None:
    image = used(mount, 6)
    mount.unmount()
    with mount.metadata.open("r+b") as file:
        file.write(bytes(4096))
    output = tool("check", mount, check=False)
    (command,) = [line for line in output.splitlines() if line.startswith("  next:")]
    fusecache(*command.split()[2:])
    shutil.move(f"{mount.metadata}.repaired", mount.metadata)
    mount.mount("--policy", EAGER)
    assert mount.read(0, SIZE) == image
    mount.unmount()
    tool("writeback", mount)
    assert mount.origin.read_bytes() == image


@pytest.mark.parametrize("damage", ["magic", "version", "cut short", "empty"])
def test_scenario_24_bad_metadata_is_refused_by_name_and_left_alone(mount: Mount, damage: str) -> None:
    """The magic, the version, the length: what is wrong is refused, and nothing is touched."""
    used(mount, 7)
    mount.unmount()
    sound = mount.metadata.read_bytes()
    bad = {
        "magic": b"X" + sound[1:],
        "version": sound[:60] + (99).to_bytes(4, "big") + sound[64:],
        "cut short": sound[:5000],
        "empty": sound[:50],
    }[damage]
    mount.metadata.write_bytes(bad)
    files = {path: path.read_bytes() for path in (mount.origin, mount.cache, mount.metadata)}
    mounting = run(
        *(program(), "mount", mount.origin, mount.mountpoint, "--cache", mount.cache, "--metadata", mount.metadata),
        check=False,
    )
    assert mounting.returncode == 1
    assert str(mount.metadata) in mounting.stderr
    assert "problem: " in tool("check", mount, check=False)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("dirty", ["clean", "dirty"])
@pytest.mark.parametrize("blocks", [23, 513, 1023, 4095])
def test_scenario_15_scenario_16_an_end_keeps_what_is_cached(
    mounted: Mounted, tmp_path: Path, blocks: int, dirty: str
) -> None:
    """Scenarios 15 and 16: after an unmount and after a kill the mappings are the same; dirty ones may get fewer."""
    size = 4096
    mount = mounted("--policy", "mq", size=2 * blocks * size, cache_size=str(blocks * size), block_size="4KiB")
    mount.unmount()
    lines = tool("dump", mount).splitlines(keepends=True)
    oblocks = random.Random(blocks).sample(range(2 * blocks), blocks)
    state = "true" if dirty == "dirty" else "false"
    at = next(number for number, line in enumerate(lines) if "</mappings>" in line)
    lines[at:at] = [
        f'    <mapping cache_block="{cblock}" origin_block="{oblock}" dirty="{state}"/>\n'
        for cblock, oblock in enumerate(oblocks)
    ]
    (tmp_path / "xml").write_text("".join(lines))
    tool("restore", mount, "-i", tmp_path / "xml", "--replace")
    before = _mappings(mount)
    assert len(before) == blocks
    for end in ("unmount", "kill9"):
        mount.mount("--policy", "mq")
        getattr(mount, end)()
        after = _mappings(mount)
        assert after.keys() == before.keys()
        assert all(before[mapping] or not is_dirty for mapping, is_dirty in after.items())
        before = after


def _mappings(mount: Mount) -> dict[tuple[str, str], bool]:
    """Return what lies where, and whether it is dirty."""
    words = [line.split('"') for line in tool("dump", mount).splitlines() if "<mapping " in line]
    return {(word[1], word[3]): word[5] == "true" for word in words}
