"""What responses have in common is kept once, and no table grows without bound."""

from __future__ import annotations

from edgeproxy.cache import compact as module
from edgeproxy.cache.compact import LONGEST, MOST, compact
from edgeproxy.http.message import Response
from edgeproxy.http.wire import response


def fetched(number: int, **more: str) -> Response:
    """A response whose parts are objects of their own."""
    fields = [("Server", "nginx"), ("Content-Type", "text/html"), ("ETag", f'"{number}"'), *more.items()]
    return response(200, [(bytes(bytearray(a.encode())), bytes(bytearray(b.encode()))) for a, b in fields])


def test_it_says_the_same() -> None:
    for number in range(4):
        before = fetched(number)
        after, _ = compact(before)
        assert (after.status, after.fields, after.head, after.names, after.body) == (
            before.status, before.fields, before.head, before.names, before.body,
        )  # fmt: skip


def test_usual_fields_are_shared_and_those_of_one_response_are_its_own() -> None:
    for number in range(3):
        compact(fetched(number))
    (one, small), (other, _) = compact(fetched(10)), compact(fetched(11))
    assert [a is b for a, b in zip(one.fields, other.fields, strict=True)] == [True, True, False, True]
    assert one.fields[2][0] is other.fields[2][0]
    assert one.names is other.names
    _, large = compact(fetched(12, **{"X-Mine": "x" * 1000}))
    assert large - small > 2 * 1000, "in the head, and as a field"


def test_long_values_are_never_shared() -> None:
    for _ in range(3):
        long, _ = compact(fetched(1, **{"X-Long": "y" * (LONGEST + 1)}))
        other, _ = compact(fetched(1, **{"X-Long": "y" * (LONGEST + 1)}))
        assert long.fields[3] is not other.fields[3]


def test_no_table_grows_without_bound() -> None:
    for number in range(2 * MOST + 10):
        for _ in range(2):
            compact(fetched(number, **{f"X-{number}": "v"}))
    for table in (module._names, module._fields, module._sets):
        assert len(table) <= MOST
    assert len(module._seen) <= 4 * MOST
