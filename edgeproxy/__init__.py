"""edgeproxy: an edge server with policies and a shared HTTP cache."""

from importlib.util import find_spec

__version__ = "0.1.0"

_decides = find_spec("edgeproxy.pipeline")
__build__ = "interpreted" if _decides is None or str(_decides.origin).endswith(".py") else "compiled"
"""Whether the way of a request is compiled (see README); the sources are the same."""
