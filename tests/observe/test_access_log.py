"""The access log: one parseable line per request whatever comes in, nothing secret, nothing blocked."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeproxy.observe import access_log
from edgeproxy.observe.access_log import LINE_CAP, PENDING_CAP, AccessLog
from edgeproxy.observe.cells import Cells, encode_series
from edgeproxy.observe.outcome import Outcome

JWT = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjMifQ.c2lnbmF0dXJlLWJ5dGVz"


def outcome(**changes) -> Outcome:
    plain = Outcome(
        time=1_700_000_000.25, client="192.0.2.1", method=b"GET", host=b"www.example.com", path=b"/a",
        query=b"", status=200, result=b"hit", route="site", request_id="ams1-1", seconds=0.0005, sent=1024,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.fixture
def cells() -> Cells:
    return Cells(1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def log(cells, path):
    log = AccessLog(cells.slot(0), str(path))
    yield log
    log.close()


def dropped(cells: Cells, reason: str) -> float:
    return cells.total(cells.intern(encode_series("edgeproxy_access_log_dropped_total", reason=reason)))


def line_of(log: AccessLog, one: Outcome) -> dict[str, object]:
    log.append(one)
    return json.loads(log.render())


def test_a_line_says_what_happened(log):
    assert line_of(
        log, outcome(query=b"page=2", agent=b"curl/8", country="NL", variants="checkout=fast")
    ) == {
        "time": "2023-11-14T22:13:20.250Z",
        "client": "192.0.2.1",
        "method": "GET",
        "host": "www.example.com",
        "path": "/a",
        "query": "page=2",
        "status": 200,
        "result": "hit",
        "route": "site",
        "duration": 0.0005,
        "sent": 1024,
        "request_id": "ams1-1",
        "user_agent": "curl/8",
        "country": "NL",
        "variants": "checkout=fast",
    }


def test_a_line_says_who_refused_and_which_origin_failed(log):
    line = line_of(
        log,
        outcome(
            status=502, policy="jwt", reason="expired", origin="eu", server="10.0.0.1:80", retries=1,
            origin_seconds=1.5, error="connection_refused",
        ),
    )  # fmt: skip
    assert (line["policy"], line["reason"]) == ("jwt", "expired")
    assert (line["origin"], line["server"], line["retries"]) == ("eu", "10.0.0.1:80", 1)
    assert (line["origin_duration"], line["error"]) == (1.5, "connection_refused")


def test_what_never_became_a_request_has_a_line_too(log):
    log.append_rejected("192.0.2.9", 400, "bad-framing", 1_700_000_000.0)
    line = json.loads(log.render())
    assert (line["client"], line["status"], line["reason"]) == ("192.0.2.9", 400, "bad-framing")


@pytest.mark.parametrize(
    "hostile",
    [
        b"/a\r\n{}",
        b'/"}\n',
        b"/\x1b[31m\x00\x07",
        b"/\x7f\x9b",
        b"/\xff\xfe",
        "/\u2028\u0085".encode(),
        b"/\\",
    ],
    ids=["CRLF", "quote", "ANSI", "C1 and DEL", "not UTF-8", "unicode line ends", "backslash"],
)
def test_hostile_bytes_stay_inside_one_line_of_printable_ascii(log, hostile):
    log.append(outcome(path=hostile, agent=hostile, host=hostile, method=hostile, query=hostile))
    rendered = log.render()
    assert rendered.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in rendered[:-1])
    assert json.loads(rendered)["path"]


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=12_000), text=st.text(max_size=300))
def test_any_bytes_make_exactly_one_parseable_line_of_eight_kibibytes(raw, text):
    log = AccessLog(Cells(1, columns=64, names_size=8192).slot(0))
    log.append(
        outcome(
            method=raw, host=raw, path=raw, query=raw, agent=raw, result=raw, client=text, route=text,
            country=text, request_id=text, variants=text, policy=text, reason=text, origin=text, server=text,
            error=text,
        )
    )  # fmt: skip
    rendered = log.render()
    assert rendered.index(b"\n") == len(rendered) - 1 < LINE_CAP
    assert json.loads(rendered)["status"] == 200


@pytest.mark.parametrize(
    "filler", [b"a", b"\x00", b"\xff", "\U0001f600".encode()], ids=["a", "NUL", "ff", "emoji"]
)
def test_a_megabyte_in_every_field_is_still_one_short_line(log, filler):
    huge = filler * (2**20 // len(filler))
    text = "\U0001f600" * 2**16
    log.append(outcome(
        path=huge, query=huge, agent=huge, host=huge, method=huge, client=text, route=text, request_id=text,
        country=text, variants=text, policy=text, reason=text, origin=text, server=text, error=text,
    ))  # fmt: skip
    rendered = log.render()
    assert len(rendered) <= LINE_CAP
    assert json.loads(rendered)["sent"] == 1024


@pytest.mark.parametrize(
    ("query", "logged"),
    [
        (b"token=s3cret&page=2", "token=***&page=2"),
        (b"a=1;access_token=s3cret", "a=1;access_token=***"),
        (b"%74oken=s3cret", "%74oken=***"),
        (b"ACCESS-Token=s3cret&SIG=s3cret", "ACCESS-Token=***&SIG=***"),
        (b"X-Amz-Signature=s3cret", "X-Amz-Signature=***"),
        (b"ticket=s3cret", "ticket=***"),
        (b"next=" + JWT, "next=***"),
        (b"tokens=3&flag&=x", "tokens=3&flag&=x"),
    ],
    ids=[
        "token",
        "semicolon",
        "escaped name",
        "case and dashes",
        "signed URL",
        "configured",
        "a JWT",
        "harmless",
    ],
)
def test_secrets_in_the_query_are_hidden(cells, path, query, logged):
    log = AccessLog(cells.slot(0), str(path), sensitive=["Ticket"])
    assert line_of(log, outcome(query=query))["query"] == logged
    log.close()


@pytest.mark.parametrize("field", ["path", "agent"])
def test_a_json_web_token_is_hidden_wherever_it_is(log, field):
    log.append(outcome(**{field: b"/reset/" + JWT + b"/now"}))
    rendered = log.render()
    assert b"eyJ" not in rendered
    assert b"/reset/***/now" in rendered


def test_a_buffer_that_is_full_drops_and_counts(log, cells):
    for _ in range(PENDING_CAP + 7):
        log.append(outcome())
    assert len(log) == PENDING_CAP
    assert dropped(cells, "full") == 7


def test_render_takes_the_oldest_lines_first_and_no_more_than_asked(log):
    for number in range(5):
        log.append(outcome(path=b"/%d" % number))
    lines = log.render(2).splitlines() + log.render(2).splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/0", "/1", "/2", "/3"]
    assert len(log) == 1


def test_a_sample_keeps_the_same_requests_every_time_and_all_server_errors(cells, path):
    logs = [AccessLog(cells.slot(0), str(path), sample=0.25) for _ in range(2)]
    for log in logs:
        for number in range(2000):
            log.append(outcome(request_id=f"id-{number}"))
        for number in range(50):
            log.append(outcome(request_id=f"id-{number}", status=503))
    first, second = (log.render(10_000) for log in logs)
    assert first == second
    assert first.count(b'"status":503') == 50
    assert 400 < first.count(b'"status":200') < 600
    for log in logs:
        log.close()


@pytest.mark.parametrize(("sample", "kept"), [(0.0, 0), (1.0, 100)])
def test_a_sample_of_nothing_or_all(cells, path, sample, kept):
    log = AccessLog(cells.slot(0), str(path), sample=sample)
    for number in range(100):
        log.append(outcome(request_id=f"id-{number}"))
    assert len(log) == kept
    log.close()


def test_flush_appends_to_the_file(log, path):
    path.write_text("earlier\n")
    for _ in range(1200):
        log.append(outcome())
    log.flush()
    lines = path.read_text().splitlines()
    assert (lines[0], len(lines), len(log)) == ("earlier", 1201, 0)


def test_after_rotation_reopen_goes_on_in_a_new_file(log, path):
    log.append(outcome())
    log.flush()
    old = path.rename(path.with_suffix(".1"))
    log.reopen()
    log.append(outcome())
    log.flush()
    assert len(old.read_text().splitlines()) == len(path.read_text().splitlines()) == 1


def test_a_new_file_that_cannot_be_opened_leaves_the_old_one_in_use(log, path):
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        log.reopen()
    log.append(outcome())
    log.flush()
    assert len(old.read_text().splitlines()) == 1


def test_standard_output_needs_no_reopening(cells, capfd):
    log = AccessLog(cells.slot(0))
    log.reopen()
    log.append(outcome())
    log.close()
    assert json.loads(capfd.readouterr().out)["route"] == "site"


class Sink:
    """A disk or pipe that takes so many bytes and then fails."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room = room
        self.error = error
        self.written = b""

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.room:
            raise OSError(self.error, os.strerror(self.error))
        taken = data[: self.room]
        self.room -= len(taken)
        self.written += taken
        return len(taken)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EAGAIN, errno.EPIPE], ids=errno.errorcode.get)
