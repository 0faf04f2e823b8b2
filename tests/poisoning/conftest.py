from __future__ import annotations

import pytest


@pytest.fixture(params=["native", "asgi"])
def door(request: pytest.FixtureRequest) -> str:
    """Every assertion holds behind both doors."""
    return str(request.param)
