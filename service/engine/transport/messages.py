"""The messages between API processes and the engine, and their frames on a Unix stream socket.

A frame is two little-endian uint32 (header bytes, payload bytes), a msgpack header, then raw row-major tensors in the
order of the graph's inputs or of `Result.outputs`. Each element of BYTES follows its length, a little-endian uint32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.grammar import Grammar

_LENGTHS = struct.Struct("<II")
MAX_FRAME_BYTES = 2**30

Arrays = dict[str, NDArray[Any]]
RowShapes = tuple[tuple[int, ...], ...]
Piece = bytes | memoryview
Tops = tuple[tuple[int, float], ...]


class InferenceTiming(NamedTuple):
    """What one answered request cost: its time in the queue, and the time and size of its last batch.

    `precision` is that of the answer, where it is not the one that serves.
    """

    queue_seconds: float
    compute_seconds: float
    batch_size: int
    precision: str = ""


class Token(NamedTuple):
    """A generated token, its log probability, and the likeliest tokens with theirs, as far as they were requested."""

    token: int
    logprob: float | None = None
    top: Tops = ()


class PromptScores(NamedTuple):
    """Log probabilities of consecutive tokens of a prompt [N], and the likeliest tokens with theirs [N, K]."""

    logprobs: NDArray[np.float32]
    top_tokens: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]


class Caller(NamedTuple):
    """Who a request is from: turns are taken between names, by weight, and caches are shared within a domain."""

    name: str = ""
    weight: float = 1.0
    domain: str = ""


ANYONE = Caller()


class InferTarget(NamedTuple):
    """What requests must have in common to cross the socket together: the outputs, row shapes and priority too.

    `row_shapes` holds the shape of one row of each input, where the manifest leaves a size open. `priority`: 1 is
    served first, 0 is the default.
    """

    model: str
    version: str
    graph: str
    outputs: tuple[str, ...]
    row_shapes: RowShapes = ()
    priority: int = 0


class Infer(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Compute `target` for each of some requests; their payloads follow one another.

    The lists have an item for each: its id, its rows, the bytes of its payload, its time from arrival on, and which of
    `callers` it is from; `caller_of` is empty where there is one caller. A graph that is not batched takes one row, and
    whole shapes. `num_losses`: how many engines have ended while they held the request; one that ended any comes in a
    message of its own.
    """

    target: InferTarget
    ids: list[int]
    num_rows: list[int]
    payload_bytes: list[int]
    timeouts_seconds: list[float]
    callers: tuple[Caller, ...] = (ANYONE,)
    caller_of: list[int] = []
    num_losses: int = 0

    def each(self, payload: memoryview) -> Iterator[tuple[int, int, memoryview, float, Caller]]:
        """Each request: its id, its rows, its payload, its time from arrival on and its caller."""
        start = 0
        callers = [self.callers[index] for index in self.caller_of] or [self.callers[0]] * len(self.ids)
        for id_, num_rows, num_bytes, timeout_seconds, caller in zip(
            self.ids, self.num_rows, self.payload_bytes, self.timeouts_seconds, callers, strict=True
        ):
            yield id_, num_rows, payload[start : start + num_bytes], timeout_seconds, caller
            start += num_bytes


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Stop computing request `id`."""

    id: int


class Describe(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Request a Description with this `id`."""

    id: int


