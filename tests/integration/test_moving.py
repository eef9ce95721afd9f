"""G08: a whole dm-cache is moved here and back, by the commands that ``docs/moving-from-dm-cache.rst`` names.

There is no dm-cache here.  Its three devices are files: metadata that its own tools make and check, and a cache with
its layout.  What it would read is computed from what its tools say of them.
"""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import Mounted
from tests.integration.judges import MIB
from tests.integration.mounts import Mount, program, run

PAGE = Path(__file__).parents[2] / "docs" / "moving-from-dm-cache.rst"
BLOCK = 64 * 1024
IMAGE = 8 * MIB
CACHE_BLOCKS = 40
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
MAPPING = re.compile(r'<mapping cache_block="(\d+)" origin_block="(\d+)" dirty="(true|false)"/>')

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=PATH) for tool in ("cache_dump", "cache_restore", "cache_writeback")),
    reason="thin-provisioning-tools are not installed",
)


def page_blocks() -> list[str]:
    """Return the commands of the page, block by block."""
    blocks, block = [], ""
    for line in [*PAGE.read_text(encoding="utf-8").splitlines(), "The end."]:
        if line.startswith("    "):
            block += line.strip() + "\n"
        elif line.strip() or not block:
            if "::" not in block and block:
                blocks.append(block)
            block = ""
    return blocks


def commands(*beginnings: str) -> str:
    """Return those blocks of the page that begin so, each of which has to be there once."""
    found = []
    for beginning in beginnings:
        (block,) = [block for block in page_blocks() if block.startswith(beginning)]
        found.append(block)
    return "".join(found)


