"""Runs of other seeds are put side by side only where nothing else differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.small_generators import made_up_scores
from tests.training.small_trainers import GAN
from tests.training.small_trainers import changed as changed_settings
from training.loop import CHECKPOINT_FILE
from training.scores.measured import SCORES_FILE
from training.studies.siblings import SeedScores, main, mean_and_spread, read_siblings

PROTOCOL = {"num_samples": 100, "classifier_sha256": "c"}


def write_run(folder: Path, frechet: float, protocol: dict[str, Any] | None = None, **changed: Any) -> Path:
    folder.mkdir()
    config = changed_settings(GAN, **changed).to_json()
    torch.save({"config": config, "progress": {}, "network": {}}, folder / CHECKPOINT_FILE)
    scores = made_up_scores(frechet).to_json()
    pieces = {
        "pictures": {"row": scores["rows"][-1], "agreement": scores["agreement"], "class_agreement": [0.97, 0.98]},
        "accuracy_from_generated": scores["accuracy_from_generated"],
    }
    section = {"protocol": (protocol or PROTOCOL) | {"identity": folder.name}, "pieces": pieces}
    (folder / SCORES_FILE).write_text(json.dumps({"generator": section}))
    return folder


def test_scores_of_other_seeds_are_read_from_their_folders(tmp_path: Path) -> None:
    own = write_run(tmp_path / "0", 0.02, seed=0)
    others = [write_run(tmp_path / str(seed), 0.02 + 0.01 * seed, seed=seed) for seed in (1, 2)]

    siblings = read_siblings(others, changed_settings(GAN, seed=0).to_json(), own)

    assert [(scores.seed, scores.row.frechet) for scores in siblings] == [(1, pytest.approx(0.03)), (2, 0.04)]
    assert [(scores.agreement, scores.accuracy_from_generated) for scores in siblings] == [(0.975, 0.85)] * 2
    everyone = (SeedScores.of(0, made_up_scores(0.02)), *siblings)
    assert mean_and_spread(everyone, lambda scores: scores.row.frechet) == pytest.approx((0.03, 0.01))
    assert mean_and_spread(everyone[:1], lambda scores: scores.row.frechet) == (0.02, 0.0)


def test_runs_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    own = write_run(tmp_path / "own", 0.02, seed=0)
    unscored = write_run(tmp_path / "unscored", 0.02, seed=1)
    (unscored / SCORES_FILE).unlink()
    (tmp_path / "empty").mkdir()
    cases = [
        (write_run(tmp_path / "wider", 0.02, seed=1, generator_width=4), "other settings: {'generator_width': 4}"),
        (write_run(tmp_path / "same", 0.02, seed=0), "has the seed 0 again"),
        (write_run(tmp_path / "few", 0.02, PROTOCOL | {"num_samples": 9}, seed=1), "scored by another protocol"),
        (unscored, "scores.json lacks scores"),
        (tmp_path / "empty", "checkpoint.pt is missing"),
    ]
    for folder, message in cases:
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            read_siblings([folder], changed_settings(GAN, seed=0).to_json(), own)
        assert message in str(refused.value)


def test_the_command_lays_the_seeds_out_with_their_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / str(seed), 0.02 + 0.01 * seed, seed=seed)) for seed in range(3)]

    assert main(runs) == 0
    shown = capsys.readouterr().out
    assert "| 1 | 0.03 | 0.30 | 0.800 | 0.700 | 97.50% | 85.00% |" in shown
    assert "| **mean ± standard deviation** | **0.03 ± 0.01** |" in shown
    assert main([runs[0], runs[0]]) == 2
    assert "has the seed 0 again" in capsys.readouterr().err
