"""Is a response what the extension of its path says? (web cache deception, reliability A55)

`/account/x.css` is the account's page to many an origin. Where the origin did not say itself for how long an
answer is fresh, a style sheet that is HTML is not stored.
"""

from __future__ import annotations

_BINARY = (b"application/octet-stream", b"binary/octet-stream")
_SCRIPT = (b"text/javascript", b"application/javascript", b"application/x-javascript", b"text/ecmascript")
_FONT = (b"font/", b"application/font", b"application/x-font", b"application/vnd.ms-fontobject", *_BINARY)
_IMAGE = (b"image/", *_BINARY)
_MEDIA = (b"audio/", b"video/", b"application/ogg", *_BINARY)
_KINDS = {
    b"css": (b"text/css",),
    b"js": _SCRIPT,
    b"mjs": _SCRIPT,
    b"pdf": (b"application/pdf", *_BINARY),
    **dict.fromkeys((b"woff", b"woff2", b"ttf", b"otf", b"eot"), _FONT),
    **dict.fromkeys(
        (b"png", b"jpg", b"jpeg", b"gif", b"webp", b"avif", b"svg", b"ico", b"bmp", b"tif", b"tiff"), _IMAGE
    ),
    **dict.fromkeys((b"mp3", b"mp4", b"webm", b"ogg", b"wav", b"flac", b"mov", b"m4a", b"mkv"), _MEDIA),
}


def is_unlike(path: bytes, content_type: bytes | None) -> bool:
    """Does the type contradict the extension? Not where there is no type, or no extension that we know."""
    kinds = _KINDS.get(path.rpartition(b".")[2].lower())
    return kinds is not None and content_type is not None and not content_type.lower().startswith(kinds)
