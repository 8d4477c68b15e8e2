"""How many CPUs this process may use: the cgroup's quota and the affinity mask, not the host's cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """The number of CPUs that can be kept busy: the smaller of the affinity mask and the quota, rounded up."""
    cpus = len(os.sched_getaffinity(0))
    quota = _quota_cpus(cgroup)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _quota_cpus(cgroup: Path) -> float | None:
    # cgroup v2 first, then v1: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
