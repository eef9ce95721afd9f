"""Tellers and visitors fit together: metadata told to a draft is a copy of it, and a document is heard as written."""

from __future__ import annotations

import io
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from fusecache.errors import RefusedError
from fusecache.metadata import Database, reading
from fusecache.offline.drafting import drafted
from fusecache.offline.dumping import dump
from fusecache.offline.interchange import read_xml
from fusecache.offline.visiting import Visitor, visit
from tests.unit.offline.documents import Listener
from tests.unit.offline.places import MIXED

if TYPE_CHECKING:
    from fusecache.metadata import Row
    from tests.unit.offline.places import Place


def test_metadata_told_to_a_draft_is_a_copy_in_which_suspects_are_dirty(place: Place) -> None:
    place.fill(MIXED, regions=[1, 2], clean=False)
    place.hint({2: 5, 7: 9})
    copy = place.directory / "copy"
    with reading(place.metadata) as connection, drafted(copy, "the original") as draft:
        visit(connection, draft)
        assert draft.count() == (20, len(place.dirty()))
    assert place.rows(copy) == [
        row._replace(dirty=True, crc=None) if row.cblock in {1, 2} else row for row in place.rows()
    ]
    assert place.dirty(copy) == place.dirty()
    with closing(Database.open(place.metadata)) as before, closing(Database.open(copy)) as after:
        assert before.superblock() == after.superblock()


def test_a_document_told_as_a_document_is_the_same(place: Place) -> None:
    place.fill(MIXED)
    output, listener = io.StringIO(), Listener()
    dump(place.files, output)
    read_xml(io.BytesIO(output.getvalue().encode()), "xml", lambda _: listener)
    assert listener.ended
    assert [row[:3] for row in listener.rows] == [row[:3] for row in place.rows()]


def test_a_visitor_stops_it(place: Place) -> None:
    class Guest(Visitor):
        """Leaves early."""

        heard = 0

        def row(self, row: Row) -> None:
            self.heard += 1
            if row.cblock == 3:
                msg = "enough"
                raise RefusedError(msg)

    place.fill(MIXED)
    guest = Guest()
    with reading(place.metadata) as connection, pytest.raises(RefusedError, match="enough"):
        visit(connection, guest)
    assert guest.heard == 4
