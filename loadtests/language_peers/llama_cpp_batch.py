"""llama.cpp as a peer, by llama-cpp-python's low-level calls: all prompts of a job are sequences of one batch.

The GGUF file is written from the Hugging Face folder, in float32. Source: llama-cpp-python 0.3.36, llama.h.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.language_peers.gguf_file import write_gguf
from loadtests.language_peers.protocol import Answer, Generate, Job, serve_peer

_MAX_SEQUENCES, _MAX_TOKENS = 32, 256


class Sequences:
    """A context of 32 sequences, whose next tokens are computed together."""

    def __init__(self, api: Any, model: Any, threads: int) -> None:
        """Make the context."""
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = _MAX_SEQUENCES * _MAX_TOKENS, _MAX_SEQUENCES
        settings.n_batch = settings.n_ubatch = _MAX_SEQUENCES * 64
        settings.n_threads = settings.n_threads_batch = threads
        self._api = api
        self._context = api.llama_init_from_model(model, settings)
        self._batch = api.llama_batch_init(settings.n_batch, 0, 1)
        self._vocab_size: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))

    def clear(self) -> None:
        """Forget every sequence."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)

    def advance(self, rows: list[list[int]], start: int) -> list[int]:
        """Read as many tokens of each sequence, which are its tokens from `start` on; returns the likeliest next."""
        batch, wanted, count = self._batch, [], 0
        for sequence, row in enumerate(rows):
            for offset, token in enumerate(row):
                batch.token[count], batch.pos[count] = token, start + offset
                batch.n_seq_id[count], batch.seq_id[count][0] = 1, sequence
                batch.logits[count] = is_last = offset == len(row) - 1
                if is_last:
                    wanted.append(count)
                count += 1
        batch.n_tokens = count
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode answered {status}.")
        return [int(np.argmax(self._logits(place))) for place in wanted]

    def _logits(self, place: int) -> Any:
        return np.ctypeslib.as_array(self._api.llama_get_logits_ith(self._context, place), (self._vocab_size,))


def load(source: Path, file: Path, threads: int) -> Generate:
    """Open the model."""
    import llama_cpp  # type: ignore[import-not-found,unused-ignore]

    if not file.is_file():
        write_gguf(source, file)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot read {file.name}.")
    sequences = Sequences(llama_cpp, model, threads)

    def generate(job: Job) -> Answer:
        started = time.perf_counter()
        sequences.clear()
        rows, start = job.prompts, 0
        tokens: list[list[int]] = [[] for _ in rows]
        times: list[float] = []
        for _ in range(job.num_tokens):
            found = sequences.advance(rows, start)
            times.append(time.perf_counter() - started)
            for row, token in zip(tokens, found, strict=True):
                row.append(token)
            start += len(rows[0])
            rows = [[token] for token in found]
        return Answer(tokens, [times] * len(tokens))

    return generate


if __name__ == "__main__":
    serve_peer(lambda source, scratch, threads: load(source, scratch / "model.gguf", threads), __doc__)
