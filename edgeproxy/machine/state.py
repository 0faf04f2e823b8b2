"""The file that says what the other files of the machine tier are, and whether they are whole on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """Which start of this machine it is; empty where nobody can tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def read_state(folder: Path) -> dict[str, object]:
    """What it says; nothing when there is none, or none that can be read."""
    try:
        said: object = json.loads((folder / "state").read_text())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", said) if isinstance(said, dict) else {}


def write_state(folder: Path, said: Mapping[str, object]) -> None:
    """On the disk before anything else is: what it says must hold after a power cut. Raises OSError."""
    draft = folder / "state.draft"
    draft.write_text(json.dumps(said))
    sync(draft)
    draft.replace(folder / "state")
    sync(folder)


def sync(path: Path) -> None:
    """Bring it to the disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
