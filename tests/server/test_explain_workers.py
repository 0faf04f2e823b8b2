"""`explain` of a running edge: what each worker and the machine tier hold, and why not."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeproxy.holdings import PATIENCE
from edgeproxy.server.control import Control
from edgeproxy.server.worker import Worker
from edgeproxy.shared import Shared
from tests.helpers.edge import Running, running_workers, serving
from tests.helpers.scripted_origin import ScriptedOrigin, always
from tests.server.test_siblings import FRESH, Counting, reply
from tests.server.test_supervisor import OLD, Edge

CONFIG = """
edge: {{id: edge-1, pop: ams}}
server: {{listen: ["127.0.0.1:8080"], workers: 2, access_log: {{path: "off"}}}}
admin: {{listen: "127.0.0.1:9900", token: "{token}"}}
origins: {{main: {{servers: ["{url}"], timeouts: {{connect: 20s, first_byte: 20s}}}}}}
routes: [{{name: all, origin: main, cache: {{ttl: 60s, stale_if_error: 30s, {cache}}}}}]
"""
NOTHING = "worker {}: nothing"


class Edges:
    """Workers, and the admin API of the control process beside them."""

    def __init__(self, workers: list[Running], shared: Shared) -> None:
        self.workers = workers
        self.control = Control(shared, shared.workers)
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.control.app),
            base_url="http://admin",
            headers={"Authorization": f"Bearer {OLD}"},
        )

    async def told(self, path: str = "/a", *fields: str, method: str = "GET") -> dict[str, Any]:
        """The member `cache` of the explanation, as a program gets it."""
        asked = {"method": method, "url": f"http://example.com{path}", "header": list(fields)}
        answer = await self._client.post("/explain", json=asked)
        assert answer.status_code == 200
        return answer.json()["cache"]

    async def tree(self, path: str = "/a") -> list[str]:
        """What people get: the leaves of its branch `cache`, the branch first."""
        asked = {"url": f"http://example.com{path}"}
        answer = await self._client.post("/explain", json=asked, headers={"Accept": "text/plain"})
        branch = answer.text[answer.text.index("├─ cache") :].partition("└─ origin")[0]
        return [line.lstrip("│├└─ ") for line in branch.splitlines()]

    async def close(self) -> None:
        await self._client.aclose()
        await self.control.stop()
        await self.control.parts.close()


@asynccontextmanager
async def edges(folder: Path, origin: ScriptedOrigin, count: int, cache: str = "") -> AsyncGenerator[Edges]:
    text = CONFIG.format(url=origin.url, token=OLD, cache=cache)
    async with running_workers(text, folder, count) as workers:
        both = Edges(workers, workers[0].worker.shared)
        try:
            yield both
        finally:
            await both.close()


@pytest.mark.parametrize("count", [1, 2])
async def test_what_a_worker_holds_is_told_with_its_freshness_and_what_gave_it(
    tmp_path: Path, count: int
) -> None:
    counting = Counting(FRESH, "Age: 7", "Vary: Accept-Language")
    async with ScriptedOrigin(counting.script) as origin, edges(tmp_path, origin, count) as edge:
        assert await edge.tree() == ["cache    fwd=uri-miss", "key: http example.com /a"] + [
            NOTHING.format(slot) for slot in range(count)
        ]
        await edge.workers[0].ask("/a", "Accept-Language: de")
        told = await edge.told("/a", "Accept-Language: de")
        first, *others = told["stored"]
        said = r"age 7 s, fresh for 5[23] s more \(max-age\), served if the origin fails for 8[23] s more"
        assert re.fullmatch(rf"{said}, chosen by accept-language", first["said"])
        response = first["response"]
        assert (response["status"], response["age"], response["vary"]) == (200, 7, ["accept-language"])
        assert 51 < response["fresh_for"] <= 53 < 81 < response["stale_if_error_for"] <= 83
        assert [one["said"] for one in others] == ["nothing"] * (count - 1)
        assert told["result"] == ("hit" if count == 1 else "hit in worker 0; fwd=uri-miss in worker 1")
        (variant, *_) = (await edge.told("/a", "Accept-Language: fr"))["stored"]
        assert (variant["said"], variant["response"]) == ("nothing: only for other requests (Vary)", None)
        assert counting.requests == 1


async def test_nothing_changes_by_explaining(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    async with ScriptedOrigin(counting.script) as origin, edges(tmp_path, origin, 2, "min_uses: 2") as edge:
        for _ in range(3):
            await edge.told()
        await edge.workers[0].ask()
        assert (await edge.told())["stored"][0]["said"] == "nothing: uses so far: 1 (min_uses)"
        await edge.workers[0].ask()
        (entry,) = edge.workers[0].worker.parts.store
        entry.visited = False
        await edge.told()
        assert (entry.visited, len(edge.workers[1].worker.parts.store), counting.requests) == (False, 0, 2)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("Cache-Control: private", "the last answer was not stored: it is private: for this client alone"),
        ("Set-Cookie: a=b", "the last answer was not stored: it sets a cookie, and the route does not strip"),
        ("Vary: *", "the last answer was not stored: its Vary has no bound"),
    ],
)
async def test_it_says_why_the_last_answer_was_not_stored(tmp_path: Path, field: str, said: str) -> None:
    async with ScriptedOrigin(always(reply(b"x", field))) as origin, edges(tmp_path, origin, 2) as edge:
        await edge.workers[1].ask()
        one, two = (await edge.told())["stored"]
        assert (one["said"], two["said"].startswith(f"nothing: {said}")) == ("nothing", True)


async def test_a_fetch_under_way_is_told(tmp_path: Path) -> None:
    counting = Counting(FRESH)
    counting.may.clear()
    async with ScriptedOrigin(counting.script) as origin, edges(tmp_path, origin, 1) as edge:
        asking = asyncio.create_task(edge.workers[0].ask())
        await counting.arrived.wait()
        assert re.fullmatch(r"nothing: being fetched for \d\.\d s", (await edge.told())["stored"][0]["said"])
        counting.may.set()
        await asking


@pytest.mark.parametrize(
    ("method", "fields", "result"),
    [
        ("GET", [], "hit"),
        ("HEAD", [], "hit"),
        ("GET", ["Cache-Control: no-cache"], "fwd=request"),
        ("GET", ["Cache-Control: no-store"], "fwd=request"),
        ("GET", ["Cache-Control: only-if-cached, min-fresh=99999"], "only-if-cached"),
        ("POST", [], "fwd=method"),
    ],
)
async def test_the_result_is_that_of_this_request(
    tmp_path: Path, method: str, fields: list[str], result: str
) -> None:
    async with ScriptedOrigin(always(reply(b"x"))) as origin, edges(tmp_path, origin, 1) as edge:
        await edge.workers[0].ask()
        assert (await edge.told("/a", *fields, method=method))["result"] == result


async def test_a_worker_that_does_not_answer_is_named_and_not_waited_for(tmp_path: Path) -> None:
    async with ScriptedOrigin(always(reply(b"x"))) as origin:
        path = tmp_path / "edge.yaml"
        path.write_text(CONFIG.format(url=origin.url, token=OLD, cache=""))
        shared = Shared.create(path, 2, controlled=True)
        assert shared.links is not None
        async with serving(Worker(shared, 1), "native") as two:
            edge = Edges([two], shared)
            await two.ask()
            async with asyncio.timeout(10 * PATIENCE):
                told = await edge.told()
            silent, answering = told["stored"]
            assert (silent["known"], silent["said"]) == (False, "no answer within 0.5 s")
            assert (answering["known"], told["result"]) == (True, "hit")
            shared.links.listeners[0].close()
            assert "worker 0: no answer" in await edge.tree()
            await edge.close()
        shared.links.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_command_asks_the_running_edge(tmp_path: Path, workers: int) -> None:
    async with ScriptedOrigin(always(reply(b"x", FRESH))) as origin:
        edge = Edge(tmp_path, workers=workers, origin=origin.url)
        try:
            await asyncio.to_thread(edge.until, lambda: edge.says("serving"))
            await asyncio.to_thread(edge.until, lambda: edge.status("/readyz") == 200)
            async with httpx.AsyncClient(trust_env=False) as client:
                url = f"http://127.0.0.1:{edge.ports['port']}/a"
                assert (await client.get(url)).status_code == 200
            command = [
                sys.executable, "-m", "edgeproxy", "explain", "GET", url,
                "--admin", f"http://127.0.0.1:{edge.ports['admin']}", "--token", OLD,
            ]  # fmt: skip
            asked = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=True, timeout=20
            )
        finally:
            await asyncio.to_thread(edge.end)
    lines = [line.lstrip("│├└─ ") for line in asked.stdout.splitlines()]
    held = [line for line in lines if line.startswith("worker ")]
    assert len(held) == workers
    assert sum("s more (max-age)" in line for line in held) == 1
    assert sum(line.endswith(": nothing") for line in held) == workers - 1
