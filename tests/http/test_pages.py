"""Error pages: by Accept, and from a template of one's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeproxy.http.pages import check_page, filled, prefers_html, use_page
from edgeproxy.http.replies import problem
from tests.helpers.requests import context, request, whole_body

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.fixture(autouse=True)
def _ours_again() -> Iterator[None]:
    yield
    use_page(None)


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("TEXT/HTML", True),
        ("text/html, */*", True),
        ("text/html;level=1;q=0.9, application/json;q=0.5", True),
        ("*/*", False),
        ("", False),
        (None, False),
        ("text/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/json, text/html;q=0.9", False),
        ("application/problem+json, text/html;q=0.9", False),
        ("text/html;q=0.5, */*", False),
        ("text/html;q=0", False),
        ("text/html;q=0, */*;q=0", False),
        ("text/html;q=much", False),
        ("text/htmlx", False),
    ],
)
def test_html_is_for_those_who_like_it_better(accept: str | None, html: bool) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = problem(request("/", headers), context(), 503, "busy", "Come back later.")
    kind = b"text/html; charset=utf-8" if html else b"application/problem+json"
    assert (b"Content-Type", kind) in answer.fields


@given(st.binary(max_size=600))
def test_whatever_is_accepted_there_is_an_answer(accept: bytes) -> None:
    assert prefers_html(accept) in (True, False)


def test_a_page_of_ones_own_is_filled_in() -> None:
    use_page("<style>h1{color:red}</style><h1>{status} {title}</h1>{detail}<i>{request_id}</i>{other}")
    ctx = context()
    browser = request("/", {"Accept": BROWSER})
    answer = problem(browser, ctx, 429, "too-many", "<Slower> {status}, {request_id}.")
    assert whole_body(answer).decode() == (
        "<style>h1{color:red}</style><h1>429 Too Many Requests</h1>"
        f"&lt;Slower&gt; {{status}}, {{request_id}}.<i>{ctx.request_id}</i>{{other}}"
    )
    json = problem(request("/"), ctx, 429, "too-many", "Slower.")
    assert whole_body(json).startswith(b"{")
    use_page(None)
    assert whole_body(problem(browser, ctx, 429, "too-many", "Slower.")).startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<p>{status}</p>", "found 0 times"),
        ("{request_id} {request_id}", "found 2 times"),
        ("{request_id}\0", "NUL"),
    ],
)
def test_a_page_without_the_name_of_the_request_is_refused(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        check_page(text)


@given(st.text(), st.text())
def test_what_a_sentence_says_is_not_filled_in(detail: str, request_id: str) -> None:
    page = filled("{detail}|{request_id}", 500, "t", detail, request_id)
    assert page.startswith(detail)
