"""Loads of models that ask for too much, or that are not what they say."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.attacks import wire
from loadtests.attacks.attack import NotHeld, Target, attack, require, require_status
from loadtests.attacks.stages import not_a_number, open_axes, write_bare
from loadtests.servers import shipped_models

_LOAD_SECONDS = 60.0
_GOLDEN = "golden.npz"


def load(target: Target, model: str, config: dict[str, Any] | None = None, key: str = "") -> wire.Answer:
    """Ask for a model, with settings in place of its `config.toml`."""
    asked = {"parameters": {"config": json.dumps(config)}} if config is not None else {}
    headers = wire.JSON | (target.authorization(key) if key else {})
    path = f"/v2/repository/models/{model}/load"
    return target.ask("POST", path, json.dumps(asked).encode(), headers=headers, timeout_seconds=90)


def unload(target: Target, model: str) -> None:
    """Take a model away again."""
    target.ask("POST", f"/v2/repository/models/{model}/unload", b"{}", headers=wire.JSON, timeout_seconds=60)


def _removed(target: Target, model: str) -> None:
    unload(target, model)
    shutil.rmtree(target.repository / model, ignore_errors=True)


@attack(
    "a network whose four axes are open",
    stage="controlled",
    max_growth_mib=768,
    max_cpu_seconds=60,
    recovery_seconds=20,
    is_slow=True,
)
def open_network(target: Target) -> str:
    """Sizes are tried smallest first and within a bound; a failed try says what to put into `config.toml`."""
    write_bare(target.repository, "open-axes", open_axes())
    started = time.monotonic()
    try:
        answer = load(target, "open-axes")
    finally:
        _removed(target, "open-axes")
    seconds = time.monotonic() - started
    require(seconds < _LOAD_SECONDS, f"the load took {seconds:.0f} s")
    require(answer.status == 200 or "config.toml" in answer.text, f"answered {answer.status}: {answer.text[:200]}")
    return f"{answer.status} after {seconds:.1f} s"


def _ceiling(target: Target, **config: Any) -> str:
    answer = load(target, "mnist", config)
    if answer.status == 200:
        load(target, "mnist")
    return require_status(answer, 400, 422)


@attack("a load of 1,000 instances", stage="controlled", max_growth_mib=96)
def instances(target: Target) -> str:
    """What a load may ask for has a ceiling."""
    return _ceiling(target, instances=1_000)


@attack("a load of 1,000 threads", stage="controlled", max_growth_mib=96)
def threads(target: Target) -> str:
    """Threads beyond the cores are of no use to anybody."""
    return _ceiling(target, threads=1_000)


@attack("a load with a cache of 2^60 bytes", stage="controlled", max_growth_mib=96)
def cache(target: Target) -> str:
    """A cache has the memory of the machine at most."""
    return _ceiling(target, cache_bytes=2**60)


@attack("names that are no model's", stage="controlled", max_growth_mib=32)
def names(target: Target) -> str:
    """No name leaves the repository."""
    statuses = set()
    for name in ("..%2f..%2fetc", "%2e%2e", "a%00b", "a" * 5_000, "%ff", ".", "mnist%2f1"):
        statuses.add(load(target, name).status)
    require(statuses <= {400, 404, 405, 422, 500}, f"answered {sorted(statuses)}")
    require(500 not in statuses, "a name was tried to load")
    return " ".join(map(str, sorted(statuses)))


def _copied(target: Target, name: str) -> Path:
    """A model like `mnist` under another name."""
    folder = target.repository / name / "1"
    shutil.copytree(shipped_models(target.root) / "mnist" / "1", folder)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"name": name}))
    return folder


@attack("golden outputs that are NaN", stage="controlled", max_growth_mib=128)
def golden(target: Target) -> str:
    """NaN differs from nothing, so it must verify nothing."""
    folder = _copied(target, "golden-nan")
    with np.load(folder / _GOLDEN) as before:
        arrays = {name: before[name] for name in before.files}
    floats = [name for name, array in arrays.items() if array.dtype.kind == "f"]
    np.savez(folder / _GOLDEN, **arrays | {name: np.full_like(arrays[name], np.nan) for name in floats})
    try:
        answer = load(target, "golden-nan")
    finally:
        _removed(target, "golden-nan")
    return require_status(answer, 400, 409, 422, 500)


def _refuse_constant(name: str) -> None:
    raise NotHeld(f"{name} was answered as a number of JSON")


@attack("a network that answers NaN", stage="controlled", max_growth_mib=128, max_cpu_seconds=20)
def nan_network(target: Target) -> str:
    """It may be loaded as unverified, but NaN is no JSON and never an answer in it."""
    write_bare(target.repository, "nan", not_a_number())
    row = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    try:
        loaded = load(target, "nan")
        path = "/v2/models/nan/infer"
        answer = (
            target.ask("POST", path, json.dumps(row).encode(), headers=wire.JSON) if loaded.status == 200 else loaded
        )
    finally:
        _removed(target, "nan")
    json.loads(answer.text or "null", parse_constant=_refuse_constant)
    return f"load {loaded.status}, answer {answer.status}"
