"""A body that is read while it is written to a file: whatever the paces, each reader gets its bytes once."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.cache.body import AHEAD, FEW, Body
from edgeproxy.cache.body_file import BodyFile
from edgeproxy.door import Door


class Disk:
    """A spool whose disk writes when it is told to, and whose turns come when they are given."""

    def __init__(self) -> None:
        self.content = b""
        self.pending: list[bytes] = []
        self.turns: list[Callable[[], None]] = []
        self.written = 0
        self.given_up = self.full = False
        self.on_progress: Callable[[], None] | None = None

    def lend(self) -> str:
        return "name"

    def add(self, data: bytes) -> None:
        if not self.given_up:
            self.pending.append(data)

    def write(self, count: int) -> None:
        for data in self.pending[:count]:
            self.content += data
            self.written += len(data)
        del self.pending[:count]
        if self.on_progress is not None:
            self.on_progress()

    def give_up(self) -> None:
        self.given_up = True
        if self.on_progress is not None:
            self.on_progress()

    def read(self, start: int, end: int) -> bytes:
        assert end <= self.written, "nobody reads what is not written"
        return self.content[start:end]

    def soon(self, call: Callable[[], None]) -> None:
        self.turns.append(call)

    def run(self) -> None:
        turns, self.turns = self.turns, []
        for turn in turns:
            turn()

    def finish(self, done: Callable[[BodyFile | None], None]) -> None: ...
    def drop(self) -> None: ...


class Client:
    """The part of a door that a body uses; takes `room` writes before it asks to be drained."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.gone = False
        self.on_drain: Callable[[], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        self.received = b""
        self.ending = ""
        self.disk: Disk | None = None  # that it may get nothing but what is written to

    @property
    def writable(self) -> bool:
        return self.room > 0

    def write(self, data: bytes) -> None:
        assert data
        self.received += data
        assert self.disk is None or len(self.received) <= self.disk.written
        self.room -= 1

    def end(self) -> None:
        self.ending += "end"

    def abort(self) -> None:
        self.ending += "abort"

    def flush(self) -> None: ...

    def drain(self, room: int) -> None:
        self.room = room
        if self.on_drain is not None:
            self.on_drain()


PART = st.one_of(
    st.none(), st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1]))
)
STEP = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 9)),
    st.tuples(st.just("write"), st.integers(1, 3)),
    st.tuples(st.just("join"), st.tuples(st.integers(0, 2), PART, st.booleans())),
    st.tuples(st.just("drain"), st.integers(0, 9)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("turn"), st.just(0)),
    st.tuples(st.just("give up"), st.just(0)),
)


@given(st.lists(STEP, max_size=40), st.booleans(), st.sampled_from([1, 2, FEW]))
def test_whatever_the_paces_each_reader_gets_its_bytes_once_or_sees_that_it_does_not(
    steps: list[tuple[str, object]], breaks: bool, few: int
) -> None:
    with patch("edgeproxy.cache.body.FEW", few):
        _run(steps, breaks=breaks)


def _run(steps: list[tuple[str, object]], *, breaks: bool) -> None:
    disk = Disk()
    body = Body(10, lambda: None, lambda: None, outgrown=lambda: body.keep_in(disk), soon=disk.soon)
    body.lasting = True
    sent = b""
    clients: list[tuple[Client, tuple[int, int] | None, bool]] = []
    for what, value in steps:
        if what == "add":
            data = bytes(len(sent) + number & 255 for number in range(cast(int, value)))
            sent += data
            body.add(data)
        elif what == "write":
            disk.write(cast(int, value))
        elif what == "join" and body.shareable:
            room, part, filed = cast("tuple[int, tuple[int, int] | None, bool]", value)
            client = Client(room)
            filed = filed and part is None and body.filed
            client.disk = disk if filed else None
            clients.append((client, part, filed))
            body.read_by(cast(Door, client), part, filed=filed)
        elif what == "drain" and clients:
            clients[cast(int, value) % len(clients)][0].drain(2)
        elif what == "leave" and clients:
            client = clients[cast(int, value) % len(clients)][0]
            client.gone = True
            if client.on_gone is not None:
                client.on_gone()
        elif what == "turn":
            disk.run()
        elif what == "give up" and body.spool is not None:
            disk.give_up()
    body.end(broken=breaks)
    for _ in range(100):
        disk.write(1)
        disk.run()
        for client, _, _ in clients:
            client.drain(2)
    for client, part, filed in clients:
        wanted = sent if part is None else sent[slice(*part)]
        if client.gone:
            assert wanted.startswith(client.received)
        elif client.ending == "end":
            assert client.received == wanted
        else:
            assert client.ending == "abort"
            assert breaks or (filed and disk.given_up) or (part is not None and part[1] > len(sent))
            assert wanted.startswith(client.received)


