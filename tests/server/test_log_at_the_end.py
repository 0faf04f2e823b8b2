"""The last lines of the access log, when a worker ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeproxy.server.worker import Worker
from tests.helpers.edge import PATIENCE
from tests.origin.support import eventually, settle

CONFIG = """
edge: {{id: edge-1}}
server: {{listen: ["127.0.0.1:8080"], access_log: {{path: "{log}"}}}}
admin: {{listen: null}}
origins: {{main: {{servers: ["http://127.0.0.1:1"]}}}}
routes: [{{name: all, origin: main}}]
"""


async def test_lines_that_wait_for_a_thread_when_the_worker_ends_are_written(tmp_path: Path) -> None:
    path, lines = tmp_path / "edge.yaml", tmp_path / "access.log"
    path.write_text(CONFIG.format(log=lines))
    loop, free = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    worker = Worker.alone(path)
    await worker.start()
    log = worker.parts.log
    assert log is not None
    busy = loop.run_in_executor(None, free.wait, PATIENCE)
    log.append_rejected("192.0.2.1", 400, "bad_request", 0.0)
    await eventually(lambda: len(log) == 0)
    stopping = asyncio.create_task(worker.stop())
    await settle()
    free.set()
    await busy
    await stopping
    assert lines.read_text().count("\n") == 1
