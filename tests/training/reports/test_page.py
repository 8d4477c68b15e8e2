"""What every page has, and what the page of a language model adds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.manifest import Batching, Graph, Language, Manifest, Parity, StateSpec
from tests.training.lineage import UNTRAINED
from training.loop import Progress
from training.reports.language import AXIS, PANELS, write_language_report
from training.reports.page import CURVES_FILE, draw_curves
from training.scores.text import TextScore

SCORES = {"validation": TextScore(300.0, 100, 360), "test": TextScore(700.0, 200, 720)}
MANIFEST = Manifest(
    name="novelist",
    version="3",
    task="text-generation",
    description="A Transformer that continues text, trained on two novels.",
    graphs={"decode": Graph(file="decode.onnx", sha256="0" * 64, inputs=(), outputs=())},
    batching=Batching(max_batch_size=1, buckets=(1,)),
    tokenizer="tokenizer.json",
    language=Language(
        vocab_size=300,
        context=8,
        bos_token=0,
        eos_token=0,
        states=(StateSpec(name="h", datatype="FP32", shape=(4,)),),
    ),
    training=UNTRAINED,
    parity=Parity(max_abs_error=2e-6, batch_sizes=(1,)),
)


def progress(num_rows: int = 30) -> Progress:
    rows = [
        {
            "step": float(step),
            "train_loss": 5 - step / 10,
            "validation_loss": 5 - step / 12,
            "tokens": step * 8192.0,
            "seconds": step * 60.0,
        }
        for step in range(1, num_rows + 1)
    ]
    return Progress(step=num_rows, seconds=num_rows * 60.0, best_step=max(num_rows - 1, 1), history=rows)


def page(folder: Path, num_rows: int = 30, scores: dict[str, TextScore] = SCORES, sample: str = "Once") -> str:
    config = {"context": 512, "tokens_per_step": 8192}
    norms = [0.5**back for back in range(64, -1, -1)]
    return write_language_report(folder, MANIFEST, progress(num_rows), config, scores, sample, norms).read_text()


def test_a_page_states_scores_how_they_were_measured_and_where_the_weights_come_from(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.startswith("# novelist, version 3\n\nA Transformer that continues text, trained on two novels.")
    assert "| test | 3.5000 | 1.4026 | 200 | 720 |" in text
    assert "| validation | 3.0000 | 1.2022 | 100 | 360 |" in text
    assert "Windows of 512 tokens advance by a stride of 256" in text
    assert "The test text was read once" in text
    assert "| tokens read in training | 245,760 |" in text
    assert "| training speed | 137 tokens/s, validations included |" in text
    assert "| selected step | 29 of 30 |" in text
    assert f"| data SHA-256 | {UNTRAINED.dataset_sha256} |" in text
    assert "| largest torch-to-ONNX difference | 2.0e-06 |" in text


def test_a_sample_stays_a_block_of_text_whatever_it_says(tmp_path: Path) -> None:
    assert "\n    He | she\n    \n    # said\n" in page(tmp_path, sample="He | she\n\n# said")
    assert "\n    (nothing)\n" in page(tmp_path, sample="")


def test_a_split_without_a_test_part_says_so(tmp_path: Path) -> None:
    text = page(tmp_path, scores={"validation": SCORES["validation"]})
    assert "This split has no test part" in text
    assert "| test |" not in text


@pytest.mark.parametrize(("num_rows", "num_shown"), [(1, 1), (12, 12), (30, 10), (31, 11)])
def test_the_history_is_thinned_out_and_keeps_its_end(tmp_path: Path, num_rows: int, num_shown: int) -> None:
    rows = page(tmp_path, num_rows).split("| step |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == num_shown
    assert rows[-1].startswith(f"| {num_rows} |")


def test_the_curves_are_opaque_and_show_both_losses_and_the_selected_step(tmp_path: Path) -> None:
    page(tmp_path)
    with Image.open(tmp_path / CURVES_FILE) as picture:
        pixels = picture.convert("RGBA")
    assert pixels.getchannel("A").getextrema() == (255, 255)
    assert pixels.getpixel((2, 2)) == (255, 255, 255, 255)
    (axes,) = draw_curves(progress(), PANELS, AXIS).axes
    assert [line.get_label() for line in axes.lines] == ["training (with dropout)", "validation", "selected"]
    assert np.asarray(axes.lines[2].get_xdata()).tolist() == [29 * 8192 / 1e6] * 2
    assert axes.get_xlabel() == "tokens read, millions"
    assert axes.get_ylabel() == "cross-entropy, nats per token"
