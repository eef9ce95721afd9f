"""Whatever a file or a line says, the answer is a result or one clear line: no traceback, no hang, nothing made worse.

Some hundreds of inputs each; ``FUSECACHE_FUZZ=100000`` tries that many (about 20 minutes; ``-s`` shows figures, and
``-o faulthandler_timeout=0`` lets it take its time), ``FUSECACHE_FUZZ_SEED`` others.
"""

from __future__ import annotations

import io
import random
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fusecache.attach.inspection import inspect
from fusecache.attach.recovery import recover
from fusecache.errors import FusecacheError
from fusecache.grammar import parse_table
from fusecache.offline import repairing
from fusecache.offline.checking import check, describe_check
from fusecache.offline.dumping import dump
from fusecache.offline.interchange import read_xml
from fusecache.offline.restoring import restore
from fusecache.offline.visiting import Visitor
from policies import create_policy
from tests.fuzz.mutations import mutate, numbered
from tests.unit.offline.places import BLOCK, MIXED, PARTS, Place


@contextmanager
def explained(kind: str, number: int, outcomes: Counter[str]) -> Iterator[None]:
    """Count how an input was answered; anything but a clean error names the input."""
    try:
        yield
        outcomes["taken"] += 1
    except FusecacheError as exc:
        outcomes["refused"] += 1
        if "\n" in str(exc):
            pytest.fail(f"{kind} {number}: more than one line: {exc}")
    except BaseException as exc:
        exc.add_note(f"{kind} number {number}")
        raise


def tell(outcomes: object) -> None:
    """Show figures to whoever asked for many inputs (pytest -s)."""
    print(f"\n{outcomes}")  # noqa: T201 - see above


# Metadata


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "place").mkdir()
    return Place(tmp_path / "place", origin_blocks=1024, cache_blocks=400)


def metadata_samples(place: Place) -> list[tuple[bytes, bytes]]:
    """Files with their write-ahead logs: small, large, and as a crash left it."""
    samples = []
    place.fill(MIXED)
    place.hint({cblock: cblock for cblock in MIXED})
    samples.append((place.metadata.read_bytes(), b""))
    place.fill(MIXED, parts={cblock: valid for cblock, valid in PARTS.items() if not MIXED[cblock][1]})
    samples.append((place.metadata.read_bytes(), b""))
    with place.bound() as binding:
        many = {cblock: (cblock + 100, cblock % 2 == 0) for cblock in range(30, 230)}
        parts = {cblock: cblock for cblock in many if cblock % 3 == 1 and not many[cblock][1]}
        place.fill_open(binding, many, regions=[3], parts=parts)
        log = place.metadata.with_name("metadata-wal").read_bytes()
        samples.append((place.metadata.read_bytes(), log))
    samples.append((place.metadata.read_bytes(), b""))
    return samples


def mount_reads(place: Place) -> None:
    """Read all that a mount would read before it touches anything."""
    config = replace(place.config, cache_size=None, block_size=None)
    plan = inspect(config, environ={})
    with plan.resources:
        if plan.database is None:
            return
        policy = create_policy(
            "smq",
            cache_blocks=plan.geometry.cache_blocks,
            origin_blocks=plan.geometry.origin_blocks,
            block_size=plan.geometry.block_size,
        )
        recover(
            plan.database.rows(),
            plan.database.regions(),
            geometry=plan.geometry,
            region_blocks=int(plan.database.values()["region_blocks"]),
            policy=policy,
            hints_valid=True,
        ).mapping.check()


def repair(place: Place) -> None:
    output = place.directory / "repaired"
    output.unlink(missing_ok=True)
    report = repairing.repair(place.files, output, block_size=BLOCK)
    assert len(place.rows(output)) == report.blocks
    problems = check(replace(place.files, metadata=output, cache=None, origin=None)).problems
    assert not problems, problems


def checked(place: Place) -> None:
    before = place.metadata.read_bytes()
    assert list(describe_check(check(place.files), place.files))
    assert place.metadata.read_bytes() == before


READERS: dict[str, Callable[[Place], object]] = {
    "check": checked,
    "dump": lambda place: dump(place.files, io.StringIO()),
    "repair": repair,
    "mount": mount_reads,
}

STATEMENTS = (
    "UPDATE meta SET value = :value WHERE name = :name",
    "REPLACE INTO meta VALUES (:name, :value)",
    "DELETE FROM meta WHERE name = :name",
    "UPDATE blocks SET oblock = :value WHERE cblock = :cblock",
    "UPDATE OR REPLACE blocks SET cblock = :number WHERE cblock = :cblock",
    "UPDATE blocks SET dirty = :value WHERE cblock = :cblock",
    "UPDATE blocks SET hint = :value, crc = :number WHERE cblock = :cblock",
    "INSERT OR REPLACE INTO regions VALUES (:number)",
    "UPDATE blocks SET crc = -1 WHERE cblock = :cblock",
    "DELETE FROM blocks WHERE cblock > :cblock",
    "UPDATE partial SET valid = :value WHERE cblock = (SELECT min(cblock) FROM partial)",
    "UPDATE partial SET valid = zeroblob(:cblock)",
    "UPDATE OR REPLACE partial SET cblock = :number WHERE cblock = :cblock",
    "INSERT OR REPLACE INTO partial VALUES (:cblock, :value)",
    "INSERT OR REPLACE INTO partial SELECT cblock, x'05' FROM blocks",
    "DELETE FROM partial WHERE cblock > :cblock",
    "DROP TABLE partial",
    "DROP TABLE regions",
    "ALTER TABLE blocks RENAME COLUMN hint TO note",
    "ALTER TABLE meta RENAME TO other",
)


