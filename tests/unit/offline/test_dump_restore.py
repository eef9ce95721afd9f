"""What was dumped can be restored, and is mounted again as it was; nothing is overwritten for it."""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.errors import FusecacheError, MetadataError, RefusedError, UsageError
from fusecache.offline.dumping import dump, dump_to_file
from fusecache.offline.opening import Files
from fusecache.offline.restoring import Restored, restore
from tests.unit.offline.places import CACHE_BLOCKS, MIXED, Place


def dumped(place: Place, metadata: Path | None = None) -> str:
    output = io.StringIO()
    dump(place.files if metadata is None else Files(metadata, None, None), output)
    return output.getvalue()


def restored(text: str, files: Files, **options: bool) -> Restored:
    return restore(io.BytesIO(text.encode()), "xml", files, **options)


def foreign(text: str) -> str:
    """The same as dm-cache's tools would write it: no uuid, no comment."""
    lines = [line for line in text.splitlines() if not line.startswith("<!--")]
    start = lines[0].index('uuid="') + len('uuid="')
    lines[0] = lines[0][:start] + lines[0][lines[0].index('"', start) :]
    return "\n".join(lines)


# Dumping


def test_a_dump_says_what_is_cached_what_is_dirty_and_what_the_policy_noted(place: Place) -> None:
    place.fill({3: (7, True), 5: (9, False)})
    place.hint({5: 0x01020304})
    lines = dumped(place).splitlines()
    assert lines[1] == (
        f'<superblock uuid="{place.values()["uuid"]}" block_size="8" nr_cache_blocks="{CACHE_BLOCKS}" policy="smq" '
        'hint_width="4">'
    )
    assert [line.strip() for line in lines[3:5]] == [
        '<mapping cache_block="3" origin_block="7" dirty="true"/>',
        '<mapping cache_block="5" origin_block="9" dirty="false"/>',
    ]
    assert lines[7].strip() == '<hint cache_block="5" data="BAMCAQ=="/>'


def test_what_may_be_dirty_after_a_crash_is_dumped_as_dirty(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2], clean=False)
    text = dumped(place)
    dirty = {line.split('"')[1] for line in text.splitlines() if 'dirty="true"' in line}
    assert dirty == {str(cblock) for cblock, (_, is_dirty) in MIXED.items() if is_dirty or cblock in {1, 2}}


@pytest.mark.parametrize("clean", [True, False])
def test_dumping_changes_nothing(place: Place, clean: bool) -> None:
    place.fill(MIXED, clean=clean)
    before = place.contents()
    dumped(place)
    assert place.contents() == before


def test_a_log_that_was_left_by_a_crash_is_read_and_left(place: Place) -> None:
    with place.bound() as binding:
        place.fill_open(binding, {3: (7, True)})
        before = {name: place.contents()[name] for name in ("metadata", "metadata-wal")}
        assert len(before["metadata-wal"]) > 4096
        copies = place.directory.parent / "crashed"
        copies.mkdir()
        for name, content in before.items():
            (copies / name).write_bytes(content)
    output = io.StringIO()
    dump(Files(copies / "metadata", None, None), output)
    assert 'cache_block="3" origin_block="7" dirty="true"' in output.getvalue()
    assert {path.name: path.read_bytes() for path in copies.iterdir()} == before