@pytest.mark.parametrize("part", [None, (0, 3), (2, 17), (7, 8), (12, 20), (15, 40), (19, 20)])
@pytest.mark.parametrize("written", range(5))
def test_a_late_reader_begins_in_the_file_and_goes_on_in_memory(
    part: tuple[int, int] | None, written: int
) -> None:
    disk, client, filed = Disk(), Client(100), Client(100)
    body = Body(10, lambda: None, lambda: None)
    body.keep_in(disk)
    sent = bytes(range(40))
    for at in range(0, 20, 5):
        body.add(sent[at : at + 5])
    disk.write(written)
    body.read_by(cast(Door, client), part)
    filed.disk = disk
    body.read_by(cast(Door, filed), filed=True)
    disk.run()
    wanted = sent[:20] if part is None else sent[part[0] : min(part[1], 20)]
    assert client.received == wanted
    assert client.ending == ("end" if part is not None and part[1] <= 20 else "")
    assert filed.received == sent[: 5 * written]
    for at in range(20, 40, 5):
        body.add(sent[at : at + 5])
    body.end()
    disk.write(8)
    disk.run()
    disk.run()
    assert client.received == (sent if part is None else sent[slice(*part)])
    assert (client.ending, filed.received, filed.ending) == ("end", sent, "end")


def test_what_is_written_is_not_held_and_what_is_not_is() -> None:
    disk = Disk()
    body = Body(10, lambda: None, lambda: None)
    body.keep_in(disk)
    client = Client(100)
    body.read_by(cast(Door, client))
    for _ in range(4):
        body.add(b"12345")
    assert (len(client.received), len(body.chunks)) == (20, 4)
    disk.write(3)
    assert (len(body.chunks), body.start) == (1, 15)


@pytest.mark.parametrize("full", [True, False])
def test_the_origin_waits_for_the_disk_when_that_is_wanted_and_for_no_reader(full: bool) -> None:
    said: list[str] = []
    disk = Disk()
    body = Body(10, lambda: said.append("pause"), lambda: said.append("resume"))
    body.keep_in(disk)
    body.read_by(cast(Door, Client(0)))
    disk.full = full
    body.add(b"x" * (AHEAD + 1))
    assert said == (["pause"] if full else [])
    disk.full = False
    disk.write(1)
    assert said == (["pause", "resume"] if full else [])


def crowd(body: Body, size: int) -> list[Client]:
    clients = [Client(100) for _ in range(size)]
    for client in clients:
        body.read_by(cast(Door, client))
    return clients


def test_a_crowd_has_what_came_a_few_at_a_time() -> None:
    disk = Disk()
    body = Body(100, lambda: None, lambda: None, soon=disk.soon)
    clients = crowd(body, 3 * FEW)
    body.add(b"one")
    assert [client.received for client in clients] == [b"one"] * FEW + [b""] * 2 * FEW
    body.add(b"two")  # before all have had their turn
    disk.run()
    disk.run()
    assert [client.received for client in clients] == [b"one"] * FEW + [b"onetwo"] * 2 * FEW
    body.end()
    for _ in range(3):
        disk.run()
    assert {(client.received, client.ending) for client in clients[: FEW + 1]} == {(b"onetwo", "end")}
    for _ in range(3):
        disk.run()
    assert {(client.received, client.ending) for client in clients} == {(b"onetwo", "end")}
    assert not disk.turns


def test_the_origin_waits_for_a_crowd_that_has_not_had_its_turn_yet() -> None:
    said: list[str] = []
    disk = Disk()
    body = Body(1, lambda: said.append("pause"), lambda: said.append("resume"), soon=disk.soon)
    clients = crowd(body, 3 * FEW)
    body.add(b"one")
    assert not said
    body.add(b"two")
    assert said == ["pause"]
    while disk.turns:
        disk.run()
    assert said == ["pause", "resume"]
    assert {client.received for client in clients} == {b"onetwo"}
    assert not body.chunks


def test_one_who_cannot_be_served_is_not_in_the_way_of_the_crowd() -> None:
    def fails(data: bytes) -> None:
        raise RuntimeError

    disk = Disk()
    body = Body(100, lambda: None, lambda: None, soon=disk.soon)
    clients = crowd(body, 3 * FEW)
    clients[0].write = fails
    with pytest.raises(RuntimeError):
        body.add(b"one")
    while disk.turns:
        disk.run()
    assert {client.received for client in clients[FEW:]} == {b"one"}


def test_many_who_leave_in_one_turn_are_looked_for_once() -> None:
    disk = Disk()
    body = Body(1, lambda: None, lambda: None, soon=disk.soon)
    clients = crowd(body, 10)
    body.add(b"large")
    for client in clients[1:]:
        client.gone = True
        assert client.on_gone is not None
        client.on_gone()
    assert (len(disk.turns), len(body.readers)) == (1, 10)
    disk.run()
    assert len(body.readers) == 1
