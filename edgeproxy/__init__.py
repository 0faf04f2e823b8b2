"""edgeproxy: an edge server with policies and a shared HTTP cache."""

__version__ = "0.1.0"
