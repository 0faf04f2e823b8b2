"""The class of a client's device: mobile, tablet or desktop, by a rule that fits on a page.

1. `Sec-CH-UA-Mobile: ?1` is mobile.
2. A User-Agent with `iPad`, `Tablet`, `Kindle` or `Silk/`, or with `Android` but without `Mobi`, is tablet.
3. A User-Agent with `Mobi` is mobile, unless Sec-CH-UA-Mobile is `?0`.
4. Everything else is desktop, robots and those who say nothing included.
"""

from __future__ import annotations

from edgeproxy.http.message import Headers

MOBILE, TABLET, DESKTOP = b"mobile", b"tablet", b"desktop"
_TABLETS = (b"iPad", b"Tablet", b"Kindle", b"Silk/")
_READ = 512  # bytes of a User-Agent that are looked at


def device_class(headers: Headers) -> bytes:
    """MOBILE, TABLET or DESKTOP for the fields of a request."""
    hint = headers.get(b"sec-ch-ua-mobile")
    if hint == b"?1":
        return MOBILE
    agent = (headers.get(b"user-agent") or b"")[:_READ]
    mobile = b"Mobi" in agent
    if any(word in agent for word in _TABLETS) or (b"Android" in agent and not mobile):
        return TABLET
    return MOBILE if mobile and hint != b"?0" else DESKTOP
