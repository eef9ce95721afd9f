from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.offline.places import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = tmp_path / "place"
    directory.mkdir()
    return Place(directory)
