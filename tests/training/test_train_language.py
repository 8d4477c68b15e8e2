"""The language model: its windows and validation, its optimisers, and the command line on a text of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.golden import deviation, read_golden
from models.manifest import Training, read_manifest
from tests.training.lineage import UNTRAINED
from tests.training.small_generators import pictures_in
from tests.training.small_trainers import BEGIN, LANGUAGE, VOCAB_SIZE, changed, language_trainer
from training.command_line import should_compile
from training.data.corpus import Corpus
from training.export.language import LanguageModel
from training.export.version import DEFAULT_REPOSITORY, ExportError
from training.loop import CHECKPOINT_FILE, load_weights
from training.networks.recurrent import STATES, CellName
from training.scores.text import TextScore
from training.train_language import (
    RECIPES,
    VALIDATION_WINDOWS,
    LanguageConfig,
    configure,
    main,
    make_language_optimizers,
    make_network,
    model_card,
    read_start,
)

TEXT = "".join(f"{number} sailors saw {number * 7 % 23} whales off the cape.\n" for number in range(500))


def network(config: LanguageConfig) -> LanguageModel:
    return make_network(config, VOCAB_SIZE)


@pytest.mark.parametrize("kind", ["transformer", "rnn", "gru", "lstm"])
def test_a_run_learns_and_records_its_history(tmp_path: Path, kind: str) -> None:
    run = language_trainer(
        changed(LANGUAGE, network=kind, num_steps=60, learning_rate=0.03, optimizer="adamw", evaluate_every=25)
    )
    progress = run.run(tmp_path)
    assert [row["step"] for row in progress.history] == [25, 50, 60]
    assert [row["tokens"] for row in progress.history] == [25 * 128, 50 * 128, 60 * 128]
    assert progress.history[0]["validation_loss"] < np.log(VOCAB_SIZE)
    assert -progress.best_merit < 0.7 * np.log(VOCAB_SIZE)
    assert progress.best_merit == max(-row["validation_loss"] for row in progress.history)


def test_the_window_grows_once_and_the_long_part_begins_at_its_first_batch() -> None:
    run = language_trainer()
    shapes = [(made.length, made.batch_size, index) for made, index in map(run.windows, range(12))]
    assert shapes[:6] == [(8, 16, index) for index in range(6)]
    assert shapes[6:] == [(16, 8, index) for index in range(6)]
    assert run.windows(0)[0].seed != run.windows(6)[0].seed


@torch.no_grad()
def test_validation_is_the_mean_loss_of_windows_spread_over_the_text() -> None:
    # The text has room for more windows than are used: the last ones lie near its end.
    num_tokens = 16 * VALIDATION_WINDOWS * 3
    run = language_trainer(validation_tokens=num_tokens)
    inputs, targets = run.validation
    assert VALIDATION_WINDOWS - 3 <= len(inputs) <= VALIDATION_WINDOWS
    assert inputs[:, 0].eq(BEGIN).all()
    run.network.eval()
    found = run.evaluate()["validation_loss"]
    logits = run.network(inputs)
    wanted = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert found == pytest.approx(float(wanted), rel=1e-5)


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_twice() -> None:
    made = network(LANGUAGE)
    muon, adam = make_language_optimizers(made, LANGUAGE)
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
    (alone,) = make_language_optimizers(made, changed(LANGUAGE, optimizer="adamw"))
    assert sum(len(group["params"]) for group in alone.param_groups) == len(names)
    assert [group["weight_decay"] for group in alone.param_groups] == [LANGUAGE.weight_decay, 0.0]


def test_only_a_transformer_is_compiled_and_only_with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert should_compile(None, network(LANGUAGE), cpu, 2000)
    for kind in STATES:
        assert not should_compile(None, network(changed(LANGUAGE, network=kind)), cpu, 2000)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not should_compile(None, network(LANGUAGE), cpu, 2000)
    assert should_compile(None, network(LANGUAGE), torch.device("cuda"), 2000)


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
        changed(LANGUAGE, **settings)


def test_a_card_lists_each_score_with_the_bytes_that_it_counts() -> None:
    corpus = Corpus(name="plays", description="plays", train=("a",), validation=("b",), test=())
    config = LanguageConfig(network="lstm", tokenizer="char")
    scores = {"validation": TextScore(nats=60.0, num_tokens=30, num_bytes=40)}

    card = model_card("plays-lstm", "7", config, corpus, scores, UNTRAINED)

    assert (card.name, card.version) == ("plays-lstm", "7")
    assert card.description == "An LSTM over characters that continues text, trained on plays."
    found = {(entry.metric, entry.dataset, entry.split): (entry.value, entry.count) for entry in card.evaluation}
    assert found == {
        ("nats_per_token", "plays", "validation"): (2.0, 40),
        ("bits_per_byte", "plays", "validation"): (pytest.approx(1.5 / math.log(2)), 40),
    }


def test_a_small_run_of_any_text_exports_reports_and_resumes_to_the_same_graphs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Log Book.txt").write_text(TEXT)
    sizes = {"--tokenizer": "char", "--context": 32, "--short-window": 16, "--tokens-per-step": 64, "--width": 32}
    sizes |= {"--num-layers": 1, "--num-heads": 2, "--num-kv-heads": 1, "--hidden-width": 16, "--num-steps": 4}
    settings = [text for flag, value in (sizes | {"--evaluate-every": 2}).items() for text in (flag, str(value))]
    where = [
        "--output",
        str(tmp_path / "run"),
        "--repository",
        str(tmp_path / "models"),
        "--save-hf",
        str(tmp_path / "hf"),
    ]
    command = ["--text", str(tmp_path / "Log Book.txt"), *where, *settings, "--no-compile", "--threads", "1"]

    assert main(command) == 0

    manifest = read_manifest(tmp_path / "models" / "log-book" / "1")
    assert isinstance(manifest.training, Training)
    assert manifest.training.config["evaluation_stride"] == 16
    assert "tokenizers" in manifest.training.libraries
    page = (tmp_path / "run" / "report.md").read_text()
    scores = {(item.metric, item.split): item.value for item in manifest.evaluation}
    assert f"| test | {scores['nats_per_token', 'test']:.4f} | {scores['bits_per_byte', 'test']:.4f} |" in page
    assert re.search(r"\| selected step \| [24] of 4 \|", page)
    assert set(pictures_in(page, tmp_path / "run")) == {"curves.png", "gradients.png"}
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "llama"
    assert main([*command, "--resume"]) == 0
    assert read_manifest(tmp_path / "models" / "log-book" / "2").graphs == manifest.graphs
    assert main(command) == 2
    assert "add --resume to continue that run" in capsys.readouterr().err
    # A version, and the checkpoint of a run, are what another text may begin with.
    other = tmp_path / "other.md"
    other.write_text(TEXT[::-1])
    for number, start in enumerate((tmp_path / "models" / "log-book" / "1", tmp_path / "run" / CHECKPOINT_FILE), 1):
        begun = ["--text", str(other), "--start-from", str(start), "--output", str(tmp_path / f"begun-{number}")]
        begun += ["--repository", str(tmp_path / "models"), "--num-steps", "2", "--evaluate-every", "1"]
        assert main([*begun, "--no-compile", "--threads", "1"]) == 0
        went_on = read_manifest(tmp_path / "models" / "other" / str(number))
        assert went_on.training is not None
        assert went_on.training.config["context"] == 32
        assert went_on.training.config["start_from"] == ("log-book@1" if number == 1 else str(start))
        tokenizers = [(tmp_path / "models" / name / "tokenizer.json").read_text() for name in ("log-book/1", "other/1")]
        assert tokenizers[0] == tokenizers[1]


@pytest.mark.parametrize("model", ["novelist", "novelist-lstm"])
def test_a_model_that_ships_is_read_back_from_its_graphs(model: str) -> None:
    start = read_start(Path(model), DEFAULT_REPOSITORY)
    network = make_network(start.config, start.tokenizer.get_vocab_size())
    load_weights(network, {**network.state_dict(), **start.weights}, start.origin)
    golden = read_golden(DEFAULT_REPOSITORY / model / "1")["sequence"]

    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(golden.inputs["tokens"]))  # [B,T,V]

    assert deviation(golden.outputs["logits"], logits.numpy()) < 1e-4


@pytest.mark.parametrize("corpus", ["novels", "tinyshakespeare"])
def test_the_networks_of_a_corpus_are_about_as_large(corpus: str) -> None:
    configs = {kind: configure(corpus, {"network": kind}) for kind in STATES}
    sizes = [
        sum(p.numel() for p in make_network(config, 4096 if corpus == "novels" else 66).parameters())
        for config in configs.values()
    ]
    assert [config.network for config in configs.values()] == list(STATES)
    assert max(sizes) < 1.02 * min(sizes)


@pytest.mark.parametrize("cell", STATES)
def test_a_dry_run_of_a_recurrent_network_draws_its_gradients(
    cell: CellName, kept_dry_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--width", "32", "--num-layers", "1"]

    assert main(["--corpus", "tinyshakespeare", "--network", cell, "--dry-run", "--threads", "1", *sizes]) == 0

    assert "dry run passed" in capsys.readouterr().out
    manifest = read_manifest(kept_dry_run / f"shakespeare-{cell}" / "1")
    assert manifest.language is not None
    assert tuple(state.name for state in manifest.language.states) == STATES[cell]
    page = (kept_dry_run / "run" / "report.md").read_text()
    assert set(pictures_in(page, kept_dry_run / "run")) == {"curves.png", "gradients.png"}
    assert re.search(r"\n\| 16 \| \d\.\d\de-\d+ \| \d\.\d\de-\d+ \|\n", page)


def test_what_a_text_cannot_go_on_with_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it must be a model of"):
        read_start(Path("nothing"), tmp_path)
    with pytest.raises(ExportError, match="'mnist' was not trained by"):
        read_start(Path("mnist"), tmp_path)
    language_trainer().save(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(ValueError, match="is not the checkpoint of a language model with its tokenizer"):
        read_start(tmp_path / CHECKPOINT_FILE, tmp_path)
