"""Expected texts of the tiny language models, computed in NumPy, and readers of streamed answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.fake_models.text_generation import END_TOKEN, VOCAB_SIZE, TinyDecoder

GENERATE = "/v1/models/tiny-transformer/generate"
# A logit bias that allows letters only, so that stop strings are distinct.
LETTERS = {str(ord(letter) + 1): 100 for letter in "abcdefgh "}


def tokens_of(text: str) -> list[int]:
    """The tokens of a text, without BOS."""
    return [byte + 1 for byte in text.encode()]


def text_of(tokens: list[int]) -> str:
    """The text of tokens; EOS has none."""
    return bytes(token - 1 for token in tokens if token != END_TOKEN).decode("utf-8", "replace")


def logprobs_after(decoder: TinyDecoder, tokens: list[int]) -> NDArray[np.float64]:
    """The log probability of every token after these."""
    logits = decoder.logits(np.array(tokens))[-1].astype(np.float64)
    shifted = logits - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def greedy(decoder: TinyDecoder, prompt: str, num_tokens: int, bias: dict[str, int] | None = None) -> list[int]:
    """The greedy completion of a prompt with a logit bias."""
    added = np.zeros(VOCAB_SIZE)
    for token, amount in (bias or {}).items():
        added[int(token)] = amount
    tokens = [END_TOKEN, *tokens_of(prompt)]
    generated: list[int] = []
    while len(generated) < num_tokens and END_TOKEN not in generated:
        generated.append(int((decoder.logits(np.array(tokens + generated))[-1] + added).argmax()))
    return generated


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The name and the JSON of each event of a streamed answer."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    response.read()
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        yield fields.get("event", ""), data if data == "[DONE]" else json.loads(data)


def streamed(client: httpx.Client, body: dict[str, Any], path: str = GENERATE) -> list[tuple[str, Any]]:
    """All events of one request."""
    with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200, response.read()
        return list(events(response))


def broken_off(client: httpx.Client, path: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """The events of a stream whose deadline passes between its first token and its last."""
    for seconds in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64):
        headers = {"x-request-timeout": str(seconds)}
        with client.stream("POST", path, json=body | {"stream": True}, headers=headers) as response:
            if response.status_code == 200:
                return list(events(response))
    raise AssertionError("No first token came in time.")
