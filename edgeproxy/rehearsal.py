"""A configuration tried out: built once and thrown away, so that what only shows then is said in time.

Missing files, keys that cannot be used, policies that cannot be imported: `check` says so, a start does not
begin, and a reload keeps what runs. Nothing listens, nobody is asked, and nothing stays behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from edgeproxy.build import Parts
from edgeproxy.config import Config, check_files, placed
from edgeproxy.errors import ConfigError
from edgeproxy.shared import Shared

_MOST_SAID = 64 * 1024


def rehearse(config: Config, *, folders: bool = False) -> None:
    """Build everything that this configuration asks for. Raises ConfigError when that cannot be done; with
    `folders` also when there would be no machine tier, which stops no edge."""
    check_files(config, folders=folders)
    asyncio.run(_rehearse(config))


async def _rehearse(config: Config) -> None:
    try:
        parts = Parts(config, Shared(Path(), 1), 0, None, logs=False)
    except ConfigError as error:
        raise placed(config, error) from None
    await parts.close()


def rehearse_apart(config: Config) -> None:
    """The same in a process of its own: what it opens and imports is not for the supervisor to keep.

    Raises ConfigError, also when that process did not come to its end.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        os._exit(_said_to(writing, config))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read(_MOST_SAID).decode("utf-8", "backslashreplace")
    _, status = os.waitpid(pid, 0)
    if said or status:
        raise ConfigError(said or "the configuration could not be tried out; the log says why")


def _said_to(writing: int, config: Config) -> int:
    logging.disable(logging.WARNING)  # those who keep what they build will warn
    try:
        rehearse(config)
    except (ConfigError, OSError) as error:
        os.write(writing, str(error).encode("utf-8", "backslashreplace")[:_MOST_SAID])
        return 0
    except BaseException:
        logging.getLogger("edgeproxy.rehearsal").exception("trying out the configuration failed")
        return 1
    return 0
