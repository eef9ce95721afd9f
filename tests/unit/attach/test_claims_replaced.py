"""Where claims are kept: on the origin, or beside our files; an older one is never believed instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from fusecache.attach.claim import Claim
from fusecache.attach.claims import Claims
from fusecache.attach.origin import Origin
from fusecache.metadata import Identity
from tests.unit.attach.test_claim import opened

OLD = Claim("ours", "/metadata", "1-a", clean=False)
NEW = Claim("ours", "/metadata", "2-b")


class Device:
    """An origin that may have room for a claim."""

    def __init__(self, *, keeps: bool, address: str = "/dev/disk") -> None:
        self.keeps = keeps
        self.kept: Claim | None = None
        self.address = address

    def identity(self) -> Identity:
        return Identity(self.address, "device 7", "0", 4096, {"serial number": "0815"})

    def claim(self) -> Claim | None:
        return self.kept

    def write_claim(self, claim: Claim) -> bool:
        if self.keeps:
            self.kept = claim
        return self.keeps

    def remove_claim(self) -> None:
        self.kept = None


def claims_of(device: Device, directory: Path | None) -> Claims:
    return Claims(cast("Origin", device), directory)


def test_what_the_origin_cannot_keep_lies_beside_our_files(tmp_path: Path) -> None:
    claims = claims_of(Device(keeps=False), tmp_path / "claims")
    assert claims.read() is None
    assert claims.write(OLD)
    assert claims.write(NEW)
    assert claims.read() == NEW
    claims.remove()
    assert claims.read() is None
    assert not list((tmp_path / "claims").iterdir())


def test_the_note_beside_is_found_by_the_origins_signs_and_goes_once_the_origin_keeps_it(tmp_path: Path) -> None:
    claims_of(Device(keeps=False), tmp_path).write(OLD)
    device = Device(keeps=True, address="/dev/other")
    claims = claims_of(device, tmp_path)
    assert claims.read() == OLD
    assert claims.write(NEW)
    assert device.kept == claims.read() == NEW
    assert not list(tmp_path.iterdir())


def test_nothing_keeps_it_without_a_place_for_it() -> None:
    assert not claims_of(Device(keeps=False), None).write(NEW)


def test_an_older_claim_on_the_origin_is_not_believed_when_the_new_one_lies_beside(tmp_path: Path) -> None:
    """The origin had room for one before, and has none now."""
    device = Device(keeps=False)
    device.kept = OLD
    claims = claims_of(device, tmp_path)
    assert claims.write(NEW)
    assert claims.read() == NEW


def test_at_no_moment_is_there_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The origin is called otherwise today, so the new note is another file."""
    claims_of(Device(keeps=False), tmp_path).write(OLD)
    claims = claims_of(Device(keeps=False, address="/dev/other"), tmp_path)
    seen = []

    def look_first(function: Callable[..., object]) -> Callable[..., object]:
        def looking(*arguments: object, **named: object) -> object:
            seen.append(claims.read())
            return function(*arguments, **named)

        return looking

    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, look_first(getattr(Path, name)))
    assert claims.write(NEW)
    assert claims.read() == NEW
    assert len(seen) >= 2
    assert set(seen) <= {OLD, NEW}


def test_a_claim_is_taken_away_durably(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut after a clean end brings it back, and the next mount finds one of another generation."""
    path = tmp_path / "origin"
    path.write_bytes(b"o")
    synced: list[Claim | None] = []
    with opened(path) as origin:
        if not origin.write_claim(NEW):
            pytest.skip("no extended attributes of users on this file system")
        fsync = os.fsync

        def look_first(fd: int) -> None:
            synced.append(origin.claim())
            fsync(fd)

        monkeypatch.setattr(os, "fsync", look_first)
        origin.remove_claim()
    assert synced == [None]
