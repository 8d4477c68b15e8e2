"""32 threads of real clients infer, load and unload at once: no answer is wrong, none is lost, and all are counted."""

from __future__ import annotations

import logging
import os
import random
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from tests.fake_models.bare_graphs import FLOAT, graph_bytes, one_node, scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.callers import Caller, NotServed, caller

log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("LIVE_LOAD_SECONDS", "8"))
"""How long the threads run; set a minute or more by hand."""
PATIENCE_SECONDS = 60.0
MIN_ORDERS = 2
NUM_STEADY, NUM_GROWING, NUM_TOGGLED = 12, 3, 8
STEADY = ("steady", "cached", "transposed", "texts", "tiny")
WHOLE = ("transposed", "texts")
"""Of these, a request is one row, whatever its shape."""


def factor_of(generation: int) -> int:
    """The factor of a model's file after each replacement."""
    return 2 + generation % 7


class Toggled:
    """A model that one thread loads and unloads; `state` counts replacements and says whether it is loaded."""

    def __init__(self, at: int) -> None:
        self.name = f"toggled-{at}"
        self.state = (0, "unloaded")


class Ledger:
    """The outcome of every request, as seen by the clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answered: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.orders: Counter[str] = Counter()
        self.faults: list[str] = []
        self.ends_at = time.monotonic() + SECONDS

    def keep(self, counts: Counter[str], model: str, number: int = 1) -> None:
        with self._lock:
            counts[model] += number

    @property
    def goes_on(self) -> bool:
        """Whether there is time left, or on a busy machine not every model has come and gone twice."""
        enough = len(self.orders) > NUM_TOGGLED and min(self.orders.values()) >= MIN_ORDERS
        ends_at = self.ends_at + (0 if enough else PATIENCE_SECONDS)
        return time.monotonic() < ends_at and not self.faults

    def run(self, work: Callable[[Caller], None], service: RunningService, at: int) -> threading.Thread:
        """Start a thread that works with a client of its own; what it raises is a fault."""

        def body() -> None:
            client = caller(service, at)
            try:
                while self.goes_on:
                    work(client)
            except BaseException:
                self.faults.append(traceback.format_exc())
            finally:
                client.close()

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    def ask(self, client: Caller, model: str, name: str, x: NDArray[Any]) -> tuple[str, NDArray[Any]] | None:
        """Infer and count; None where the model is not served."""
        try:
            version, y = client.infer(model, name, x)
        except NotServed:
            self.keep(self.refused, model)
            return None
        self.keep(self.answered, model)
        self.keep(self.rows, model, 1 if model in WHOLE else len(x))
        return version, y


def write_repository(folder: Path, network: LinearClassifier, toggled: list[Toggled]) -> None:
    write_bare(folder, "steady", scale_bytes(2))
    write_bare(folder, "cached", scale_bytes(2))
    (folder / "cached" / "config.toml").write_text("cache_bytes = 1000000\ninstances = 2\n")
    transpose = helper.make_node("Transpose", ["x"], ["y"])
    write_bare(folder, "transposed", graph_bytes([transpose], [("x", FLOAT, ["n", "m"])], [("y", FLOAT, ["m", "n"])]))
    write_bare(folder, "texts", one_node("Identity", 8, ["n", 3]))  # 8: TensorProto.STRING
    network.write(folder, "tiny")
    write_bare(folder, "growing", scale_bytes(1))
    for model in toggled:
        write_bare(folder, model.name, scale_bytes(factor_of(0)))


def ask_steady(ledger: Ledger, network: LinearClassifier, client: Caller) -> None:
    """Call a model that is never unloaded; every answer must be correct."""
    model, num_rows = random.choice(STEADY), random.randint(1, 5)
    if model == "tiny":
        name, x = "image", network.images(num_rows, seed=random.randrange(1000))
        expected: NDArray[Any] = network.outputs(x)["probabilities"]
    elif model == "texts":
        name, x = "x", np.array([[f"{random.random()}", "", "☃"]] * num_rows, object)
        expected = x
    else:
        highest = 5 if model == "cached" else 10_000
        name, x = "x", np.full((num_rows, 3), random.randint(0, highest), np.float32)
        expected = x.T if model == "transposed" else 2 * x
    answer = ledger.ask(client, model, name, x)
    assert answer is not None, f"{model} is not served."
    y = answer[1]
    if model == "texts":
        y = np.array([[t.decode() if isinstance(t, bytes) else t for t in row] for row in y], object)
        assert np.array_equal(y, expected)
    else:
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 if model == "tiny" else 0)


def ask_growing(ledger: Ledger, client: Caller) -> None:
    """Call the model whose versions change: version n multiplies by n, and one is always loaded."""
    x = np.full((random.randint(1, 5), 3), random.randint(0, 1000), np.float32)
    answer = ledger.ask(client, "growing", "x", x)
    assert answer is not None, "No version of growing is served."
    assert np.array_equal(answer[1], int(answer[0]) * x)


def grow(ledger: Ledger, folder: Path, client: Caller) -> None:
    """Add a new version, load it, and remove the old one."""
    version = ledger.orders["growing"] + 2
    write_bare(folder, "growing", scale_bytes(version), str(version))
    client.load("growing")
    ledger.keep(ledger.orders, "growing")
    if version > 3:
        shutil.rmtree(folder / "growing" / str(version - 2))
    time.sleep(random.uniform(0, 0.2))


def ask_toggled(ledger: Ledger, model: Toggled, client: Caller) -> None:
    """Call a model that is loaded and unloaded: refused only while unloaded, computed by a file of its time."""
    x = np.full((random.randint(1, 5), 3), random.randint(1, 1000), np.float32)
    before = model.state
    answer = ledger.ask(client, model.name, "x", x)
    after = model.state
    if answer is None:
        assert (before, before[1]) != (after, "loaded"), f"{model.name} was loaded all the time and refused."
        time.sleep(0.005)
        return
    assert (before, before[1]) != (after, "unloaded"), f"{model.name} was not loaded and answered."
    factors = {factor_of(generation) for generation in range(before[0], after[0] + 1)}
    assert any(np.array_equal(answer[1], factor * x) for factor in factors), f"{answer[1]} of {x}, not by {factors}"


def toggle(ledger: Ledger, folder: Path, model: Toggled, client: Caller) -> None:
    """Load the model, wait, unload it and replace its file."""
    generation, _ = model.state
    model.state = (generation, "changing")
    client.load(model.name)
    model.state = (generation, "loaded")
    time.sleep(random.uniform(0, 0.4))
    model.state = (generation, "changing")
    client.unload(model.name)
    model.state = (generation, "unloaded")
    time.sleep(random.uniform(0, 0.1))
    model.state = (generation + 1, "unloaded")
    write_bare(folder, model.name, scale_bytes(factor_of(generation + 1)))
    ledger.keep(ledger.orders, model.name)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def metric(text: str, name: str, *labels: str) -> float:
    """The sum of the samples of a metric that have these labels."""
    lines = [line for line in text.splitlines() if line.startswith(f"hotplate_{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in labels))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + PATIENCE_SECONDS + 240)
def test_no_request_fails_while_models_are_loaded_and_unloaded(tmp_path: Path, network: LinearClassifier) -> None:
    toggled = [Toggled(at) for at in range(NUM_TOGGLED)]
    write_repository(tmp_path, network, toggled)
    options = ("--model-control", "explicit", "--models", ",".join((*STEADY, "growing")))
    with RunningService(tmp_path, *options, "--workers", "2", "--instances", "1", "--threads", "1") as service:
        service.wait_until_ready()
        (engine,) = service.children("service.processes.engine_process")
        memory = [resident_bytes(engine)]
        ledger = Ledger()
        threads = [ledger.run(lambda c: ask_steady(ledger, network, c), service, at) for at in range(NUM_STEADY)]
        threads += [ledger.run(lambda c: ask_growing(ledger, c), service, at) for at in range(NUM_GROWING)]
        threads.append(ledger.run(lambda c: grow(ledger, tmp_path, c), service, 0))
        for at, model in enumerate(toggled):
            threads.append(ledger.run(lambda c, m=model: ask_toggled(ledger, m, c), service, at))  # type: ignore[misc]
            threads.append(ledger.run(lambda c, m=model: toggle(ledger, tmp_path, m, c), service, at + 1))  # type: ignore[misc]
        assert len(threads) == 32
        for thread in threads:
            thread.join()
        memory.append(resident_bytes(engine))
        assert ledger.faults == []
        assert_added_up(service, ledger)
        log.info("answered %s, refused %s, orders %s", ledger.answered, ledger.refused, ledger.orders)
        log.info("engine: %.0f MB, then %.0f MB", *(each / 1e6 for each in memory))


def assert_added_up(service: RunningService, ledger: Ledger) -> None:
    """Assert that everything happened and the service counted all requests."""
    assert min(ledger.orders.values()) >= MIN_ORDERS
    assert len(ledger.orders) == NUM_TOGGLED + 1
    assert all(ledger.answered[name] for name in (*STEADY, "growing"))
    assert sum(ledger.refused.values()) > 0
    until(lambda: metric(httpx.get(f"{service.url}/metrics").text, "queue_depth") == 0)
    for name in STEADY:
        (stats,) = httpx.get(f"{service.url}/v2/models/{name}/stats").json()["model_stats"]
        parts = {part: stats["inference_stats"][part]["count"] for part in stats["inference_stats"]}
        hits = parts["cache_hit"]
        assert (hits > 0) == (name == "cached")
        assert (parts["success"], parts["fail"]) == (ledger.answered[name], 0)
        assert {parts[part] for part in ("queue", "compute_input", "compute_infer", "compute_output")} == {
            ledger.answered[name] - hits
        }
        batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in stats["batch_stats"]}
        assert sum(batches.values()) == stats["execution_count"]
        assert sum(size * count for size, count in batches.items()) == stats["inference_count"]
        if not hits:
            assert stats["inference_count"] == ledger.rows[name]
    text = httpx.get(f"{service.url}/metrics").text
    for name, rows in ledger.rows.items():
        if name != "cached":
            assert metric(text, "rows_total", f'model="{name}"') == rows
    served = sum(metric(text, "requests_total", route, good) for route, good in ROUTES)
    everything = sum(metric(text, "requests_total", route) for route, _ in ROUTES)
    assert served == sum(ledger.answered.values())
    assert everything - served == sum(ledger.refused.values())
    assert [record for record in service.records if record["level"] == "ERROR"] == []


ROUTES = (('route="/v2/models/{model}/infer"', 'status="200"'), ('route="ModelInfer"', 'status="OK"'))
