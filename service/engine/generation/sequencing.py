"""Pure decisions of continuous batching: the slot of a prompt, what it can reuse, and how much one step computes.

No clock, no I/O, no thread: everything is an argument, so every rule is tested as arithmetic.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Readers do not notice a pause of this length, and shorter chunks would delay the next texts.
PROMPT_SECONDS = 0.004
# Texts that have just begun, and have no pace yet, wait so long for the prompts that arrived together with them.
BEGINNING_SECONDS = 0.5
TOGETHER_SECONDS = 0.05
# Short prompts are computed together up to so many tokens. More would not be computed faster, and the first tokens of
# all come at the end.
MAX_JOINED_TOKENS = 128
MAX_PADDING = 1.25
# While others decode, a chunk of a prompt has at least this many tokens: a shorter one costs a step as much.
MIN_CHUNK_TOKENS = 16
# A prompt that has waited this long gets twice the share of a step, and so on.
AGEING_SECONDS = 0.25
# All prompts share the beginning token; copying it alone saves nothing.
MIN_REUSED_TOKENS = 2


@dataclass(slots=True)
class Content:
    """The contents of a slot: the tokens that its state was computed from, when it was last used, and whose it is.

    Only callers of the same `domain` reuse it: another would learn from what was cached what others have sent. No more
    than the first `num_reusable` tokens are reused.
    """

    tokens: NDArray[np.int32]
    length: int = 0
    last_used: float = 0.0
    is_active: bool = False
    domain: str = ""
    num_reusable: int = 2**31

    @property
    def held(self) -> NDArray[np.int32]:
        """The tokens in the state."""
        return self.tokens[: self.length]


@dataclass(frozen=True, slots=True)
class Move:
    """Copy the state of one slot's first `length` tokens to another, or swap all that both hold."""

    source: int
    target: int
    length: int = 0
    is_swap: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """The slot of a prompt, the number of tokens to reuse, and the moves to make first, in order."""

    slot: int
    num_reused: int
    moves: tuple[Move, ...] = field(default=())


def prompt_seconds(decode_seconds: float, waited_seconds: float) -> float:
    """How long a step may compute prompts before it decodes texts in `decode_seconds`.

    As long as it decodes, and 4 ms at least, so that streams stay even; the longer the oldest prompt has waited, the
    longer, so that it does not starve.
    """
    return (1 + waited_seconds / AGEING_SECONDS) * max(decode_seconds, PROMPT_SECONDS)


def tokens_within(seconds: float, token_seconds: float) -> int:
    """How many tokens of prompts take no longer; some at least."""
    return max(int(seconds / max(token_seconds, 1e-9)), MIN_CHUNK_TOKENS)


def num_joined(lengths: Iterable[int], max_tokens: int) -> int:
    """How many of the next prompts are computed as one: as far as there is little of each beyond the ends of others."""
    longest = total = count = 0
    for length in lengths:
        longest, total, count = max(longest, length), total + length, count + 1
        padded = count * longest
        if padded > max_tokens or padded > MAX_PADDING * total:
            return max(count - 1, 1)
    return count


def common_prefix(held: NDArray[np.int32], prompt: NDArray[np.int32]) -> int:
    """How many tokens two sequences share from the start."""
    size = min(len(held), len(prompt))
    different = held[:size] != prompt[:size]
    return int(different.argmax()) if different.any() else size


def reusable(content: Content, prompt: NDArray[np.int32], is_recurrent: bool) -> int:
    """How many of the prompt's tokens a slot's state covers; the last token is always computed, for its logits.

    A recurrent state is usable only if all of its tokens are the beginning of the prompt.
    """
    shared = min(common_prefix(content.held, prompt[:-1]), content.num_reusable)
    if shared < MIN_REUSED_TOKENS or (is_recurrent and shared < content.length):
        return 0
    return shared


def place(
    prompt: NDArray[np.int32],
    contents: Sequence[Content],
    *,
    is_recurrent: bool = False,
    can_copy: bool = True,
    can_reuse: bool = True,
    domain: str = "",
) -> Placement:
    """Choose the slot of a prompt and what it reuses; at least one slot must be free.

    The prompt takes the lowest free slot, so that active slots stay together; what that slot held moves to the least
    recently used one. Where states cannot be copied, the prompt takes the slot that holds most of it.
    """
    usable = [can_reuse and content.domain == domain for content in contents]
    reuse = [
        reusable(content, prompt, is_recurrent) if is_usable else 0
        for content, is_usable in zip(contents, usable, strict=True)
    ]
    free = [slot for slot, content in enumerate(contents) if not content.is_active]
    oldest = min(free, key=lambda slot: (contents[slot].length > 0, contents[slot].last_used))
    if not can_copy:
        best = max(free, key=lambda slot: reuse[slot])
        slot = best if reuse[best] else oldest
        return Placement(slot, reuse[slot])
    target = free[0]
    source = max(range(len(contents)), key=lambda slot: (reuse[slot], slot == target, not contents[slot].is_active))
    num_reused = reuse[source]
    is_continued = num_reused > 0 and source in free and num_reused == contents[source].length
    victim = source if is_continued else oldest
    return Placement(target, num_reused, _moves(source, target, victim, num_reused, contents))


def _moves(source: int, target: int, victim: int, num_reused: int, contents: Sequence[Content]) -> tuple[Move, ...]:
    keep = contents[target].length
    if victim == source != target and num_reused:
        return (Move(source, target, is_swap=True),)
    moves = []
    if victim != target and keep:
        moves.append(Move(target, victim, keep))
    if source != target and num_reused:
        moves.append(Move(source, target, num_reused))
    return tuple(moves)


def compaction(decoding: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs (from, to) of slots to swap so that the decoding ones come first."""
    taken = set(decoding)
    holes = [slot for slot in range(len(taken)) if slot not in taken]
    movers = sorted((slot for slot in taken if slot >= len(taken)), reverse=True)
    return list(zip(movers, holes, strict=True))


def padding_length(length: int, context: int, is_recurrent: bool) -> tuple[int, int]:
    """Where a padding row writes into a slot that is not decoding, and how many of its tokens stay valid."""
    if is_recurrent:
        return 0, 0
    position = min(length, context - 1)
    return position, position


def max_new_tokens(num_prompt: int, max_tokens: int, context: int) -> int:
    """How many tokens a prompt can be continued by."""
    return max(min(max_tokens, context - num_prompt), 0)


def finish_reason(token: int, num_new: int, max_new: int, end_tokens: Container[int]) -> str | None:
    """Why a sequence ends with this token, its `num_new`th; None if it continues."""
    if token in end_tokens:
        return "stop"
    return "length" if num_new >= max_new else None


def retry_after_seconds(num_waiting: int, num_slots: int, sequence_seconds: float) -> float:
    """When those who wait will have a slot: one becomes free every `sequence_seconds / num_slots`."""
    return (num_waiting + 1) * sequence_seconds / num_slots
