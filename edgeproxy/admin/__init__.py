"""The admin API."""

ADMIN_SERVICE = "edgeproxy admin"
"""What it calls itself in `/livez`, so that nothing else is given its token."""
