"""Fixtures every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine only.
settings.register_profile("edge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edge")

_DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Third-party test vectors (GeoIP, JWT, A/B, structured fields); absent in a plain clone."""
    folder = Path(os.environ.get("EDGEPROXY_TEST_DATA", _DEFAULT))
    if not folder.is_dir():
        pytest.skip("needs the third-party vectors: set EDGEPROXY_TEST_DATA to their folder")
    return folder


@pytest.fixture(params=["native", "asgi"])
def door(request: pytest.FixtureRequest) -> str:
    """Each way into an edge: what holds behind one must hold behind the other."""
    return str(request.param)
