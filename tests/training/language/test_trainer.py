"""The training loop of language models: it learns, selects the best weights, and resumes as if it had never stopped."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from training.checkpoints import CHECKPOINT_FILE
from training.device import can_compile
from training.language.architecture import make_network
from training.language.config import RECIPES, LanguageConfig, configure
from training.language.trainer import (
    VALIDATION_WINDOWS,
    LanguageTrainer,
    make_language_optimizers,
)

BEGIN, VOCAB_SIZE = 0, 24
CONFIG = LanguageConfig(
    context=16,
    width=32,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    hidden_width=24,
    dropout=0.1,
    num_steps=12,
    tokens_per_step=128,
    short_window=8,
    short_share=0.5,
    evaluate_every=5,
    precision="fp32",
)


def text(num_tokens: int = 700) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Counts in steps of 1, which is soon learnt."""
    return (np.arange(num_tokens) % (VOCAB_SIZE - 1) + 1).astype(np.int32)


def changed(**settings: object) -> LanguageConfig:
    return dataclasses.replace(CONFIG, **cast("dict[str, Any]", settings))


def network(config: LanguageConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    return make_network(dataclasses.replace(config, num_layers=2) if config.network == "lstm" else config, VOCAB_SIZE)


def trainer(config: LanguageConfig = CONFIG, validation_tokens: int = 100) -> LanguageTrainer:
    return LanguageTrainer(
        network(config),
        config,
        text(),
        text(validation_tokens),
        begin=BEGIN,
        device=torch.device("cpu"),
        write_sample=lambda: "a sample\nof two lines",
        compiles=False,
    )


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_a_run_learns_and_records_its_history(tmp_path: Path, kind: str) -> None:
    run = trainer(changed(network=kind, num_steps=60, learning_rate=0.03, optimizer="adamw", evaluate_every=25))
    progress = run.run(tmp_path)
    assert [row["step"] for row in progress.history] == [25, 50, 60]
    assert [row["tokens"] for row in progress.history] == [25 * 128, 50 * 128, 60 * 128]
    assert progress.history[0]["validation_loss"] < np.log(VOCAB_SIZE)
    assert progress.best_loss < 0.7 * np.log(VOCAB_SIZE)
    assert progress.seconds > 0
    assert not run.network.training


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "adamw", "learning_rate": 0.003}, {"network": "lstm"}, {"short_window": 0}],
    ids=["muon", "adamw", "lstm", "whole windows"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    config = changed(**settings)
    whole = trainer(config)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole.run(tmp_path / "whole")
    save = LanguageTrainer.save

    def save_and_stop(self: LanguageTrainer, path: Path) -> None:
        save(self, path)
        if self.progress.step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LanguageTrainer, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            trainer(config).run(tmp_path / "parts")
    resumed = trainer(config)
    resumed.restore(tmp_path / "parts" / CHECKPOINT_FILE)
    assert resumed.progress.step == 5
    resumed.run(tmp_path / "parts")
    assert not torch.equal(next(iter(whole.network.parameters())), next(iter(network(config).parameters())))
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name
    for one, other in zip(whole.progress.history, resumed.progress.history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_finished_run_takes_no_step_and_gives_the_selected_weights(tmp_path: Path) -> None:
    first = trainer()
    first.run(tmp_path)
    again = trainer()
    again.restore(tmp_path / CHECKPOINT_FILE)
    progress = again.run(tmp_path)
    assert progress.step == CONFIG.num_steps
    assert len(progress.history) == 3
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name


def test_the_selected_weights_are_those_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(changed(num_steps=8, evaluate_every=2))
    losses = iter([2.0, 1.0, 1.0, 3.0])
    states = []

    def validated(self: LanguageTrainer) -> float:
        states.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(LanguageTrainer, "validate", validated)
    progress = run.run(tmp_path)
    assert (progress.best_step, progress.best_loss) == (6, 1.0)
    assert all(torch.equal(run.network.state_dict()[name], tensor) for name, tensor in states[2].items())
    assert any(not torch.equal(states[3][name], tensor) for name, tensor in states[2].items())


def test_the_window_grows_once_and_the_long_part_begins_at_its_first_batch() -> None:
    run = trainer()
    shapes = [(made.length, made.batch_size, index) for made, index in map(run.windows, range(12))]
    assert shapes[:6] == [(8, 16, index) for index in range(6)]
    assert shapes[6:] == [(16, 8, index) for index in range(6)]
    assert run.windows(0)[0].seed != run.windows(6)[0].seed


@torch.no_grad()
def test_validation_is_the_mean_loss_of_windows_spread_over_the_text() -> None:
    # The text has room for more windows than are used: the last ones lie near its end.
    num_tokens = 16 * VALIDATION_WINDOWS * 3
    run = trainer(validation_tokens=num_tokens)
    inputs, targets = run.validation
    assert VALIDATION_WINDOWS - 3 <= len(inputs) <= VALIDATION_WINDOWS
    assert inputs[:, 0].eq(BEGIN).all()
    found = run.validate()
    logits = run.network(inputs)
    wanted = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert found == pytest.approx(float(wanted), rel=1e-5)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    trainer().save(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(ValueError, match=r"written with other settings: \{'learning_rate': 0.02\}"):
        trainer(changed(learning_rate=0.5)).restore(tmp_path / CHECKPOINT_FILE)


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_twice() -> None:
    made = network(CONFIG)
    muon, adam = make_language_optimizers(made, CONFIG)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    by_muon, by_adam = (
        sorted(names[id(p)] for group in optimizer.param_groups for p in group["params"]) for optimizer in (muon, adam)
    )
    assert by_muon == [
        "blocks.0.attention.output.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.feed_forward.down.weight",
        "blocks.0.feed_forward.gate_up.weight",
    ]
    assert sorted(by_muon + by_adam) == sorted(names.values())
    (alone,) = make_language_optimizers(made, changed(optimizer="adamw"))
    assert sum(len(group["params"]) for group in alone.param_groups) == len(names)
    assert [group["weight_decay"] for group in alone.param_groups] == [CONFIG.weight_decay, 0.0]


def test_only_a_transformer_is_compiled_and_only_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert can_compile(network(CONFIG), cpu)
    assert not can_compile(network(changed(network="lstm")), cpu)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not can_compile(network(CONFIG), cpu)
    assert can_compile(network(CONFIG), torch.device("cuda"))


def test_settings_complete_the_recipe_of_the_corpus() -> None:
    assert configure("tinyshakespeare", {}).tokenizer == "char"
    assert configure("novels", {"network": "lstm", "seed": 3}).width == RECIPES["novels", "lstm"].width
    assert configure("", {"seed": 3}) == dataclasses.replace(RECIPES["novels", "transformer"], seed=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ({"context": 1}, "context is 1; it must be at least 2"),
        ({"context": 9000}, "context is 9000; it must be at least 2, at most tokens_per_step"),
        ({"short_window": 17}, "short_window is 17; it must be at most the context, 16"),
        ({"dropout": 1.0}, "dropout and warmup must be at least 0 and below 1"),
        ({"vocab_size": 299}, "vocab_size is 299; byte-level BPE needs at least 300"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**settings)