def test_a_dump_into_a_file_overwrites_nothing(place: Place, tmp_path: Path) -> None:
    place.fill(MIXED)
    dump_to_file(place.files, tmp_path / "xml")
    assert (tmp_path / "xml").read_text() == dumped(place)
    with pytest.raises(RefusedError, match="exists already"):
        dump_to_file(place.files, tmp_path / "xml")
    with pytest.raises(FusecacheError, match=r"cannot write .*: No such file"):
        dump_to_file(place.files, tmp_path / "none" / "xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["place", "xml"]


def test_a_dump_into_a_full_disk(place: Place) -> None:
    place.fill(MIXED)
    refused = pytest.raises(FusecacheError, match=r"^cannot write the dump: No space left on device$")
    with suppress(OSError), Path("/dev/full").open("w") as output, refused:
        dump(place.files, output)


def test_a_dump_that_nobody_reads(place: Place) -> None:
    place.fill({cblock: (cblock, False) for cblock in range(32)})
    reading, writing = os.pipe()
    os.close(reading)
    with suppress(BrokenPipeError), os.fdopen(writing, "w") as output, pytest.raises(BrokenPipeError):
        dump(place.files, output)


def test_a_dump_that_fails_leaves_no_file(place: Place, tmp_path: Path) -> None:
    place.fill(MIXED)
    place.sql("UPDATE blocks SET dirty = 7 WHERE cblock = 19")
    with pytest.raises(MetadataError, match=r"is damaged: whether cache block 19 is dirty is 7; `fusecache check`"):
        dump_to_file(place.files, tmp_path / "xml")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE blocks SET oblock = 3 WHERE cblock = 2", "block 3 of the image is in the cache more than once"),
        ("UPDATE blocks SET oblock = 64 WHERE cblock = 2", "outside the image's 64 blocks"),
        ("UPDATE blocks SET cblock = 32 WHERE cblock = 2", "outside the cache's 32 blocks"),
        ("UPDATE blocks SET oblock = 'x' WHERE cblock = 2", "holds block 'x'"),
        ("UPDATE blocks SET hint = -1 WHERE cblock = 2", "hint and sum of cache block 2"),
        ("INSERT INTO regions VALUES (-1)", "region -1 cannot be"),
        ("DELETE FROM meta WHERE name = 'uuid'", "it does not say uuid"),
        ("UPDATE meta SET value = '0' WHERE name = 'block_size'", "block_size is '0'"),
        ("UPDATE meta SET value = '5000' WHERE name = 'block_size'", "block size 5000"),
        ("UPDATE meta SET value = '5000000000' WHERE name = 'cache_blocks'", "more than there can be"),
        ("UPDATE meta SET value = x'00' WHERE name = 'image_bytes'", "image_bytes is \"b'"),
        ("UPDATE meta SET value = 'yes' WHERE name = 'clean_shutdown'", "clean_shutdown is 'yes', not 0 or 1"),
        ("DROP TABLE regions", "tables are missing: regions"),
    ],
)
def test_damaged_metadata_is_not_dumped(place: Place, statement: str, complaint: str) -> None:
    place.fill(MIXED)
    place.sql(statement)
    with pytest.raises(MetadataError) as caught:
        dumped(place)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["origin", "cache"])
def test_only_metadata_is_dumped(place: Place, name: str) -> None:
    place.fill(MIXED)
    with pytest.raises(MetadataError, match="is not fusecache metadata"):
        dumped(place, place.directory / name)


def test_what_is_missing_is_named(place: Place) -> None:
    with pytest.raises(RefusedError, match="there is no metadata"):
        dumped(place)


# Restoring


@pytest.mark.parametrize("name_the_origin", [True, False])
def test_what_was_dumped_can_be_restored_and_mounted(place: Place, name_the_origin: bool) -> None:
    place.fill(MIXED)
    place.hint({cblock: cblock * 1000 for cblock in MIXED})
    text, rows, values, image = dumped(place), place.rows(), place.values(), place.image()
    place.metadata.unlink()
    files = place.files if name_the_origin else replace(place.files, origin=None)
    assert restored(text, files) == Restored(20, 5, [])
    assert [row._replace(crc=None) for row in rows] == place.rows()
    assert place.values() == values
    assert place.image() == image
    assert place.mounts()
    assert dumped(place) == text


def test_after_a_crash_it_still_counts_as_crashed_and_suspects_are_dirty(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2], clean=False)
    text, dirty = dumped(place), place.dirty()
    restored(text, place.files, replace=True)
    assert place.dirty() == dirty
    assert place.values()["clean_shutdown"] == "0"
    assert place.mounts()


def test_dm_caches_own_xml_takes_the_uuid_of_the_stamp_and_the_origin_as_it_is(place: Place) -> None:
    place.fill(MIXED)
    text, values = foreign(dumped(place)), place.values()
    place.metadata.unlink()
    report = restored(text, place.files)
    assert report.notes == [f"taken to belong to {place.origin} as it is now: that cannot be verified"]
    assert place.values()["uuid"] == values["uuid"]
    assert place.values()["hints"] == "smq 2 4"
    assert place.dirty() == {cblock for cblock, (_, dirty) in MIXED.items() if dirty}
    assert place.mounts()


def test_dm_caches_own_xml_needs_an_origin(place: Place) -> None:
    place.fill(MIXED)
    text = foreign(dumped(place))
    with pytest.raises(UsageError, match="name the ORIGIN"):
        restored(text, Files(place.directory / "new", place.cache, None))
    assert sorted(place.contents()) == ["cache", "metadata", "origin"]


def test_a_policy_that_there_is_not_means_no_hints(place: Place) -> None:
    place.fill(MIXED)
    text = foreign(dumped(place)).replace('"smq"', '"unheard-of"')
    restored(text, place.files, replace=True)
    assert place.values()["hints"] == ""
    assert place.mounts()


def test_a_cache_without_a_stamp_is_told_of(place: Place) -> None:
    place.fill(MIXED)
    text = dumped(place)
    with place.cache.open("r+b") as file:
        file.write(bytes(4096))
    report = restored(text, place.files, replace=True, force=True)
    assert "has no stamp: if its blocks begin at byte 4096" in report.notes[0]


