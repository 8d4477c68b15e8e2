"""Runs of other seeds are put side by side only where nothing else differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.generators.small import gan_config, made_up_scores
from training.checkpoints import CHECKPOINT_FILE, write_checkpoint
from training.generators.measured import SCORES_FILE
from training.generators.siblings import SeedScores, mean_and_spread, read_siblings

PROTOCOL = {"num_samples": 100, "classifier_sha256": "c"}


def write_run(folder: Path, frechet: float, protocol: dict[str, Any] | None = None, **changed: Any) -> Path:
    folder.mkdir()
    write_checkpoint(folder / CHECKPOINT_FILE, {"config": gan_config(**changed).to_json()})
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

    siblings = read_siblings(others, gan_config(seed=0).to_json(), own)

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
            read_siblings([folder], gan_config(seed=0).to_json(), own)
        assert message in str(refused.value)
