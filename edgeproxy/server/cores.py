"""How many cores this process may use: those it may run on, and what the quota of its container is worth."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """At least 1. A quota of 2.5 cores is worth 3 (cgroup v2, `cpu.max`)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        group = CGROUP.read_text().rpartition("::")[2].strip()
        quota, period = (CGROUPS / group.lstrip("/") / "cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # none, `max`, or not this kind of system
        return cores
