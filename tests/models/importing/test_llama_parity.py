"""The reference that golden logits come from agrees with transformers, which the files are made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.importing.llama import read_language_model
from models.importing.llama_reference import LlamaReference
from tests.models.importing.llama_folders import write_llama
from tests.models.importing.test_llama import VARIANTS, tokens

pytestmark = [
    pytest.mark.slow,
    # transformers warns of old names in its own code.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_reference_agrees_with_transformers(variant: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    folder = write_llama(tmp_path / "hf", **VARIANTS[variant] | biases_told(VARIANTS[variant]))
    model = read_language_model(folder)
    rows = tokens(2, 90)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    actual, _ = LlamaReference(model.config, model.tensors).run(rows)

    with torch.no_grad():
        expected = theirs(torch.from_numpy(rows)).logits.numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-3, rtol=0)


def biases_told(variant: dict[str, Any]) -> dict[str, Any]:
    """The settings that make transformers look for biases; it reads their names from the type, not from the file."""
    biases = variant.get("biases", set())
    return {"attention_bias": bool(biases & {"q", "o"}), "mlp_bias": "gate" in biases}
