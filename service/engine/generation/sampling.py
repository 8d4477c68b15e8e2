"""Chooses the next token of every sequence of a batch in one call: penalties, filters, randomness, log probabilities.

It knows logits, neither slots nor models. A row's choice does not depend on the rest of the batch, and its random
numbers depend only on its seed and step (Philox, https://doi.org/10.1145/2063384.2063405): same seed, same choice.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from service.engine.generation.constraints import Constraint
from service.engine.transport.messages import PromptScores, Sampling, Token

Floats = NDArray[np.float32]

# Below this a division by the temperature leaves only the likeliest token anyway.
GREEDY_TEMPERATURE = 1e-5
_UNIFORMS_AT_ONCE = 64
_BLOCK = 64
_SEED_MASK = 2**64 - 1


class Mode(Enum):
    """How a token is chosen: the likeliest, or at random from all or from those that pass the filters."""

    GREEDY = 0
    PLAIN = 1
    FILTERED = 2


class Sampler:
    """The sampling state of one sequence: its parameters, its random numbers and the tokens it has seen.

    Of `tokens`, the last `sampling.first_step` were generated before, the others are the prompt.
    """

    def __init__(
        self,
        sampling: Sampling,
        tokens: NDArray[np.int32],
        vocab_size: int,
        end_tokens: frozenset[int] = frozenset(),
        constraint: Constraint | None = None,
    ) -> None:
        self.sampling = sampling
        self.constraint = constraint
        self.step = sampling.first_step
        self.mode = _mode(sampling)
        self.has_penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) != (
            1.0,
            0.0,
            0.0,
        )
        is_biased = self.has_penalties or bool(sampling.logit_bias)
        self.is_adjusted = is_biased or self.step < sampling.min_tokens or constraint is not None
        # Only the likeliest token is needed.
        self.is_plain = self.mode is Mode.GREEDY and not self.is_adjusted and sampling.num_logprobs < 0
        self._bias_tokens = np.fromiter(sampling.logit_bias.keys(), np.int64)
        self._bias_values = np.fromiter(sampling.logit_bias.values(), np.float32)
        self._end_tokens = np.fromiter(end_tokens, np.int64)
        if self.has_penalties:
            generated = tokens[len(tokens) - sampling.first_step :]
            self._seen = np.bincount(tokens, minlength=vocab_size) > 0
            self._num_generated = np.bincount(generated, minlength=vocab_size).astype(np.float32)
        self._uniforms: list[float] = []
        self._uniforms_from = 0

    def accept(self, token: int) -> None:
        """Count a chosen token and advance to the next step."""
        self.step += 1
        if self.has_penalties:
            self._seen[token] = True
            self._num_generated[token] += 1
        if self.constraint is not None:
            self.constraint.accept(token)

    def uniform(self) -> float:
        """This step's random number in [0, 1)."""
        index = self.step - self._uniforms_from
        if not 0 <= index < len(self._uniforms):
            self._uniforms = uniforms(self.sampling.seed, self.step, _UNIFORMS_AT_ONCE)
            self._uniforms_from, index = self.step, 0
        return self._uniforms[index]

    def adjust(self, row: Floats) -> None:
        """Apply penalties, bias and grammar to one row of logits, in place; no end token before `min_tokens`.

        The grammar comes last: what it forbids, nothing permits, and the filters choose among what is left.

        Repetition counts the prompt too (CTRL, https://arxiv.org/abs/1909.05858). Of generated tokens alone, OpenAI's
        formula is `mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence`.
        """
        if self.has_penalties:
            repetition = np.float32(self.sampling.repetition_penalty)
            found = row[self._seen]
            row[self._seen] = np.where(found > 0, found / repetition, found * repetition)
            row -= self._num_generated * np.float32(self.sampling.frequency_penalty)
            row -= (self._num_generated > 0) * np.float32(self.sampling.presence_penalty)
        row[self._bias_tokens] += self._bias_values
        if self.constraint is not None:
            row[self.constraint.forbidden()] = -np.inf
        elif self.step < self.sampling.min_tokens:
            row[self._end_tokens] = -np.inf


