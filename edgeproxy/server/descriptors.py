"""How many connections and files a process may have open (RLIMIT_NOFILE): all that the system lets it."""

from __future__ import annotations

import logging
import resource

from edgeproxy.cache.body_file import DESCRIPTORS, WEIGHT
from edgeproxy.config import Config

logger = logging.getLogger("edgeproxy.supervisor")

OTHERS = 256  # listeners, logs, the loop's own, probes, the other workers


def needed(config: Config) -> dict[str, int]:
    """The most that one worker may have open, by what for."""
    cache, machine = config.cache, config.cache.machine
    files = 0
    if machine is not None and machine.files is not None:
        files = min(cache.memory // WEIGHT, machine.files.max_bytes // cache.object_size)
    return {
        "server.limits.connections": config.server.limits.connections,
        "max_connections of the origins": sum(one.max_connections for one in config.origins.values()),
        "cache.machine.files": DESCRIPTORS * files,
        "others": OTHERS,
    }


def raise_limit(config: Config) -> None:
    """Take as many as the system lets this process and its children have, and say when they may not do."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed != most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            allowed = most
        except (ValueError, OSError) as error:  # what some systems call unlimited they do not grant
            logger.warning("RLIMIT_NOFILE stays at %d: %s", allowed, error)
    wanted = needed(config)
    total = sum(wanted.values())
    if allowed != resource.RLIM_INFINITY and total > allowed:
        logger.warning(
            "a worker may need %d descriptors (%s), and the system allows %d: raise its hard limit of files",
            total,
            ", ".join(f"{name} {count}" for name, count in wanted.items() if count),
            allowed,
        )
