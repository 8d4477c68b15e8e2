"""The two ends of a graph that turns texts into vectors: tokens with filling come in, one vector a text goes out.

Rows of unequal texts share a batch, so what fills a row must not count. It is -1, which is no token of any vocabulary.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from models.importing.graph_builder import BuiltGraph, GraphBuilder, Port

Pooling = Literal["mean", "first"]
FILLING = -1
# The table of a language model is called "embedding"; its output cannot be.
TOKENS, VECTOR = "tokens", "vector"
# Tokens of a batch, all rows together: attention holds a number for each pair of a row.
MAX_BATCH_TOKENS = 4096
# A vector is divided by its length, which may be 0.
_LEAST_LENGTH = 1e-6


def take_tokens(graph: GraphBuilder) -> tuple[str, str]:
    """Add what reads `tokens [B,T]`: token ids that are safe to look up, and whether each place holds text, [B,T]."""
    graph.constant("zero_token", np.array(0))
    is_text = graph.add("GreaterOrEqual", [TOKENS, "zero_token"])
    return graph.add("Max", [TOKENS, "zero_token"]), is_text


def without(graph: GraphBuilder, is_text: str, token: int) -> str:
    """Leave out the places of a token that says nothing of a text: the one that begins it."""
    graph.constant("silent_token", np.array(token))
    return graph.add("And", [is_text, graph.add("Not", [graph.add("Equal", [TOKENS, "silent_token"])])])


def finish_embedding(
    graph: GraphBuilder, hidden: str, counts: str, width: int, pooling: Pooling = "mean", *, is_scaled: bool = True
) -> BuiltGraph:
    """Finish a graph with the vector of each row: the mean of hidden states [B,T,W] where bool [B,T] says so.

    `first` takes the state of the first token instead. A scaled vector has length 1; one of nothing is 0.
    """
    graph.constant("token_axis", np.array([1]))
    graph.constant("least_length", np.array([[_LEAST_LENGTH]], np.float32))
    if pooling == "first":
        graph.constant("first_place", np.array(0))
        vectors = graph.add("Gather", [hidden, "first_place"], axis=1)
    else:
        graph.constant("feature_axis", np.array([2]))
        graph.constant("one_token", np.array([[1]], np.float32))
        weights = graph.add("Cast", [counts], to=1)
        kept = graph.add("Mul", [hidden, graph.add("Unsqueeze", [weights, "feature_axis"])])
        total = graph.add("ReduceSum", [kept, "token_axis"], keepdims=0)
        number = graph.add("ReduceSum", [weights, "token_axis"], keepdims=1)
        vectors = graph.add("Div", [total, graph.add("Max", [number, "one_token"])])
    if is_scaled:
        length = graph.add("ReduceL2", [vectors, "token_axis"], keepdims=1)
        vectors = graph.add("Div", [vectors, graph.add("Max", [length, "least_length"])])
    graph.add("Identity", [vectors], VECTOR)
    inputs, outputs = [Port(TOKENS, "INT64", ("B", "T"))], [Port(VECTOR, "FP32", ("B", width))]
    return graph.finish("embedding", inputs, outputs, max_batch_elements=MAX_BATCH_TOKENS)