def _mode(sampling: Sampling) -> Mode:
    if sampling.temperature < GREEDY_TEMPERATURE:
        return Mode.GREEDY
    is_filtered = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
    return Mode.FILTERED if is_filtered else Mode.PLAIN


def uniforms(seed: int, first_step: int, count: int) -> list[float]:
    """The random numbers of consecutive steps: the first word of the Philox block that each step counts to."""
    words = np.random.Philox(key=seed & _SEED_MASK, counter=first_step).random_raw(4 * count)[::4]
    values: list[float] = ((words >> np.uint64(11)) * 2.0**-53).tolist()
    return values


def choose(logits: Floats, samplers: list[Sampler]) -> list[Token | None]:
    """Choose a token for each row of `logits` [B, V]; None where the row is not finite. The logits stay as they are."""
    if all(sampler.is_plain for sampler in samplers):
        tokens = logits.argmax(axis=1)
        # argmax returns a NaN if there is one, so it suffices to check the best of each row.
        if np.isfinite(logits[np.arange(len(samplers)), tokens]).all():
            return [Token(token) for token in tokens.tolist()]
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(logits.sum(axis=1))
    if is_finite.all():
        return [*_choose(logits, samplers)]
    rows = np.flatnonzero(is_finite)
    chosen = iter(_choose(logits[rows], [samplers[row] for row in rows])) if len(rows) else iter(())
    return [next(chosen) if is_fine else None for is_fine in is_finite]


def _choose(logits: Floats, samplers: list[Sampler]) -> list[Token]:
    modes = [sampler.mode for sampler in samplers]
    tokens = np.empty(len(samplers), np.int64)
    for mode in Mode:
        rows = [row for row, each in enumerate(modes) if each is mode]
        if not rows:
            continue
        group = _adjusted(logits, rows, [samplers[row] for row in rows])
        if mode is Mode.GREEDY:
            tokens[rows] = group.argmax(axis=1)
        else:
            tokens[rows] = _sample(group, [samplers[row] for row in rows], mode is Mode.FILTERED)
    if all(sampler.sampling.num_logprobs < 0 for sampler in samplers):
        return [Token(token) for token in tokens.tolist()]
    return _with_logprobs(logits, samplers, tokens)


def _adjusted(logits: Floats, rows: list[int], samplers: list[Sampler]) -> Floats:
    """Some rows of the logits, each as its sampler wants it."""
    to_adjust = [(index, sampler) for index, sampler in enumerate(samplers) if sampler.is_adjusted]
    group = logits if len(rows) == len(logits) and not to_adjust else logits[rows]
    for index, sampler in to_adjust:
        sampler.adjust(group[index])
    return group


def _sample(logits: Floats, samplers: list[Sampler], is_filtered: bool) -> NDArray[np.int64]:
    """Inverse transform sampling; the likeliest token of a row has weight 1."""
    weights = logits - logits.max(axis=1, keepdims=True)
    weights /= np.array([[sampler.sampling.temperature] for sampler in samplers], np.float32)
    np.exp(weights, out=weights)
    if is_filtered:
        weights *= weights >= _thresholds(weights, samplers)[:, None]
    return _invert(weights, np.array([sampler.uniform() for sampler in samplers]))


