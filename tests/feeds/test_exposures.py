"""Sinks of exposures: what a line says, what happens when nobody takes it, and that nothing grows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from edgeproxy.context import Context, Exposure, Place
from edgeproxy.feeds.exposure_collector import HttpSink
from edgeproxy.feeds.exposure_settings import ExposureSection
from edgeproxy.feeds.exposures import ExposureSink, FileSink, exposure_sinks
from edgeproxy.observe.cells import Cells
from edgeproxy.observe.trials import total

CELLS = Cells(2)


def exposed(sink: ExposureSink, *units: str) -> None:
    for unit in units:
        ctx = Context(0.0, 1_780_272_000.5, "203.0.113.7", "shop", "req-1")
        ctx.place = Place("DE")
        sink.put(Exposure("checkout", "fast", "checkout", unit, print), ctx)


def section(**settings: Any) -> ExposureSection:
    return ExposureSection.model_validate(settings)


def lines(text: str | bytes) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_a_file_gets_a_line_for_each(tmp_path: Path) -> None:
    path = tmp_path / "exposures.jsonl"
    (sink,) = exposure_sinks(section(file=str(path), unit="plain"), "ams1", CELLS.slot(0))
    exposed(sink, "ann", "b\n\ud800ob")
    await sink.flush()
    first, second = lines(path.read_text())
    assert first == {
        "time": "2026-06-01T00:00:00.500+00:00", "experiment": "checkout", "variant": "fast", "unit": "ann",
        "route": "shop", "edge": "ams1", "country": "DE",
    }  # fmt: skip
    assert second["unit"] == "b\n\ud800ob"
    path.unlink()  # rotated away
    exposed(sink, "eve")
    await sink.flush()
    assert [line["unit"] for line in lines(path.read_text())] == ["eve"]


async def test_units_are_hashed_with_the_salt_unless_they_are_wanted(tmp_path: Path) -> None:
    found: list[str] = []
    for number, salt in enumerate(("", "a", "a")):
        path = tmp_path / str(number)
        sink = FileSink(str(path), section(salt=salt), "ams1", CELLS.slot(0))
        exposed(sink, "203.0.113.7")
        await sink.flush()
        found.append(lines(path.read_text())[0]["unit"])
    assert found[0] != found[1] == found[2]
    assert all(len(unit) == 32 and "203" not in unit[:3] for unit in found)


def collector(answers: list[int], bodies: list[bytes], tokens: list[str | None]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        tokens.append(request.headers.get("authorization"))
        return httpx.Response(answers.pop(0))

    return httpx.MockTransport(answer)


def posting(answers: list[int], **settings: Any) -> tuple[HttpSink, list[bytes], list[str | None]]:
    bodies: list[bytes] = []
    tokens: list[str | None] = []
    transport = collector(answers, bodies, tokens)
    config = section(url="https://c.example/x", unit="plain", **settings)
    sink = HttpSink(
        "https://c.example/x", config, "ams1", CELLS.slot(0), lambda: httpx.AsyncClient(transport=transport)
    )
    return sink, bodies, tokens


async def test_a_collector_gets_batches_in_order() -> None:
    sink, bodies, tokens = posting([200, 204, 202], batch=2, token="s3cret")
    exposed(sink, *"abcde")
    await sink.flush()
    assert [[line["unit"] for line in lines(body)] for body in bodies] == [["a", "b"], ["c", "d"], ["e"]]
    assert set(tokens) == {"Bearer s3cret"}
    assert len(sink) == 0


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_what_could_not_be_delivered_is_tried_again(status: int) -> None:
    sink, bodies, _ = posting([status, 200, 200], batch=2)
    exposed(sink, *"abc")
    await sink.flush()
    assert len(sink) == 3
    exposed(sink, "d")
    await sink.flush()
    assert [line["unit"] for body in bodies[1:] for line in lines(body)] == ["a", "b", "c", "d"]


async def test_what_was_refused_is_dropped_and_counted() -> None:
    before = total(CELLS, "edgeproxy_exposures_dropped_total", sink="http")
    sink, _, _ = posting([400, 200], batch=2)
    exposed(sink, *"abc")
    await sink.flush()
    assert len(sink) == 0
    assert total(CELLS, "edgeproxy_exposures_dropped_total", sink="http") == before + 2


async def test_the_buffer_is_bounded() -> None:
    before = total(CELLS, "edgeproxy_exposures_dropped_total", sink="http")
    sink, _, _ = posting([500], buffer=3)
    exposed(sink, *"abcde")
    await sink.flush()
    exposed(sink, "f")
    assert len(sink) == 3
    assert total(CELLS, "edgeproxy_exposures_dropped_total", sink="http") == before + 3


async def test_a_cancelled_flush_loses_nothing() -> None:
    class Stuck(ExposureSink):
        async def write(self, batch: bytes) -> bool:
            await asyncio.Event().wait()
            return True

    sink = Stuck("file", section(), "ams1", CELLS.slot(0))
    exposed(sink, *"abc")
    task = asyncio.create_task(sink.flush())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(sink) == 3


async def test_a_folder_that_is_not_there_is_a_failure_and_no_crash(tmp_path: Path) -> None:
    before = total(CELLS, "edgeproxy_exposure_sink_failures_total", sink="file")
    sink = FileSink(str(tmp_path / "no" / "x"), section(), "ams1", CELLS.slot(0))
    exposed(sink, "a")
    await sink.flush()
    assert len(sink) == 1
    assert total(CELLS, "edgeproxy_exposure_sink_failures_total", sink="file") == before + 1


@pytest.mark.parametrize("url", ["collector", "ftp://x/", "https://user@host/", "http://a b/"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="is no URL"):
        section(url=url)
