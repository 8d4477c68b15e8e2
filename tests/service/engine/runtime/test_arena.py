from __future__ import annotations

from typing import Any

import pytest

from service.engine.runtime import arena
from service.engine.runtime.arena import ArenaGuard
from service.engine.runtime.runtime import CpuRunner, Device, open_session
from service.telemetry.metrics import resident_bytes
from tests.fake_models.style_transfer import TinyStylizer

SHRINKAGE = "memory.enable_memory_arena_shrinkage"


def test_memory_is_given_back_only_while_the_process_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    before = 100 * 2**20
    resident = [before]
    monkeypatch.setattr(arena, "_make_shared_arena", lambda: before)
    monkeypatch.setattr(arena, "resident_bytes", lambda: resident[0])
    guard = ArenaGuard()

    def gives_back() -> bool:
        try:
            return bool(guard.run_options().get_run_config_entry(SHRINKAGE) == "cpu:0")
        except RuntimeError:  # it has no such entry
            return False

    assert not gives_back()
    resident[0] += arena.KEPT_BYTES + 1
    assert gives_back()
    resident[0] -= 2
    assert not gives_back()


def test_what_many_sizes_took_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stylizer = TinyStylizer()
    graph = stylizer.onnx("model")
    sides = (480, 1000, 520, 720)

    def grown_mb(kept_bytes: int) -> float:
        monkeypatch.setattr(arena, "KEPT_BYTES", kept_bytes)
        runner: Any = CpuRunner(open_session(graph, Device("cpu"), 1, varies=True), varies=True)
        before = resident_bytes()
        for side in sides:
            runner.run(
                {"image": stylizer.pictures(1, side, side), "style_weights": stylizer.pure("night")}, 1, ("painting",)
            )
        return (resident_bytes() - before) / 2**20

    hoarded = grown_mb(2**40)
    given_back = grown_mb(-(2**40))

    assert hoarded > 40
    assert given_back < 0