def _invert(weights: Floats, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first index of each row where the running sum exceeds a share of the row's sum.

    Sums of blocks find the block, then the index in it: a running sum over all tokens would cost several times as much.
    """
    num_rows, size = weights.shape
    blocks = np.zeros((num_rows, -(-size // _BLOCK), _BLOCK), np.float32)
    blocks.reshape(num_rows, -1)[:, :size] = weights
    sums = np.cumsum(blocks.sum(axis=2), axis=1, dtype=np.float64)
    targets = _below(shares * sums[:, -1], sums[:, -1])
    block = (sums > targets[:, None]).argmax(axis=1)
    rows = np.arange(num_rows)
    targets -= np.where(block > 0, sums[rows, block - 1], 0)
    inner = np.cumsum(blocks[rows, block], axis=1, dtype=np.float64)
    index = (inner > _below(targets, inner[:, -1])[:, None]).argmax(axis=1)
    return np.asarray(block * _BLOCK + index, np.int64)


def _below(targets: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    # Rounding must not step over the last token.
    return np.minimum(targets, np.nextafter(sums, 0))


def _thresholds(weights: Floats, samplers: list[Sampler]) -> Floats:
    """The least weight of each row that passes top-k, then top-p among those, and min-p; ties pass."""
    vocab_size = weights.shape[1]
    falling = np.sort(weights, axis=1)[:, ::-1]
    rows = np.arange(len(samplers))
    last = np.array([min(sampler.sampling.top_k or vocab_size, vocab_size) - 1 for sampler in samplers])
    least: Floats = np.maximum(
        falling[rows, last], np.array([sampler.sampling.min_p for sampler in samplers], np.float32)
    )
    nuclei = [row for row, sampler in enumerate(samplers) if sampler.sampling.top_p < 1]
    if nuclei:
        ranked = falling if len(nuclei) == len(samplers) else falling[nuclei]
        ranked = ranked * (ranked >= falling[nuclei, last[nuclei]][:, None])
        # A nucleus is complete as soon as it reaches its share, so the index to find is just below it.
        shares = np.nextafter(np.array([samplers[row].sampling.top_p for row in nuclei]), 0)
        edges = ranked[np.arange(len(nuclei)), _invert(ranked, shares)]
        least[nuclei] = np.maximum(least[nuclei], edges)
    return least


def _with_logprobs(logits: Floats, samplers: list[Sampler], tokens: NDArray[np.int64]) -> list[Token]:
    choices = [Token(token) for token in tokens.tolist()]
    rows = [row for row, sampler in enumerate(samplers) if sampler.sampling.num_logprobs >= 0]
    num_top = max(samplers[row].sampling.num_logprobs for row in rows)
    logprobs, top_tokens, top_logprobs = scores(logits[rows], tokens[rows], num_top)
    for index, row in enumerate(rows):
        count = samplers[row].sampling.num_logprobs
        best = zip(top_tokens[index, :count].tolist(), top_logprobs[index, :count].tolist(), strict=True)
        choices[row] = Token(choices[row].token, float(logprobs[index]), tuple(best))
    return choices


def scores(logits: Floats, tokens: NDArray[np.int64] | NDArray[np.int32], num_top: int) -> PromptScores:
    """The log probability of a token in each row of `logits` [N, V], and the `num_top` likeliest with theirs [N, K].

    They belong to the model's own distribution, before penalties, temperature and filters.
    """
    highest = logits.max(axis=1, keepdims=True)
    totals = np.exp(logits - highest).sum(axis=1, keepdims=True, dtype=np.float64)
    offsets = highest + np.log(totals)
    rows = np.arange(len(logits))
    logprobs: Floats = (logits[rows, tokens] - offsets[:, 0]).astype(np.float32)
    num_top = min(num_top, logits.shape[1])
    if num_top <= 0:
        return PromptScores(logprobs, np.empty((len(logits), 0), np.int32), np.empty((len(logits), 0), np.float32))
    top: NDArray[np.int64] = np.sort(np.argpartition(-logits, num_top - 1, axis=1)[:, :num_top], axis=1)
    values = np.take_along_axis(logits, top, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    top, values = np.take_along_axis(top, order, axis=1), np.take_along_axis(values, order, axis=1)
    top_logprobs: Floats = (values - offsets).astype(np.float32)
    return PromptScores(logprobs, top.astype(np.int32), top_logprobs)
