"""Whether one match reaches all that another does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.config.reach import Reach, host_covers, path_covers
from edgeproxy.routes import compile_path


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("/**", "/a/*/b/**", True),
        ("/**", "/", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/", True),
        ("/a/**", "/ab", False),
        ("/a/**", "/*/b", False),
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/*", True),
        ("/a/*", "/a/**", False),
        ("/a/*", "/a/b/c", False),
        ("/*/b", "/a/b", True),
        ("/img-*.png", "/img-1.png", True),
        ("/img-*", "/img-*.png", True),
        ("/img-*.png", "/img-*", False),
        ("/a/b*/**", "/a/bc/**", True),
        ("/a.c", "/abc", False),
    ],
)
def test_a_path_pattern_covers_another(wide: str, narrow: str, covered: bool) -> None:
    assert path_covers(wide, narrow) is covered


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("*", "example.com", True),
        ("*", "*.example.com", True),
        ("example.com", "example.com", True),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "*.b.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "notexample.com", False),
        ("*.example.com", "*", False),
        ("*.b.example.com", "*.example.com", False),
        ("a.example.com", "*.example.com", False),
    ],
)
def test_a_host_pattern_covers_another(wide: str, narrow: str, covered: bool) -> None:
    assert host_covers(wide, narrow) is covered


def test_methods_cover_when_none_is_missing() -> None:
    everything, some, fewer = (
        Reach.of({}),
        Reach.of({"methods": ["GET", "POST"]}),
        Reach.of({"methods": "GET"}),
    )
    assert everything
    assert some
    assert fewer
    assert everything.covers(some)
    assert some.covers(fewer)
    assert not fewer.covers(some)
    assert not some.covers(everything)


def test_what_is_not_well_formed_reaches_nothing_known() -> None:
    for match in ({"path": 5}, {"host": []}, {"methods": [1]}, {"path": [None, "/a"]}):
        assert Reach.of(match) is None  # pyright: ignore[reportArgumentType]


_PIECES = st.sampled_from(["a", "b", "ab", "*", "a*", "*b"])
_PATTERNS = st.builds(
    lambda pieces, tail: "/" + "/".join(pieces) + tail,
    st.lists(_PIECES, max_size=3),
    st.sampled_from(["", "/**"]),
)
_PATHS = st.builds(
    lambda pieces: "/" + "/".join(pieces),
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "abb", ""]), max_size=5),
)


@settings(max_examples=300, deadline=None)
@given(_PATTERNS, _PATTERNS, st.lists(_PATHS, min_size=10, max_size=10))
def test_what_a_covered_pattern_matches_the_covering_one_matches_too(
    wide: str, narrow: str, paths: list[str]
) -> None:
    if not path_covers(wide, narrow):
        return
    for path in (path.encode() for path in paths):
        assert not compile_path(narrow)(path) or compile_path(wide)(path)
