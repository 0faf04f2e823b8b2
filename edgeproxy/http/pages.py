"""Error pages: who gets HTML instead of problem+json, and from which template."""

from __future__ import annotations

from functools import lru_cache

from edgeproxy.http.quality import qualities

LONGEST = 65_536  # characters of a template
REQUEST_ID = "{request_id}"
_LONGEST_ACCEPT = 512  # bytes that are looked at
_DEFAULT = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{status} {title}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:38rem;margin:15vh auto;padding:0 1rem}
h1{font-size:1.4rem}code{color:#666}@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}</style>
<h1>{status} {title}</h1><p>{detail}</p><p><code>request {request_id}</code></p></html>
"""


class Page:
    """The template in force in this process; all that is refused in it looks alike."""

    text = _DEFAULT


def use_page(text: str | None) -> None:
    """Put a template in force; None for ours. A part of installing a configuration."""
    Page.text = _DEFAULT if text is None else text


def check_page(text: str) -> str:
    """`text` when it can be a template. Raises ValueError."""
    if text.count(REQUEST_ID) != 1:
        raise ValueError(f"found {text.count(REQUEST_ID)} times {REQUEST_ID}, expected it once")
    if "\0" in text:
        raise ValueError("found a NUL character, expected a text")
    return text


def filled(template: str, status: int, title: str, detail: str, request_id: str) -> str:
    """The page. `detail` comes last: what stands in it is never filled in."""
    page = template.replace(REQUEST_ID, request_id).replace("{status}", str(status))
    return page.replace("{title}", title).replace("{detail}", detail)


def prefers_html(accept: bytes | None) -> bool:
    """Does a client with this Accept field like HTML better than JSON (RFC 9110 §12.5.1)?"""
    return accept is not None and _prefers_html(accept[:_LONGEST_ACCEPT].lower())


@lru_cache(maxsize=256)
def _prefers_html(accept: bytes) -> bool:
    if b"text/html" not in accept:  # whatever is fine with it: programs say */*
        return False
    liked = qualities(accept)
    named = [liked[kind] for kind in (b"application/problem+json", b"application/json") if kind in liked]
    json = max(named) if named else liked.get(b"application/*", liked.get(b"*/*", 0.0))
    html = liked.get(b"text/html", 0.0)
    return html > json or (html == json > 0 and not named)
