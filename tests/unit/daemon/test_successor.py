"""The process that goes on, up to where it serves; the holder is played by the test."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from fusecache.config import MountConfig
from fusecache.daemon import holder, successor
from fusecache.errors import RefusedError
from fusecache.grammar import write_config

CONFIG = MountConfig(origin="/o", mountpoint=Path("/mnt"), copy_rate=3)
Served = list[tuple[MountConfig, int]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The holder's end, and the successor's."""
    monkeypatch.setattr(successor, "background", lambda _config: nullcontext())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """What was served, and how large the memory was that came with it."""
    served: Served = []

    def serve(config: MountConfig, _line: socket.socket, told: holder.Message, descriptors: list[int]) -> None:
        served.append((config, os.fstat(descriptors[0]).st_size))
        os.close(descriptors[0])
        if told["crashes"] > 1:
            msg = "the metadata is damaged"
            raise RefusedError(msg)

    monkeypatch.setattr(successor, "_load", lambda: serve)
    return served


def begin(line: socket.socket, crashes: int) -> None:
    memory = os.memfd_create("slate")
    os.truncate(memory, 64)
    holder.send(line, "begin", [memory], crashes=crashes)
    os.close(memory)


def heard(line: socket.socket) -> str:
    message, _ = holder.receive(line)
    return f"{message['word']} {message.get('why', '')}".strip()


def test_it_loads_and_serves_when_there_is_nobody_else(
    lines: tuple[socket.socket, socket.socket], served: Served
) -> None:
    ours, theirs = lines
    holder.send(ours, "config", config=write_config(CONFIG))
    begin(ours, 1)
    assert successor.succeed(theirs) == 0
    assert heard(ours) == "loaded"
    assert served == [(CONFIG, 64)]


def test_what_it_refuses_while_it_begins_the_holder_hears(
    lines: tuple[socket.socket, socket.socket], served: Served
) -> None:
    ours, theirs = lines
    holder.send(ours, "config", config=write_config(CONFIG))
    begin(ours, 2)
    assert successor.succeed(theirs) == 1
    assert [heard(ours), heard(ours)] == ["loaded", "refused the metadata is damaged"]


def test_one_that_is_not_wanted_after_all_opens_nothing(
    lines: tuple[socket.socket, socket.socket], served: Served
) -> None:
    ours, theirs = lines
    holder.send(ours, "config", config=write_config(CONFIG))
    ours.shutdown(socket.SHUT_WR)
    assert successor.succeed(theirs) == 0
    assert served == []


def raise_import_error() -> None:
    msg = "half a release"
    raise ImportError(msg)


@pytest.mark.parametrize(
    ("config", "load", "told"),
    [
        (json.dumps({"novelty": 1}), lambda: None, "these options are of another version of fusecache: novelty"),
        (write_config(CONFIG), raise_import_error, "ImportError: half a release"),
    ],
    ids=["options", "release"],
)
def test_what_does_not_work_is_refused_before_anything_ends(
    lines: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    load: Callable[[], None],
    told: str,
) -> None:
    ours, theirs = lines
    monkeypatch.setattr(successor, "_load", load)
    holder.send(ours, "config", config=config)
    assert successor.succeed(theirs) == 1
    assert heard(ours) == f"refused {told}"


def test_a_holder_that_has_gone_wants_nothing(lines: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = lines
    ours.close()
    assert successor.succeed(theirs) == 0