def test_what_is_there_is_not_overwritten_and_kept_when_replaced(place: Place) -> None:
    place.fill(MIXED)
    text, before = dumped(place), place.contents()
    with pytest.raises(RefusedError, match="metadata exists already, and nothing was changed"):
        restored(text, place.files)
    assert place.contents() == before
    (place.directory / "metadata-wal").write_bytes(b"a log")
    restored(text, place.files, replace=True)
    assert place.contents()["metadata.old"] == before["metadata"]
    assert place.contents()["metadata.old-wal"] == b"a log"
    assert sorted(place.contents()) == ["cache", "metadata", "metadata.old", "metadata.old-wal", "origin"]
    with pytest.raises(RefusedError, match=r"metadata\.old is in the way"):
        restored(text, place.files, replace=True)
    assert sorted(place.contents()) == ["cache", "metadata", "metadata.old", "metadata.old-wal", "origin"]


def test_a_log_that_was_left_behind_is_not_taken_for_the_new_files(place: Place) -> None:
    with place.bound() as binding:
        place.fill_open(binding, {3: (7, True)})
        log = place.contents()["metadata-wal"]
    text = dumped(place)
    place.metadata.unlink()
    (place.directory / "metadata-wal").write_bytes(log)
    restored(text.replace('cache_block="3"', 'cache_block="4"'), place.files)
    assert [row.cblock for row in place.rows()] == [4]


def test_a_dump_that_is_out_of_date_is_refused(place: Place) -> None:
    place.fill(MIXED)
    text = dumped(place)
    place.fill({0: (1, True)})
    place.metadata.unlink()
    with pytest.raises(RefusedError, match="has been written since the dump was made"):
        restored(text, place.files)
    assert not place.metadata.exists()
    restored(text, place.files, force=True)
    assert place.mounts()


def test_a_dump_from_before_generations_is_refused_once_they_were_used(place: Place) -> None:
    """Also of a device, which has no time of modification: the stamp's generation tells."""
    place.fill(MIXED)
    field = r'"(generation|previous_generation|cache_mtime_ns)": ("[^"]*"|[0-9]+)'
    text = re.sub(rf"{field}, |, {field}", "", dumped(place))
    assert '"image_bytes"' in text
    assert '"generation"' not in text
    place.metadata.unlink()
    with pytest.raises(RefusedError, match="has been written since the dump was made"):
        restored(text, place.files)
    restored(text, place.files, force=True)
    assert place.mounts()


def test_another_cache_is_refused(place: Place, tmp_path: Path) -> None:
    place.fill(MIXED)
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    other.fill(MIXED)
    with pytest.raises(RefusedError, match="belongs to other metadata"):
        restored(dumped(place), replace(place.files, cache=other.cache), replace=True)


def test_a_cache_that_is_too_small_is_refused(place: Place) -> None:
    place.fill(MIXED)
    text = dumped(place)
    with place.cache.open("r+b") as file:
        file.truncate(8192)
    with pytest.raises(RefusedError, match="has 8192 bytes, fewer than the 135168"):
        restored(text, place.files, replace=True, force=True)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('cache_block="2" o', 'cache_block="1" o', "cache block 1 is mapped twice"),
        ('origin_block="6"', 'origin_block="3"', "block 3 of the image is mapped twice"),
        ('origin_block="6"', 'origin_block="64"', "block 64 lies outside the image's 64 blocks"),
        ('cache_block="19" o', 'cache_block="32" o', "cache block 32 lies outside the cache's 32 blocks"),
        ('<hint cache_block="2"', '<hint cache_block="30"', "a hint for cache block 30"),
        ("</superblock>", "", "no element found"),
        ('"clean_shutdown": "1"', '"clean_shutdown": "2"', "clean_shutdown is '2'"),
        ("<superblock", "<super", "<super> where it does not belong"),
    ],
)
def test_xml_that_cannot_be_is_refused_and_nothing_made(place: Place, old: str, new: str, complaint: str) -> None:
    place.fill(MIXED)
    place.hint({2: 5})
    text = dumped(place)
    assert old in text
    place.metadata.unlink()
    before = place.contents()
    with pytest.raises(MetadataError) as caught:
        restored(text.replace(old, new), place.files)
    assert complaint in str(caught.value)
    assert place.contents() == before


def test_where_there_is_no_directory(place: Place) -> None:
    place.fill(MIXED)
    with pytest.raises(MetadataError, match=r"cannot write metadata .*none/metadata: No such file"):
        restored(dumped(place), replace(place.files, metadata=place.directory / "none" / "metadata"))
