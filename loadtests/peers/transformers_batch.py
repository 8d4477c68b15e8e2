"""Hugging Face transformers as a peer: `generate` on all prompts of a job in one batch. Source: transformers 5.23.

Threads are those of OMP_NUM_THREADS, which the benchmark sets.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from loadtests.peers.protocol import Generate, TextAnswer, TextJob, serve_texts


def load(source: Path) -> Generate:
    """Open the model in float32."""
    import transformers  # type: ignore[import-not-found,unused-ignore]

    loaded: Any = transformers.LlamaForCausalLM.from_pretrained(str(source))
    model: Any = loaded.float().eval()

    def generate(job: TextJob) -> TextAnswer:
        started = time.perf_counter()
        times: list[float] = []

        def note(tokens: Any, _scores: Any, **_: Any) -> Any:
            times.append(time.perf_counter() - started)
            # Never the end: false for every row.
            return tokens[:, 0] != tokens[:, 0]

        inputs: Any = transformers.BatchEncoding(
            {"input_ids": job.prompts, "attention_mask": [[1] * len(prompt) for prompt in job.prompts]},
            tensor_type="pt",
        )
        output = model.generate(
            **inputs,
            max_new_tokens=job.num_tokens,
            min_new_tokens=job.num_tokens,
            do_sample=False,
            stopping_criteria=transformers.StoppingCriteriaList([note]),
        )
        rows = output[:, len(job.prompts[0]) :].tolist()
        return TextAnswer(rows, [times] * len(rows))

    return generate


if __name__ == "__main__":
    serve_texts(lambda source, _scratch, _threads, _precision: load(source), __doc__)