class Control(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """Load or unload a model, or scan the repositories again; answered with a Description or a Failure when done.

    `action` is `load`, `unload` or `index`; `config` is JSON with the members of `config.toml`, empty for that file.
    """

    id: int
    action: str
    model: str = ""
    config: str = ""


class Released(msgspec.Struct, array_like=True, frozen=True, tag=12):
    """This API process will send no more requests to a version that is unloading."""

    model: str
    version: str


class DescriptionAcknowledged(msgspec.Struct, array_like=True, frozen=True, tag=13):
    """This API process has applied one more description with id 0."""


class Trace(msgspec.Struct, array_like=True, frozen=True, tag=14):
    """Request what the device computed in the last `seconds`."""

    id: int
    seconds: float


class Sampling(msgspec.Struct, array_like=True, frozen=True):
    """How a text is continued.

    `temperature` 0 takes the likeliest token; `top_k` 0, `top_p` 1 and `min_p` 0 filter nothing. `num_logprobs` and
    `prompt_logprobs`: -1 none, 0 those of the tokens themselves, k also of the k likeliest. The last `first_step`
    tokens of the prompt belong to the answer: the sequence of random numbers continues after them. `stop_token_ids` end
    the text beside the model's own end tokens; none of either is chosen before `min_tokens`. The text is held to
    `grammar`, of which those last `first_step` tokens are the beginning.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int = 0
    num_logprobs: int = -1
    prompt_logprobs: int = -1
    ignore_eos: bool = False
    first_step: int = 0
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    grammar: Grammar | None = None

    def end_tokens(self, of_model: frozenset[int]) -> frozenset[int]:
        """The tokens that end the text, of which the model has some itself."""
        return frozenset(self.stop_token_ids) | (frozenset() if self.ignore_eos else of_model)


class GenerateText(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Continue the prompt in the payload (int32 tokens, beginning token included), within `timeout_seconds`.

    `num_losses` is as in `Infer`, `priority` as in `InferTarget`. The texts of a `request` take turns with those of
    others.
    """

    id: int
    model: str
    version: str
    sampling: Sampling
    timeout_seconds: float
    caller: Caller = ANYONE
    num_losses: int = 0
    priority: int = 0
    request: int = 0


class Result(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The outputs of some requests, which are rows of the tensors in the payload, one request after the other.

    `outputs` holds name, NumPy type and shape of each tensor; the type is `|O` for BYTES, and `<u2` for the bits of
    BF16. `num_rows` is empty where the tensors are those of one request as a whole. `precision` is as in
    `InferenceTiming`.
    """

    ids: list[int]
    num_rows: list[int]
    queue_seconds: list[float]
    compute_seconds: float
    batch_size: int
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    precision: str = ""


class Failure(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Request `id` failed with a ServiceError of this `code`."""

    id: int
    code: str
    message: str
    retry_after_seconds: float | None


SampledItem = tuple[int, int, float | None, Tops]


class Sampled(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """The tokens of one step: request id, token, its log probability, the likeliest tokens with theirs.

    `cached_tokens`: by request id, how many of its prompt's tokens were not computed again; with its first token.
    """

    items: tuple[SampledItem, ...]
    cached_tokens: dict[int, int] = {}


class Scored(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """The scores of the prompt of request `id`, sent before its first token.

    The payload holds, for the P - 1 tokens after the first: log probabilities float32 [P - 1], the likeliest tokens
    int32 [P - 1, num_top] and their log probabilities float32 [P - 1, num_top].
    """

    id: int
    num_top: int


class Finished(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """Request `id` has all its tokens: `reason` is `stop` (its end token, or the end of the grammar) or `length`."""

    id: int
    reason: str
    prompt_tokens: int
    cached_tokens: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    steps: int


class Duration(msgspec.Struct, frozen=True):
    """How often something happened, and its total time in nanoseconds."""

    count: int = 0
    ns: int = 0


class BatchStatistics(msgspec.Struct, frozen=True):
    """The batches of one size: their number, and the time of each part of their computation."""

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


class GraphStatistics(msgspec.Struct, frozen=True):
    """The statistics of one graph since it was loaded, as the Open Inference Protocol counts them.

    `inference_count` counts rows that were computed and answered, `execution_count` batches, the durations requests;
    `success.ns` is the sum of the others of the same requests. `last_inference_ms` is since the epoch.
    """

    last_inference_ms: int = 0
    inference_count: int = 0
    execution_count: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()
    batches: tuple[BatchStatistics, ...] = ()


class GraphBatching(msgspec.Struct, frozen=True):
    """Whether requests for a graph share batches, and why or why not."""

    is_batched: bool
    reason: str


class ServedPrecision(msgspec.Struct, frozen=True):
    """The precision that a version with variants is served in, and why; empty without variants.

    `speedups`: how many times as fast as fp32 a variant was, by batch size. `obstacles`: why a variant may not serve.
    """

    precision: str = ""
    reason: str = ""
    speedups: dict[str, dict[str, float]] = {}
    obstacles: dict[str, str] = {}


UNVARIED = ServedPrecision()
"""A version has no variants."""


class Quantiles(msgspec.Struct, frozen=True):
    """The median and the 95th percentile of some times in seconds."""

    p50: float
    p95: float


class ShadowReport(msgspec.Struct, frozen=True):
    """How the answers of a version compare with those of the default, `against`, to the same requests.

    `agreement` is the share of the rows on which both agree. Times are of the batches: those of the default may hold
    rows of other requests. A copy is dropped where the engine is busy for too long.
    """

    version: str
    against: str
    share: float
    num_requests: int = 0
    num_rows: int = 0
    agreement: float | None = None
    max_abs_difference: float = 0.0
    num_dropped: int = 0
    num_failed: int = 0
    last_failure: str = ""
    default_seconds: Quantiles | None = None
    shadow_seconds: Quantiles | None = None


class ModelStatus(msgspec.Struct, frozen=True):
    """One model version: its state, how it runs, and its statistics.

    `state`: `loading`, `ready`, `idle` (it gave its memory back, and the next request loads it), `unloading`,
    `unavailable` (in the repository, not loaded) or `failed`. `reason` says why it failed or is idle or, for a ready
    version, why its reload failed or another is not the default. `is_default`: it answers requests that name no
    version. `config` is `config.toml` with its defaults. `golden_error` is None where the version was never compared
    with golden outputs. `is_required`: the service is not ready without this model. `memory_bytes`: by how much loading
    it made the engine larger, 0 while it is not loaded. What cannot be a version is listed as one that failed; its
    `version` may be empty.
    """

    name: str
    version: str
    state: str
    reason: str = ""
    manifest: dict[str, Any] = {}
    device: str = ""
    providers: tuple[str, ...] = ()
    max_batch_size: int = 0
    buckets: tuple[int, ...] = ()
    instances: int = 0
    threads: int = 0
    golden_error: float | None = None
    load_seconds: float = 0.0
    bucket_seconds: dict[str, float] = {}
    statistics: dict[str, float] = {}
    graph_statistics: dict[str, GraphStatistics] = {}
    config: dict[str, Any] = {}
    repository: str = ""
    is_required: bool = True
    batching: dict[str, GraphBatching] = {}
    is_default: bool = False
    shadows: tuple[ShadowReport, ...] = ()
    precision: ServedPrecision = UNVARIED
    memory_bytes: int = 0

    @property
    def is_usable(self) -> bool:
        """Whether requests to it are answered, now or once it is loaded again."""
        return self.state in ("ready", "idle")


class Description(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Every model version; sent on connecting and on each change (with id 0), and in answer to Describe."""

    id: int
    models: tuple[ModelStatus, ...]
    settled: bool


class Quantum(NamedTuple):
    """What one instance computed at one go, with its times on the monotonic clock.

    `kind` is `batch`, `prefill` or `decode`; `size` counts its rows, the prompt's tokens, or the texts. `reason` says
    why a batch left its queue.
    """

    model: str
    version: str
    instance: str
    kind: str
    size: int
    started_at: float
    ended_at: float
    reason: str = ""


class Traced(msgspec.Struct, array_like=True, frozen=True, tag=15):
    """What the device computed until `now` on the monotonic clock, as far as the engine remembers."""

    id: int
    now: float
    quanta: tuple[Quantum, ...]


Message = (
    Infer
    | Cancel
    | Describe
    | Control
    | Trace
    | Traced
    | Released
    | DescriptionAcknowledged
    | Result
    | Failure
    | Description
    | GenerateText
    | Sampled
    | Scored
    | Finished
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class FrameError(ValueError):
    """Bytes that are no frame, or a frame that is too large."""


def check_length(num_bytes: int) -> None:
    """Check that a frame is not too large.

    Raises: FrameError.
    """
    if num_bytes > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {num_bytes} bytes exceeds {MAX_FRAME_BYTES}.")


def frame(message: Message, *payload: Piece) -> bytes:
    """Encode one message and its tensors as one frame.

    Raises: FrameError where it would be too large.
    """
    return b"".join(pieces_of(message, payload))


def pieces_of(message: Message, payload: Sequence[Piece]) -> list[Piece]:
    """Encode one message and its tensors as one frame in pieces, which spares a copy of the tensors.

    Raises: FrameError where it would be too large.
    """
    header = _encoder.encode(message)
    payload_bytes = sum(map(len, payload))
    check_length(len(header) + payload_bytes)
    return [_LENGTHS.pack(len(header), payload_bytes) + header, *payload]


class FrameReader:
    """Splits a byte stream into messages."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[Message, memoryview]]:
        """Yield each message completed by `chunk`, with its payload.

        Raises: FrameError.
        """
        data: bytes | bytearray = chunk
        if self._rest:
            self._rest += chunk
            if len(self._rest) < _LENGTHS.size or len(self._rest) < _needed_bytes(self._rest):
                return
            data, self._rest = self._rest, bytearray()
        view = memoryview(data)
        start = 0
        while len(view) - start >= _LENGTHS.size:
            header_bytes, payload_bytes = _LENGTHS.unpack_from(view, start)
            check_length(header_bytes + payload_bytes)
            body = start + _LENGTHS.size
            end = body + header_bytes + payload_bytes
            if end > len(view):
                break
            yield _decode(view[body : body + header_bytes]), view[body + header_bytes : end]
            start = end
        self._rest += view[start:]


def _needed_bytes(data: bytearray) -> int:
    header_bytes, payload_bytes = _LENGTHS.unpack_from(data)
    return int(_LENGTHS.size + min(header_bytes + payload_bytes, MAX_FRAME_BYTES))


def _decode(header: memoryview) -> Message:
    try:
        return _decoder.decode(header)
    except msgspec.DecodeError as error:
        raise FrameError(f"a frame's header cannot be decoded: {error}.") from error
