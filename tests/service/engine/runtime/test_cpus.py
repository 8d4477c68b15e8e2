from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.engine.runtime.cpus import available_cpus

HOST_CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", HOST_CPUS),
        ("50000 100000", 1),
        ("150000 100000", min(2, HOST_CPUS)),
        ("10000000 100000", HOST_CPUS),
    ],
)
def test_the_quota_of_cgroup_v2_bounds_the_cpus(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")

    assert available_cpus(tmp_path) == expected


def test_the_quota_of_cgroup_v1_bounds_the_cpus(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")

    assert available_cpus(tmp_path) == 1


def test_without_a_cgroup_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == HOST_CPUS