def rewrite(path: Path, rng: random.Random) -> None:
    """Let SQLite write what fusecache never would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM meta")]
        for _ in range(rng.choice((1, 1, 2, 4))):
            number = rng.choice((0, 1, 5, 31, 32, 399, 400, 1023, 1024, 2**31, 2**32, 2**62, -1, -(2**63), 2**63 - 1))
            value = rng.choice(
                (
                    number,
                    str(number),
                    "",
                    "1.5",
                    1.5,
                    b"\xff",
                    None,
                    "9" * 5000,
                    "٣",
                )
            )
            parameters = {"name": rng.choice(names), "value": value, "number": number, "cblock": rng.randrange(40)}
            try:
                connection.execute(rng.choice(STATEMENTS), parameters)
            except sqlite3.Error:
                continue


def test_metadata(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place.directory.parent))
    samples = metadata_samples(place)
    outcomes = {name: Counter[str]() for name in READERS}
    log = place.metadata.with_name("metadata-wal")
    for number, rng in numbered("metadata"):
        sample, wal = rng.choice(samples)
        for leftover in place.directory.glob("metadata*"):
            leftover.unlink()
        kind = rng.random()
        place.metadata.write_bytes(mutate(sample, rng) if kind < 0.6 or not wal else sample)
        if wal:
            log.write_bytes(mutate(wal, rng) if kind > 0.4 else wal)
        elif kind >= 0.6:
            place.metadata.write_bytes(sample)
            rewrite(place.metadata, rng)
        name = rng.choice(list(READERS))
        with explained(f"metadata, {name}", number, outcomes[name]):
            READERS[name](place)
    tell({name: dict(counts) for name, counts in outcomes.items()})
    assert all(counts["taken"] for counts in outcomes.values())
    assert all(outcomes[name]["refused"] for name in ("dump", "repair", "mount"))


# XML


XML_WORDS = (
    *(
        b"<superblock ",
        b"<mappings>",
        b"</mappings>",
        b"<mapping ",
        b"<hints>",
        b"<hint ",
        b"</superblock>",
        b"<discards/>",
    ),
    *(
        b'cache_block="',
        b'origin_block="',
        b'dirty="true"',
        b'data="AAAAAA=="',
        b'hint_width="0"',
        b"'",
        b'"',
        b"/>",
        b">",
    ),
    *(
        b"<!DOCTYPE a>",
        b"<!--",
        b"-->",
        b"<!-- fusecache {} -->",
        b"&#0;",
        b"&amp;",
        b"&b;",
        b"<?xml version='1.0'?>",
        b"]]>",
    ),
    *(b"<![CDATA[", b"\xff\xfe", b"\xef\xbb\xbf", b"<?xml version='1.0' encoding='utf-16'?>", b"\0"),
)


def test_xml(place: Place) -> None:
    place.fill({cblock: blocks for cblock, blocks in MIXED.items() if cblock < 6})
    place.hint({1: 5, 2: 6})
    text = io.StringIO()
    dump(place.files, text)
    sample = text.getvalue().encode()
    output = place.directory / "restored"
    outcomes = {"read": Counter[str](), "restored": Counter[str]()}
    for number, rng in numbered("xml"):
        document = mutate(sample, rng, XML_WORDS)
        taken = outcomes["read"]["taken"]
        with explained("xml", number, outcomes["read"]):
            read_xml(io.BytesIO(document), "xml", lambda _: Visitor())
        if outcomes["read"]["taken"] > taken or number % 20 == 0:
            with explained("xml, restored", number, outcomes["restored"]):
                restore(io.BytesIO(document), "xml", replace(place.files, metadata=output))
                assert not check(replace(place.files, metadata=output, cache=None, origin=None)).problems
            output.unlink(missing_ok=True)
    tell({name: dict(counts) for name, counts in outcomes.items()})
    assert outcomes["read"]["taken"]
    assert outcomes["read"]["refused"]
    assert outcomes["restored"]["refused"]


# Tables


TABLES = (
    "0 2097152 cache /ssd/meta /ssd/cache /nfs/vm.img 512 1 writeback smq 0",
    "0 2048 cache m c o 128 2 metadata2 writethrough mq 4 random_threshold 8 migration_threshold 2048",
    "0 8 cache a\\ b c\\\\ d 8 0 default 2 sequential_threshold 1024",
    "0 1000000 cache m c o 64 3 metadata2 no_discard_passdown passthrough cleaner 0",
)
TABLE_WORDS = (
    *(
        b" ",
        b"\\",
        b"\t",
        b"\n",
        b"cache",
        b"linear",
        b"writeback",
        b"writethrough",
        b"passthrough",
        b"metadata2",
        b"smq",
    ),
    *(b"mq", b"2", b"8", b"0x10", b"+1", b"1e9", b"-0", b"\xe2\x80\x83", b"\0"),
)


def test_tables() -> None:
    outcomes = Counter[str]()
    for number, rng in numbered("table"):
        table = mutate(rng.choice(TABLES).encode(), rng, TABLE_WORDS).decode("utf-8", "surrogateescape")
        with explained("table", number, outcomes):
            parse_table(table, Path("/mnt"))
    tell(dict(outcomes))
    assert outcomes["taken"]
    assert outcomes["refused"]