def test_a_sink_that_takes_nothing_loses_lines_counts_them_and_is_named(
    log, path, cells, monkeypatch, caplog, error
):
    sink = Sink(0, error)
    monkeypatch.setattr(access_log.os, "write", sink)
    for room in (0, 0, 10_000, 0):
        sink.room = room
        log.append(outcome())
        log.flush()
    assert dropped(cells, "sink") == 3
    said = f"the access log {path} takes no lines: {os.strerror(error)}; they are lost"
    assert [record.getMessage() for record in caplog.records] == [said, said], "again after one was taken"


def test_a_line_that_was_cut_is_completed_before_anything_else(log, cells, monkeypatch):
    sink = Sink(0)
    monkeypatch.setattr(access_log.os, "write", sink)
    log.append(outcome(path=b"/first"))
    log.append(outcome(path=b"/cut"))
    log.append(outcome(path=b"/lost"))
    rendered = log.render()
    sink.room = rendered.index(b"/cut")
    log.write(rendered)
    assert dropped(cells, "sink") == 1
    log.append(outcome(path=b"/lost too"))
    log.flush()
    sink.room = 10_000
    log.append(outcome(path=b"/after"))
    log.flush()
    assert [json.loads(line)["path"] for line in sink.written.splitlines()] == ["/first", "/cut", "/after"]
    assert dropped(cells, "sink") == 2


def test_a_sink_that_takes_nothing_without_an_error_ends_the_write(log, cells, monkeypatch):
    monkeypatch.setattr(access_log.os, "write", lambda *_: 0)
    log.append(outcome())
    log.flush()
    assert dropped(cells, "sink") == 1
