from __future__ import annotations

from service.engine.batching.response_cache import ENTRY_BYTES, CachedAnswer, ResponseCache, key_of
from service.engine.transport.messages import InferTarget


def infer(graph: str = "model", num_rows: int = 1, outputs: tuple[str, ...] = ("y",)) -> tuple[InferTarget, int]:
    return InferTarget("m", "1", graph, outputs), num_rows


def answer(num_bytes: int) -> CachedAnswer:
    return CachedAnswer((("y", "|u1", (num_bytes,)),), (bytes(num_bytes),))


def test_the_same_input_finds_its_answer_for_the_same_caller() -> None:
    cache = ResponseCache(10_000)
    cache.put(key_of(*infer(), b"abc", "alice"), answer(3))

    assert cache.get(key_of(*infer(), memoryview(b"abc"), "alice")) == answer(3)
    assert cache.get(key_of(*infer(), b"abc", "bob")) is None


def test_any_other_request_finds_nothing() -> None:
    cache = ResponseCache(10_000)
    cache.put(key_of(*infer(), b"abcd"), answer(3))

    others = [
        (infer(), b"abce"),
        (infer(graph="other"), b"abcd"),
        (infer(num_rows=2), b"abcd"),
        (infer(outputs=("y", "z")), b"abcd"),
    ]
    assert [cache.get(key_of(*request, payload)) for request, payload in others] == [None] * 4


def test_the_least_recently_used_answers_go_first() -> None:
    cache = ResponseCache(2 * (ENTRY_BYTES + 100))
    first, second, third = (key_of(*infer(), bytes([i])) for i in range(3))
    cache.put(first, answer(100))
    cache.put(second, answer(100))
    assert cache.get(first) is not None

    cache.put(third, answer(100))

    assert cache.get(second) is None
    assert cache.get(first) is not None
    assert cache.num_bytes == 2 * (ENTRY_BYTES + 100)


def test_an_answer_that_is_put_again_counts_once() -> None:
    cache = ResponseCache(10_000)
    for _ in range(3):
        cache.put(key_of(*infer(), b"x"), answer(10))

    assert cache.num_bytes == ENTRY_BYTES + 10


def test_an_answer_larger_than_the_cache_drives_nothing_out() -> None:
    cache = ResponseCache(1000)
    small = key_of(*infer(), b"small")
    cache.put(small, answer(10))

    cache.put(key_of(*infer(), b"large"), answer(1000))

    assert cache.get(small) is not None
