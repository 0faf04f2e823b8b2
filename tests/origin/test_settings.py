"""`origins.<name>`: what is accepted, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edgeproxy.origin.settings import Origin, server_url

ONE = "http://10.0.1.5:8000"
TWO = "http://10.0.1.6:8000"


def test_a_list_of_servers_is_enough() -> None:
    origin = Origin.model_validate({"servers": [ONE]})
    assert (origin.timeouts.connect, origin.timeouts.first_byte, origin.timeouts.idle) == (3.0, 15.0, 60.0)
    assert (origin.max_connections, origin.max_idle, origin.queue.size) == (1024, 64, 256)
    assert (origin.tls.verify, origin.allow_private, origin.health) == (True, False, None)


def test_everything_can_be_said() -> None:
    origin = Origin.model_validate(
        {
            "servers": [ONE, "https://origin.example.com"],
            "location": [50.11, 8.68],
            "host": "www.example.com",
            "timeouts": {"connect": "1s", "total": "1m"},
            "max_connections": 10,
            "queue": {"size": 5, "timeout": "500ms"},
            "balance": "least_requests",
            "health": {"path": "/healthz", "interval": "5s", "status": 204},
            "tls": {"ca": "/ca.pem", "server_name": "inner"},
            "retries": 0,
        }
    )
    assert origin.location == (50.11, 8.68)
    assert origin.timeouts.total == 60.0
    assert origin.health is not None
    assert origin.health.statuses == (204, 204)


@pytest.mark.parametrize(
    ("text", "tls", "host", "port", "label", "authority"),
    [
        (ONE, False, "10.0.1.5", 8000, ONE, "10.0.1.5:8000"),
        ("http://a.example", False, "a.example", 80, "http://a.example:80", "a.example"),
        ("https://A.example/", True, "a.example", 443, "https://a.example:443", "a.example"),
        ("https://a.example:8443", True, "a.example", 8443, "https://a.example:8443", "a.example:8443"),
        ("http://[::1]:8000", False, "::1", 8000, "http://[::1]:8000", "[::1]:8000"),
        ("http://[2001:db8::1]", False, "2001:db8::1", 80, "http://[2001:db8::1]:80", "[2001:db8::1]"),
        ("http://app_1:80", False, "app_1", 80, "http://app_1:80", "app_1"),
    ],
)
def test_the_parts_of_a_server(
    text: str, tls: bool, host: str, port: int, label: str, authority: str
) -> None:
    url = server_url(text)
    assert (url.tls, url.host, url.port, str(url), url.authority) == (tls, host, port, label, authority)


@pytest.mark.parametrize("name", ["", ".example.com", "a..example", "x" * 64, "two words", "ü.example"])
def test_a_name_that_no_handshake_can_send_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="neither a host name nor an IP address"):
        Origin.model_validate({"servers": [ONE], "tls": {"server_name": name}})


@pytest.mark.parametrize(
    ("mode", "host"),
    [("preserve", None), ("server", b"10.0.1.5:8000"), ("www.example.com:81", b"www.example.com:81")],
)
def test_the_host_field_of_a_server(mode: str, host: bytes | None) -> None:
    origin = Origin.model_validate({"servers": [ONE], "host": mode})
    assert origin.host_for(origin.urls[0]) == host


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"servers": []}, ("servers",), "at least 1"),
        ({"servers": ["10.0.1.5:8000"]}, ("servers", 0), "write scheme, host and port"),
        ({"servers": ["ftp://a"]}, ("servers", 0), "is not a server"),
        ({"servers": ["http://"]}, ("servers", 0), "is not a server"),
        ({"servers": ["http://a/path"]}, ("servers", 0), "no path, query or password"),
        ({"servers": ["http://a?x=1"]}, ("servers", 0), "no path, query or password"),
        ({"servers": ["http://a#f"]}, ("servers", 0), "no path, query or password"),
        ({"servers": ["http://u:p@a"]}, ("servers", 0), "no path, query or password"),
        ({"servers": ["http://a:99999"]}, ("servers", 0), "is not a server"),
        ({"servers": ["http://a:0"]}, ("servers", 0), "port 0"),
        ({"servers": ["http://a b"]}, ("servers", 0), "neither a host name nor an IP address"),
        ({"servers": ["http://[::x]"]}, ("servers", 0), "is not a server"),
        ({"servers": [ONE, "http://a\r\nX: y"]}, ("servers", 1), ""),
        ({"servers": [7]}, ("servers", 0), "valid string"),
        ({"servers": [ONE, ONE + "/"]}, ("servers",), "listed twice"),
        ({"location": [91, 0]}, ("location",), "latitude"),
        ({"location": [0, 181]}, ("location",), "longitude"),
        ({"location": [0]}, ("location", 1), "Field required"),
        ({"host": "a/b"}, ("host",), "is not a host"),
        ({"host": "a\r\nX: y"}, ("host",), "is not a host"),
        ({"host": "a\n"}, ("host",), "is not a host"),
        ({"host": "a:99999"}, ("host",), "is not a host"),
        ({"timeouts": {"connect": "3"}}, ("timeouts", "connect"), "is not a duration"),
        ({"timeouts": {"connect": 0}}, ("timeouts", "connect"), "greater than 0"),
        ({"max_connections": 0}, ("max_connections",), "greater than or equal to 1"),
        ({"servers": ["unix:app.sock"]}, ("servers", 0), "absolute path"),
        ({"servers": ["unix:/" + "a" * 108]}, ("servers", 0), "is not a socket"),
        ({"servers": [{"url": ONE, "weight": 0}]}, ("servers", 0), "valid string"),
        ({"servers": [{"url": ONE}, ONE]}, ("servers",), "listed twice"),
        ({"balance": "random"}, ("balance",), "round_robin"),
        ({"balance": "hash:"}, ("balance",), "hash:client_ip"),
        ({"balance": "sticky:a b"}, ("balance",), "is not a balance"),
        ({"health": {"status": "399-200"}}, ("health", "status"), "is not a status"),
        ({"health": {"status": "ok"}}, ("health", "status"), "is not a status"),
        ({"health": {"path": "healthz"}}, ("health", "path"), "is not a path"),
        ({"health": {"path": "/a b"}}, ("health", "path"), "is not a path"),
        ({"tls": {"client_key": "/k"}}, ("tls",), "client_key needs client_cert"),
        ({"hedge": {"after": "1s"}}, ("hedge",), "there is only one"),
        ({"servers": [ONE, TWO], "hedge": {"after": "15s"}}, ("hedge",), "shorter than timeouts.first_byte"),
        (
            {"servers": [ONE, TWO], "balance": "sticky:edge", "hedge": {"after": "1s"}},
            ("hedge",),
            "sticky balance",
        ),
        ({"servers": [ONE, TWO], "hedge": {"share": 0.1}}, ("hedge", "after"), "Field required"),
        ({"server": [ONE]}, ("server",), "Extra inputs"),
    ],
)
def test_what_is_wrong_is_refused_where_it_is(
    changes: dict[str, Any], path: tuple[str | int, ...], says: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Origin.model_validate({"servers": [ONE], **changes})
    found = refused.value.errors()
    error = found[0]
    if len(found) > 1:  # a server is text or a section: the explanation for the text comes first
        assert {each["loc"][:2] for each in found} == {path}
    else:
        assert error["loc"] == path
    assert says in error["msg"]


def test_every_field_is_documented() -> None:
    for name, model in Origin.model_json_schema()["$defs"].items():
        for field, schema in model["properties"].items():
            assert schema.get("description"), f"{name}.{field}"
