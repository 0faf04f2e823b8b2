"""A request body on its way: kept until somebody wants it, then passed on; the client never runs ahead."""

from __future__ import annotations

from edgeproxy.door import PAUSE_AT, RequestBody


class Watched:
    """A body with a note of all that was said about it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.body = RequestBody(None, lambda: self.said.append("pause"), lambda: self.said.append("resume"))

    def attach(self) -> None:
        self.body.attach(lambda data: self.said.append(bytes(data).decode()), lambda: self.said.append("end"))


def test_what_came_before_and_after_is_passed_on_in_order() -> None:
    one = Watched()
    one.body.feed(b"a")
    assert one.body.untouched
    one.attach()
    one.body.feed(b"b")
    one.body.finish()
    assert one.said == ["a", "b", "end"]
    assert not one.body.untouched


def test_a_body_that_is_complete_is_passed_on_at_once() -> None:
    one = Watched()
    one.body.feed(b"a")
    one.body.finish()
    one.attach()
    assert one.said == ["a", "end"]


def test_100_continue_is_said_once_when_somebody_wants_the_body() -> None:
    one = Watched()
    one.body.wanted = lambda: one.said.append("100")
    one.attach()
    one.attach()
    assert one.said == ["100"]


def test_the_client_is_paused_once_and_resumed_when_somebody_reads() -> None:
    one = Watched()
    one.body.feed(b"x" * PAUSE_AT)
    assert one.said == []
    one.body.feed(b"y")
    one.body.feed(b"z")
    assert one.said == ["pause"]
    one.attach()
    assert (one.said[-1], one.body.held) == ("resume", 0)


def test_the_rest_of_an_unwanted_body_is_drained() -> None:
    one = Watched()
    one.body.feed(b"x" * (PAUSE_AT + 1))
    one.body.detach()
    one.body.feed(b"more")
    one.body.finish()
    assert one.said == ["pause", "resume"]
    assert not one.body.untouched
