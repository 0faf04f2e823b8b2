"""Tests of one of the two builds: see `tests/compiled`."""

from __future__ import annotations

import pytest

import edgeproxy

COMPILED = edgeproxy.__build__ == "compiled"
STANDS_IN = pytest.mark.skipif(COMPILED, reason="a compiled part takes nothing else in the place of another")
LOOKS_IN = pytest.mark.skipif(COMPILED, reason="a compiled object does not list what it has")
