"""Loading of language models: shared weights, golden logits, threads by measurement."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.golden import Golden, read_golden, write_golden
from models.manifest import MANIFEST_FILE, sha256_hex
from service.engine.generation.decoder import Decoder
from service.engine.generation.step_costs import PREFILL, StepCost
from service.engine.repository import decoder_loading
from service.engine.repository.loading import load_version
from service.engine.repository.version_files import VersionFiles, VersionRejected
from service.engine.runtime.runtime import Device
from service.errors import InferenceFailed
from service.settings import Settings
from tests.fake_models.text_generation import AttentionDecoder, RecurrentDecoder, TinyDecoder, random_tokens
from tests.service.engine.texts import KINDS

CPU = Device("cpu")
SETTINGS = Settings(threads=1, max_sequences=5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return AttentionDecoder().write(tmp_path)


def edit_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | changes))


def edit_language(folder: Path, **changes: Any) -> None:
    language = json.loads((folder / MANIFEST_FILE).read_text())["language"]
    edit_manifest(folder, language=language | changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_language_model_is_loaded_verified_and_measured(kind: type[TinyDecoder], tmp_path: Path) -> None:
    loaded = load_version(kind().write(tmp_path), SETTINGS, CPU)

    assert loaded.decoder is not None
    assert loaded.decoder.golden_error < 1e-3
    assert loaded.decoder.decoder.num_slots == 5
    assert list(loaded.decoder.costs.decode_seconds) == [1, 2, 4, 5]
    assert loaded.decoder.costs.prefill_token_seconds > 0
    assert loaded.decoder.providers == ("CPUExecutionProvider",)
    assert set(loaded.graphs) == ({"attention"} if kind is AttentionDecoder else set())


def test_attention_without_a_cuda_kernel_runs_on_the_cpu_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_version(folder, SETTINGS, Device("cuda"))

    assert loaded.decoder is not None
    assert loaded.decoder.providers == ("CPUExecutionProvider",)
    assert loaded.graphs["attention"].providers == ("CPUExecutionProvider",)
    assert "attention in float32 has no CUDA kernel" in caplog.text


def test_the_graph_that_explains_is_batched_within_its_own_bound(folder: Path) -> None:
    graph = load_version(folder, SETTINGS, CPU).graphs["attention"]

    network = AttentionDecoder()
    window = np.array([random_tokens(network.attention_tokens, seed) for seed in (5, 6)])
    outputs = graph.runners[0].run({"tokens": window}, 2, ("attention",))
    assert graph.batching.buckets == (1, 2)
    assert len(graph.runners) == 1
    assert np.allclose(outputs["attention"][1, 0], network.attention(window[1]), atol=1e-5)


def test_the_graph_that_explains_a_large_model_is_opened_when_it_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_loading, "_LARGE_BYTES", 1)
    network = AttentionDecoder()
    window = np.array([random_tokens(network.attention_tokens, 5)])
    opened: list[str] = []
    real = VersionFiles.open

    def observed(self: Any, name: str, *arguments: Any, **options: Any) -> Any:
        opened.append(name)
        return real(self, name, *arguments, **options)

    monkeypatch.setattr(VersionFiles, "open", observed)
    loaded = load_version(folder, SETTINGS, CPU)
    graph = loaded.graphs["attention"]
    assert loaded.golden_error is not None  # it was verified before
    opened.clear()

    for _ in range(2):
        outputs = graph.runners[0].run({"tokens": window}, 1, ("attention",))
        assert np.allclose(outputs["attention"][0, 0], network.attention(window[0]), atol=1e-5)
    assert opened == ["attention"] * 2
    (folder / "weights.bin").write_bytes(b"other")
    with pytest.raises(InferenceFailed, match="files have changed"):
        graph.runners[0].run({"tokens": window}, 1, ("attention",))


def test_one_flipped_bit_in_the_shared_weights_is_rejected(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[40] ^= 1
    (folder / "weights.bin").write_bytes(content)

    with pytest.raises(VersionRejected, match=r"weights\.bin has the SHA-256"):
        load_version(folder, SETTINGS, CPU)


def test_other_weights_with_a_true_hash_do_not_meet_the_golden_logits(folder: Path, tmp_path: Path) -> None:
    other = AttentionDecoder(seed=9).write(tmp_path / "other")
    content = (other / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(content)
    graphs = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]
    for graph in graphs.values():
        graph["weights"]["sha256"] = sha256_hex(content)
    edit_manifest(folder, graphs=graphs)

    with pytest.raises(VersionRejected, match="logits deviate from their golden values"):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize("position", [(0, 3), (2, 22)], ids=["in a prompt", "in a step"])
def test_a_deviation_anywhere_is_found(folder: Path, position: tuple[int, int]) -> None:
    goldens = read_golden(folder)
    goldens["sequence"].outputs["logits"][position][7] += 0.01
    write_golden(folder, goldens)

    with pytest.raises(VersionRejected, match=r"by 0\.01"):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize(
    ("golden", "reason"),
    [
        ({}, "nothing for 'sequence'"),
        ({"sequence": Golden({"words": np.zeros((1, 2), np.int64)}, {})}, "does not name 'tokens'"),
    ],
)
def test_golden_values_that_do_not_fit_are_rejected(folder: Path, golden: dict[str, Golden], reason: str) -> None:
    write_golden(folder, golden)

    with pytest.raises(VersionRejected, match=reason):
        load_version(folder, SETTINGS, CPU)


def test_a_text_generator_needs_both_graphs(folder: Path) -> None:
    graphs = json.loads((folder / MANIFEST_FILE).read_text())["graphs"]
    del graphs["prefill"]
    edit_manifest(folder, graphs=graphs)

    with pytest.raises(VersionRejected, match=r"\['prefill'\] are missing"):
        load_version(folder, SETTINGS, CPU)


def test_states_must_be_those_of_the_graphs(folder: Path) -> None:
    states = json.loads((folder / MANIFEST_FILE).read_text())["language"]["states"]

    edit_language(folder, states=states[:1])
    with pytest.raises(VersionRejected, match="decode: the inputs are"):
        load_version(folder, SETTINGS, CPU)

    edit_language(folder, states=[states[0] | {"shape": [2, 64, 8]}, states[1]])
    with pytest.raises(VersionRejected, match=r"state 'key_0' is not FP32 \[2, 64, 8\]"):
        load_version(folder, SETTINGS, CPU)

    edit_language(folder, states=states, vocab_size=300)
    with pytest.raises(VersionRejected, match="logits are of 257 tokens"):
        load_version(folder, SETTINGS, CPU)


@pytest.mark.parametrize(("wide_seconds", "expected"), [(0.0095, 1), (0.005, 2)])
def test_threads_must_clearly_win(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wide_seconds: float, expected: int
) -> None:
    def measured(_decoder: Decoder, num_threads: int) -> StepCost:
        seconds = 0.01 if num_threads == 1 else wide_seconds
        return StepCost({1: seconds, 4: seconds}, seconds / decoder_loading.MEASURED_CHUNK)

    monkeypatch.setattr(decoder_loading, "_measured", measured)
    monkeypatch.setattr(decoder_loading, "available_cpus", lambda: 2)

    loaded = load_version(folder, Settings(max_sequences=2), CPU).decoder

    assert loaded is not None
    assert loaded.num_threads == loaded.costs.num_threads(PREFILL) == expected
    for num_threads in (1, 2):  # both stay, to be chosen while they run
        loaded.decoder.use(num_threads)
        tokens = np.array(random_tokens(9))
        logits = loaded.decoder.prefill(0, tokens, 0, [8])
        assert np.allclose(logits[0], AttentionDecoder().logits(tokens)[8], atol=1e-4)


@pytest.mark.parametrize("faster", ["plain", "tiled"])
def test_the_kernel_of_attention_is_taken_that_is_faster_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, faster: str
) -> None:
    monkeypatch.delenv(decoder_loading._PLAIN_VARIABLE, raising=False)
    opened: list[tuple[str, str]] = []
    real = VersionFiles.open

    def observed(self: Any, name: str, *arguments: Any, **options: Any) -> Any:
        opened.append((name, os.environ.get(decoder_loading._PLAIN_VARIABLE, "")))
        return real(self, name, *arguments, **options)

    def alternated(run: Any, use: Any, _clock: Any) -> dict[bool, float]:
        for is_tiled in (False, True):
            use(is_tiled)
            run()
        return {is_tiled: 0.001 if (faster == "tiled") is is_tiled else 0.002 for is_tiled in (False, True)}

    monkeypatch.setattr(VersionFiles, "open", observed)
    monkeypatch.setattr(decoder_loading, "_alternated", alternated)
    assert load_version(folder, SETTINGS, CPU).golden_error is not None

    decoding = [each for each in opened if each[0] != "attention"]
    assert decoding[:4] == [("decode", "1"), ("prefill", "1"), ("decode", "0"), ("prefill", "0")]
    assert decoding[4:] == [(name, "1" if faster == "plain" else "0") for name in ("decode", "prefill")]
    assert decoder_loading._PLAIN_VARIABLE not in os.environ


def test_a_kernel_of_attention_that_the_user_has_chosen_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(decoder_loading._PLAIN_VARIABLE, "0")
    monkeypatch.setattr(decoder_loading, "_alternated", None)

    assert load_version(folder, SETTINGS, CPU).golden_error is not None
    assert os.environ[decoder_loading._PLAIN_VARIABLE] == "0"


def test_runs_that_take_turns_are_compared_by_their_medians() -> None:
    now, kind, runs = 0.0, False, 0

    def use(is_tiled: bool) -> None:
        nonlocal kind
        kind = is_tiled

    def run() -> None:
        nonlocal now, runs
        runs += 1
        now += 0.5 if runs in (3, 8) else 0.002 if kind else 0.003

    seconds = decoder_loading._alternated(run, use, lambda: now)

    assert seconds == {False: pytest.approx(0.003), True: pytest.approx(0.002)}


def test_a_recurrent_model_forgets_what_a_slot_held_before(tmp_path: Path) -> None:
    network = RecurrentDecoder()
    loaded = load_version(network.write(tmp_path), SETTINGS, CPU).decoder
    assert loaded is not None
    tokens = np.array(random_tokens(9))

    for _ in range(2):
        logits = loaded.decoder.prefill(3, tokens, 0, [8])
        assert np.allclose(logits[0], network.logits(tokens)[8], atol=1e-4)
