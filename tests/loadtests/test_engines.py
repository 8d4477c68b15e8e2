"""Engines in processes of their own, what they say when they cannot run, and the peers' environment."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtests.engines import EngineUnavailable, peer_python, running_engine, serve
from loadtests.peers.llama_cpp_batch import gguf_name, interleave, read_safetensors
from loadtests.peers.protocol import Generate, TextAnswer, TextJob

JOB = TextJob(["a", "b"], [[0, 1], [0, 2]], 3)


def test_an_engine_answers_jobs_line_by_line() -> None:
    def load() -> Generate:
        return lambda job: TextAnswer(job.prompts, [[0.0]] * len(job.prompts))

    answers, line = io.StringIO(), json.dumps({"texts": ["a"], "prompts": [[4]], "num_tokens": 1}) + "\n"
    serve(load, TextJob, io.StringIO(line * 2), answers)
    ready, *rest = map(json.loads, answers.getvalue().splitlines())
    assert ready == {"ready": True}
    assert rest == [{"tokens": [[4]], "times": [[0.0]]}] * 2


@pytest.mark.parametrize(
    ("error", "reason"), [(ImportError("no genai"), "not installed: no genai"), (OSError("disk"), "OSError: disk")]
)
def test_an_engine_that_cannot_load_says_why(error: Exception, reason: str) -> None:
    def load() -> Generate:
        raise error

    answers = io.StringIO()
    serve(load, TextJob, io.StringIO(), answers)
    assert json.loads(answers.getvalue()) == {"unavailable": reason}


def test_a_process_is_ready_answers_and_may_print_beside(tmp_path: Path) -> None:
    code = (
        "import json, sys; print('a library greets'); print(json.dumps({'ready': True}), flush=True)\n"
        "for line in sys.stdin:\n"
        " n = json.loads(line)['num_tokens']; print(json.dumps({'tokens': [[n]], 'times': [[0.1]]}), flush=True)"
    )
    with running_engine("stand-in", [sys.executable, "-c", code], 1, tmp_path, TextAnswer) as engine:
        assert engine.run(JOB) == TextAnswer([[3]], [[0.1]])


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (
            [sys.executable, "-c", "import json; print(json.dumps({'unavailable': 'not installed: x'}))"],
            "not installed: x",
        ),
        ([sys.executable, "-c", "import sys; sys.exit('the reason')"], "its log says: the reason"),
        (["/nowhere/python"], "/nowhere/python does not run"),
    ],
)
def test_a_process_that_cannot_serve_says_why(tmp_path: Path, command: list[str], reason: str) -> None:
    with pytest.raises(EngineUnavailable, match=reason), running_engine("broken", command, 1, tmp_path, TextAnswer):
        raise AssertionError("a broken engine must not be handed out")


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineUnavailable, match="No such file"):
        peer_python(tmp_path / "venv", "litserve")


def test_rows_are_interleaved_so_that_pairs_lie_side_by_side() -> None:
    # Two heads of width 4: llama.cpp turns rows 0 and 1, 2 and 3; Hugging Face 0 and 2, 1 and 3.
    weight = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert interleave(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_tensors_have_llama_cpps_names() -> None:
    assert gguf_name("model.layers.11.self_attn.q_proj.weight") == "blk.11.attn_q.weight"
    assert gguf_name("model.layers.0.post_attention_layernorm.weight") == "blk.0.ffn_norm.weight"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    with pytest.raises(KeyError):
        gguf_name("model.vision.weight")


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    np.testing.assert_array_equal(read_safetensors(tmp_path / "m")["a"], values)
