"""One fetch for a crowd: every reader gets the same bytes, at its own pace, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.cache.body import AHEAD, Body
from edgeproxy.cache.flight import Flight, Flights
from edgeproxy.door import Door


class Client:
    """The part of a door that a body uses; takes `room` writes before it asks to be drained."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.gone = False
        self.on_drain: Callable[[], None] | None = None
        self.received: list[bytes] = []
        self.ending = ""

    @property
    def writable(self) -> bool:
        return self.room is None or self.room > 0

    def write(self, data: bytes) -> None:
        self.received.append(data)
        if self.room is not None:
            self.room -= 1

    def end(self) -> None:
        self.ending += "end"

    def abort(self) -> None:
        self.ending += "abort"

    def drain(self, room: int | None = None) -> None:
        self.room = room
        if self.on_drain is not None:
            self.on_drain()


class Origin:
    """Counts how often it was asked to wait."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def body(self, cap: int = 100) -> Body:
        return Body(cap, lambda: self.said.append("pause"), lambda: self.said.append("resume"))


def read(body: Body, *clients: Client) -> None:
    for client in clients:
        body.read_by(cast(Door, client))


def test_readers_that_come_at_different_times_get_the_same_bytes() -> None:
    body, early, late = Origin().body(), Client(), Client()
    read(body, early)
    body.add(b"one")
    read(body, late)
    body.add(b"two")
    body.end()
    assert early.received == late.received == [b"one", b"two"]
    assert early.ending == late.ending == "end"
    assert body.content() == b"onetwo"


def test_a_reader_that_comes_after_the_end_gets_all_of_it() -> None:
    body, client = Origin().body(), Client()
    body.add(b"whole")
    body.end()
    read(body, client)
    assert (client.received, client.ending, body.content()) == ([b"whole"], "end", b"whole")


def test_a_slow_reader_holds_up_nobody_else_while_the_body_is_recorded() -> None:
    origin = Origin()
    body, slow, fast = origin.body(cap=AHEAD * 4), Client(room=0), Client()
    read(body, slow, fast)
    body.add(b"x" * AHEAD)
    body.add(b"y" * AHEAD)
    body.end()
    assert (len(fast.received), fast.ending) == (2, "end")
    assert (slow.received, slow.ending, origin.said) == ([], "", [])
    slow.drain()
    assert (slow.received, slow.ending) == (fast.received, "end")


def test_a_body_that_breaks_off_is_aborted_never_ended() -> None:
    body, client, waiting = Origin().body(), Client(), Client(room=0)
    read(body, client, waiting)
    body.add(b"half")
    body.end(broken=True)
    assert (client.received, client.ending) == ([b"half"], "abort")
    assert waiting.ending == "", "it has not had what came before the break"
    waiting.drain()
    assert waiting.ending == "abort"


def test_a_body_over_its_cap_is_no_longer_recorded_and_what_all_had_is_dropped() -> None:
    body, client = Origin().body(cap=4), Client()
    read(body, client)
    body.add(b"12345")
    body.add(b"6789")
    assert not body.recording
    assert (body.chunks, body.dropped, body.size) == ([], 2, 9)
    assert client.received == [b"12345", b"6789"]


def test_the_origin_waits_for_the_slowest_reader_of_a_large_body() -> None:
    origin = Origin()
    body, slow, fast = origin.body(cap=4), Client(room=0), Client()
    read(body, slow, fast)
    body.add(b"x" * (AHEAD + 1))
    assert origin.said == ["pause"]
    body.add(b"y")
    assert origin.said == ["pause"], "once is enough"
    slow.drain()
    assert origin.said == ["pause", "resume"]
    assert (slow.received, body.chunks) == (fast.received, [])


def test_the_origin_does_not_wait_for_a_reader_that_left() -> None:
    origin = Origin()
    body, left = origin.body(cap=4), Client(room=0)
    read(body, left)
    body.add(b"x" * (AHEAD + 1))
    left.gone = True
    body.add(b"y")
    assert origin.said == ["pause", "resume"]
    assert (body.chunks, body.readers, left.received) == ([], [], [])


def test_an_origin_that_has_ended_is_not_paused() -> None:
    origin = Origin()
    body, slow = origin.body(cap=AHEAD * 2), Client(room=0)
    read(body, slow)
    body.add(b"x" * (AHEAD + 1))
    body.end()
    body.cap, body.recording = 0, False
    body.trim()
    assert origin.said == []


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=9), max_size=20),
    cap=st.integers(0, 60),
    rooms=st.lists(st.integers(0, 3), min_size=1, max_size=4),
)
def test_whatever_the_paces_each_reader_gets_every_byte_once(
    chunks: list[bytes], cap: int, rooms: list[int]
) -> None:
    body, clients = Origin().body(cap), [Client(room) for room in rooms]
    read(body, *clients)
    for number, chunk in enumerate(chunks):
        body.add(chunk)
        clients[number % len(clients)].drain(1)
    body.end()
    for client in clients:
        client.drain()
        assert b"".join(client.received) == b"".join(chunks)
        assert client.ending == "end"


def flights() -> Flights[str]:
    return Flights[str]()


def test_a_later_miss_finds_the_flight_until_it_has_landed() -> None:
    all_of_them = flights()
    flight = all_of_them.lead(b"k", 0.0)
    assert all_of_them.find(b"k") is flight
    assert all_of_them.find(b"other") is None
    all_of_them.land(flight)
    assert all_of_them.find(b"k") is None


def test_landing_twice_is_told_once_and_spares_the_successor() -> None:
    all_of_them = flights()
    first = all_of_them.lead(b"k", 0.0)
    assert all_of_them.land(first)
    second = all_of_them.lead(b"k", 0.0)
    assert not all_of_them.land(first)
    assert all_of_them.find(b"k") is second


@pytest.mark.parametrize(
    ("recording", "broken", "joinable"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_a_job_may_join_while_the_whole_body_is_there(recording: bool, broken: bool, joinable: bool) -> None:
    flight: Flight[Any] = Flight(b"k")
    assert flight.joinable
    assert flight.join is None
    body, joined = Origin().body(), list[str]()
    flight.share(body, joined.append)
    body.recording, body.broken = recording, broken
    assert flight.joinable is joinable
    assert flight.join is not None
    flight.join("job")
    assert joined == ["job"]


def test_a_pass_is_remembered_for_two_minutes() -> None:
    all_of_them = flights()
    assert not all_of_them.must_pass(b"k", 100.0)
    all_of_them.remember_pass(b"k", 100.0, "private")
    assert all_of_them.must_pass(b"k", 219.9)
    assert all_of_them.why_pass(b"k") == "private"
    assert not all_of_them.must_pass(b"k", 220.0)
    assert all_of_them.passes == {}


def test_remembered_passes_are_bounded() -> None:
    all_of_them = flights()
    for number in range(Flights.PASS_CAP + 5):
        all_of_them.remember_pass(b"%d" % number, 0.0, "")
    assert len(all_of_them.passes) == Flights.PASS_CAP
    assert not all_of_them.must_pass(b"0", 1.0), "the oldest goes first"
    assert all_of_them.must_pass(b"%d" % Flights.PASS_CAP, 1.0)


def test_what_must_pass_is_remembered_without_its_key() -> None:
    all_of_them = Flights[Any]()
    all_of_them.remember_pass(b"k" * 100_000, 0.0, "")
    assert all_of_them.must_pass(b"k" * 100_000, now=1.0)
    assert getsizeof(next(iter(all_of_them.passes))) < 100
