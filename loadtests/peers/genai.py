"""onnxruntime-genai as a peer: all prompts of a job in one batch. Source: onnxruntime-genai 0.18.

The model folder is made from the Hugging Face folder by its own builder, once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from loadtests.peers.protocol import Generate, TextAnswer, TextJob, serve_texts

_BUILD_SECONDS = 500
# Its own int8: weights in blocks of 32 with a scale each, activations rounded as they come.
_OPTIONS = {"fp32": [], "int8": ["--extra_options", "block_size=32", "accuracy_level=4"]}


def build(source: Path, folder: Path, precision: str) -> None:
    """Build the model folder for the CPU.

    Raises: RuntimeError with the builder's last words.
    """
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(folder)]
    command += ["-p", precision, "-e", "cpu", *_OPTIONS[precision]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS)
    if done.returncode != 0 or not (folder / "genai_config.json").is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"its builder failed: {lines[-1] if lines else 'it printed nothing'}")


def set_threads(folder: Path, threads: int) -> None:
    """Set the threads of a session in the model folder."""
    file = folder / "genai_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["model"]["decoder"].setdefault("session_options", {})["intra_op_num_threads"] = threads
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")


def load(source: Path, folder: Path, threads: int, precision: str) -> Generate:
    """Open the model."""
    import onnxruntime_genai  # type: ignore[import-not-found,unused-ignore]

    if not (folder / "genai_config.json").is_file():
        build(source, folder, precision)
    set_threads(folder, threads)
    model = onnxruntime_genai.Model(str(folder))

    def generate(job: TextJob) -> TextAnswer:
        started = time.perf_counter()
        rows, length = len(job.prompts), len(job.prompts[0]) + job.num_tokens
        parameters = onnxruntime_genai.GeneratorParams(model)
        # min_length: every engine generates the same number of tokens.
        parameters.set_search_options(batch_size=rows, do_sample=False, max_length=length, min_length=length)
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(np.array(job.prompts, np.int32))
        tokens: list[list[int]] = [[] for _ in range(rows)]
        times: list[float] = []
        for _ in range(job.num_tokens):
            generator.generate_next_token()
            for row, token in zip(tokens, generator.get_next_tokens(), strict=True):
                row.append(int(token))
            times.append(time.perf_counter() - started)
        return TextAnswer(tokens, [times] * rows)

    return generate


if __name__ == "__main__":
    serve_texts(
        lambda source, scratch, threads, precision: load(source, scratch / f"genai-{precision}", threads, precision),
        __doc__,
        list(_OPTIONS),
    )
