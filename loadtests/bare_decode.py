"""The bare decode steps of an exported language model: ONNX Runtime on its graph, state in place, nothing around it.

What a step of the service takes beyond this is scheduling, sampling, HTTP and streaming. It speaks the protocol of
engines, but its tokens are made up: the graph's time does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.language_peers.protocol import Answer, Generate, Job, serve
from models.manifest import read_manifest


def load(folder: Path, threads: int) -> Generate:
    """Open the decode graph of a version."""
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    manifest = read_manifest(folder)
    if manifest.language is None:
        raise ValueError(f"{manifest.name} is no text generator.")
    language = manifest.language
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    path = str(folder / manifest.graphs["decode"].file)
    session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {node.name for node in session.get_inputs()}

    def generate(job: Job) -> Answer:
        rows, prompt = len(job.prompts), len(job.prompts[0])
        token = np.array([p[-1] for p in job.prompts], np.int64)
        length = np.full(rows, prompt, np.int32)
        logits = np.empty((rows, language.vocab_size), np.float32)
        states = {spec.name: np.zeros((rows, *spec.shape), spec.dtype) for spec in language.states}
        fed: dict[str, Any] = {"token": token, "length": length} | states
        made: dict[str, Any] = {"logits": logits} | {f"next_{name}": state for name, state in states.items()}
        binding = session.io_binding()
        for name, array in fed.items():
            if name in inputs:
                binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in made.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        times = []
        started = time.perf_counter()
        for _ in range(job.num_tokens):
            session.run_with_iobinding(binding)
            length += 1
            times.append(time.perf_counter() - started)
        return Answer([token.tolist()] * rows, [times] * rows)

    return generate


def main() -> None:
    """Answer jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the version folder")
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    serve(lambda: load(given.folder, given.threads))


if __name__ == "__main__":
    main()
