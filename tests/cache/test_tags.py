"""What a response can be purged by: tags of fields with any name, and the groups of RFC 9875."""

from __future__ import annotations

import pytest

from edgeproxy.cache.tags import TAGS, invalidated_groups, is_group, parse_groups, response_tags
from tests.helpers.requests import headers, request

NAMES = (b"surrogate-key", b"cache-tag", b"xkey", b"x-tags")


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ({"Surrogate-Key": "a b,c  d"}, {b"a", b"b,c", b"d"}),
        ({"Cache-Tag": "a, b c ,,d"}, {b"a", b"b", b"c", b"d"}),
        ({"xkey": "a b"}, {b"a", b"b"}),
        ({"X-Tags": "a,b", "Surrogate-Key": "c"}, {b"a", b"b", b"c"}),
        ({"X-Other": "a"}, set[bytes]()),
        ({"Surrogate-Key": " "}, set[bytes]()),
    ],
)
def test_tags_are_the_words_of_their_fields(values: dict[str, str], tags: set[bytes]) -> None:
    assert response_tags(request(), headers(values), NAMES) == tags


def test_a_response_with_more_tags_than_could_be_purged_by_has_none_that_count() -> None:
    most = " ".join(map(str, range(TAGS)))
    found = response_tags(request(), headers({"Surrogate-Key": most}), NAMES)
    assert found is not None
    assert len(found) == TAGS
    assert response_tags(request(), headers({"Surrogate-Key": f"{most} x"}), NAMES) is None
    assert response_tags(request(), headers({"Surrogate-Key": "a " * 5000}), NAMES) == {b"a"}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        pytest.param('"a", "b c"', ["a", "b c"], id="RFC 9875 §2 strings"),
        pytest.param('"a";x=1', ["a"], id="parameters are ignored"),
        pytest.param("a, b", [], id="tokens are no strings"),
        pytest.param('"a", b', [], id="one that is wrong spoils all"),
        pytest.param('("a" "b")', [], id="an inner list"),
        pytest.param('"a', [], id="what is no structured field"),
        pytest.param('"%s"' % ("x" * 9000), [], id="too long"),
    ],
)
def test_the_groups_of_a_field(value: str, names: list[str]) -> None:
    assert parse_groups(value.encode()) == names


def test_a_group_is_told_apart_from_tags_and_from_that_of_another_origin() -> None:
    field = {"Cache-Groups": '"a"'}
    (ours,) = tuple(response_tags(request(), headers(field), NAMES) or ())
    assert frozenset([ours]) != response_tags(request(host="other.example"), headers(field), NAMES)
    assert is_group(ours)
    forged = response_tags(
        request(), headers({"Surrogate-Key": ours.decode(), "Cache-Tag": ours.decode()}), NAMES
    )
    assert forged is not None
    assert ours not in forged


@pytest.mark.parametrize(
    ("method", "status", "count"),
    [
        ("POST", 200, 2),
        ("POST", 303, 2),
        ("DELETE", 204, 2),
        ("POST", 404, 0),
        ("POST", 500, 0),
        ("GET", 200, 0),
    ],
)
def test_groups_are_invalidated_by_unsafe_requests_that_succeed(method: str, status: int, count: int) -> None:
    field = headers({"Cache-Group-Invalidation": '"a", "b"'})
    assert len(invalidated_groups(request(method=method), status, field)) == count
