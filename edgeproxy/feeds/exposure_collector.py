"""Exposures to a collector, by HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx

from edgeproxy.feeds.exposure_settings import ExposureSection
from edgeproxy.feeds.exposures import ExposureSink
from edgeproxy.observe.cells import Slot

_log = logging.getLogger(__name__)
_TRY_LATER = frozenset({408, 425, 429})
_CONTENT = {"Content-Type": "application/x-ndjson"}


class HttpSink(ExposureSink):
    """Posts batches of JSON lines."""

    def __init__(
        self,
        url: str,
        config: ExposureSection,
        edge: str,
        slot: Slot,
        client: Callable[[], httpx.AsyncClient] = lambda: httpx.AsyncClient(
            timeout=10.0, trust_env=False, follow_redirects=False
        ),
    ) -> None:
        super().__init__("http", config, edge, slot)
        self._url, self._client = url, client
        token = config.token.get_secret_value()
        self._headers = {**_CONTENT, "Authorization": f"Bearer {token}"} if token else _CONTENT

    async def write(self, batch: bytes) -> bool:
        """Raises httpx.HTTPError when it should be tried again."""
        async with self._client() as client:
            answer = await client.post(self._url, content=batch, headers=self._headers)
        if answer.status_code >= 500 or answer.status_code in _TRY_LATER:
            raise httpx.HTTPStatusError(f"HTTP {answer.status_code}", request=answer.request, response=answer)
        if not answer.is_success:
            _log.error("the collector of exposures refused a batch with HTTP %d", answer.status_code)
        return answer.is_success