@dataclass
class Old:
    """dm-cache's three devices, and what it would read."""

    directory: Path

    @property
    def origin(self) -> Path:
        return self.directory / "slow"

    @property
    def fast(self) -> Path:
        return self.directory / "fast"

    @property
    def meta(self) -> Path:
        return self.directory / "meta"

    def make(self, seed: int, *, crashed: bool = False) -> None:
        """Make one with clean and dirty blocks in it; after a crash, the metadata calls newer blocks clean."""
        rng = random.Random(seed)
        origin = bytearray(rng.randbytes(IMAGE))
        fast = bytearray(rng.randbytes(CACHE_BLOCKS * BLOCK))  # what is not mapped is rubbish
        mappings = []
        for cblock, oblock in zip(
            sorted(rng.sample(range(CACHE_BLOCKS), 30)), rng.sample(range(IMAGE // BLOCK), 30), strict=True
        ):
            dirty = rng.random() < 0.5
            if not (dirty or crashed):
                fast[cblock * BLOCK : (cblock + 1) * BLOCK] = origin[oblock * BLOCK : (oblock + 1) * BLOCK]
            word = "true" if dirty else "false"
            mappings.append(f'<mapping cache_block="{cblock}" origin_block="{oblock}" dirty="{word}"/>')
        self.origin.write_bytes(origin)
        self.fast.write_bytes(fast)
        xml = self.directory / "made.xml"
        xml.write_text(
            f'<superblock uuid="" block_size="128" nr_cache_blocks="{CACHE_BLOCKS}" policy="smq" hint_width="4">'
            f"<mappings>{''.join(mappings)}</mappings><hints></hints></superblock>"
        )
        self.empty_meta()
        options = ["--omit-clean-shutdown"] if crashed else []
        run("env", f"PATH={PATH}", "cache_restore", *options, "-i", xml, "-o", self.meta)

    def empty_meta(self) -> None:
        with self.meta.open("wb") as file:
            file.truncate(16 * MIB)

    def mappings(self) -> list[tuple[int, int, bool]]:
        """Ask its tools what is cached where, and whether it is dirty."""
        xml = run("env", f"PATH={PATH}", "cache_dump", self.meta).stdout
        return [(int(cblock), int(oblock), word == "true") for cblock, oblock, word in MAPPING.findall(xml)]

    def image(self) -> bytes:
        """Compute what it would read: of each block what is cached, else the origin's."""
        image, fast = bytearray(self.origin.read_bytes()), self.fast.read_bytes()
        for cblock, oblock, _ in self.mappings():
            image[oblock * BLOCK : (oblock + 1) * BLOCK] = fast[cblock * BLOCK : (cblock + 1) * BLOCK]
        return bytes(image)


@pytest.fixture
def old(tmp_path: Path) -> Old:
    old = Old(tmp_path / "old")
    old.directory.mkdir()
    old.make(1)
    return old


def new_mount(old: Old, mounted: Mounted) -> Mount:
    """Make a place for the mount that is to be, of which nothing is there yet but the mountpoint."""
    mount = mounted(size=MIB)
    mount.unmount()
    for path in (mount.cache, mount.metadata):
        path.unlink()
    mount.origin = old.origin
    return mount


def follow(old: Old, mount: Mount, script: str) -> str:
    """Run commands of the page, where ``dmsetup`` does nothing but say what it was told."""
    names = {
        "ORIGIN": old.origin,
        "FAST": old.fast,
        "META": old.meta,
        "CACHE": mount.cache,
        "METADATA": mount.metadata,
        "MNT": mount.mountpoint,
        "SECTORS": IMAGE // 512,
    }
    told = "".join(f"{name}={value}\n" for name, value in names.items())
    head = f'set -euo pipefail\ncd {old.directory}\n{told}dmsetup() {{ echo "dmsetup $*"; }}\n'
    path = f"PATH={Path(program()).parent}:{PATH}"
    return run("env", path, "bash", "-c", head + script).stdout


def test_g08_the_page_has_the_commands_that_are_tested() -> None:
    assert len(page_blocks()) == 9
    assert page_blocks()[0].startswith("ORIGIN=")


def test_g08_a_dm_cache_becomes_an_empty_cache(old: Old, mounted: Mounted) -> None:
    expected = old.image()
    mount = new_mount(old, mounted)
    script = commands("dmsetup table", "cache_check", 'fusecache mount "$ORIGIN" "$MNT" --cache "$CACHE" --cache-size')
    follow(old, mount, script.replace("20GiB", "4MiB"))
    assert mount.image.read_bytes() == old.origin.read_bytes() == expected


@pytest.mark.parametrize("crashed", [False, True])
def test_g08_a_dm_cache_moves_here_with_all_that_is_cached_and_back_again(
    old: Old, mounted: Mounted, crashed: bool
) -> None:
    old.empty_meta()
    old.make(2, crashed=crashed)
    expected = bytearray(old.image())
    assert expected != old.origin.read_bytes(), "something is dirty"
    mount = new_mount(old, mounted)
    follow(old, mount, commands("dmsetup table", "cache_check", "cache_dump"))
    assert mount.count("used_blocks") == 30
    assert mount.image.read_bytes() == expected
    assert mount.count("read_hits") >= 30
    mount.write(3 * BLOCK + 100, b"written here")
    expected[3 * BLOCK + 100 : 3 * BLOCK + 112] = b"written here"
    for file in (old.fast, old.meta):
        file.write_bytes(b"")
    old.empty_meta()
    printed = follow(old, mount, commands("fusecache unmount", "fusecache dump", "dmsetup create"))
    assert f"dmsetup create cached --table 0 {IMAGE // 512} cache {old.meta} {old.fast} {old.origin} 128 1" in printed
    assert len(old.mappings()) >= 30
    assert not any(dirty for _, _, dirty in old.mappings())
    assert old.image() == old.origin.read_bytes() == expected


def test_g08_a_table_as_dmsetup_prints_it_mounts(old: Old, mounted: Mounted) -> None:
    expected = old.image()
    mount = new_mount(old, mounted)
    script = commands("dmsetup table", "cache_check", "cache_dump")
    script = script[: script.index('fusecache mount "$ORIGIN" "$MNT" --cache "$CACHE" --metadata')]
    follow(old, mount, script + commands("fusecache mount --table"))
    assert mount.image.read_bytes() == expected
    assert mount.count("used_blocks") == 30
    run(program(), "message", mount.mountpoint, "0", "migration_threshold", "204800")
    assert mount.getxattr("migration_threshold") == "204800"


def test_g08_metadata_of_a_dm_cache_is_no_metadata_of_ours(old: Old, mounted: Mounted) -> None:
    mount = new_mount(old, mounted)
    table = f"cached: 0 {IMAGE // 512} cache {old.meta} {old.fast} {old.origin} 128 1 writeback smq 0"
    before = old.meta.read_bytes(), old.fast.read_bytes()
    result = run(program(), "mount", "--table", table, mount.mountpoint, check=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert (old.meta.read_bytes(), old.fast.read_bytes()) == before
