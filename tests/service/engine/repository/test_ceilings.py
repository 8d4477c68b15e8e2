"""What a load asks for is bounded by the machine, and the refusal names the bound."""

from __future__ import annotations

import pytest

from models.config import build_config
from models.manifest import Batching, Language, StateSpec, TensorSpec
from models.strict import StrictError
from service.engine.repository.ceilings import check_batches, check_config, fitting_slots
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import available_cpus, available_memory_bytes
from tests.service.protocols.open_inference.manifests import graph_of

MEMORY = available_memory_bytes()
THREADS = max(64, 16 * available_cpus())


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (
            {"instances": 1024, "threads": 1024},
            f"instances times threads is {2**20}; here it must be at most {THREADS}",
        ),
        ({"instances": THREADS + 1}, "instances times threads"),
        ({"threads": THREADS + 1}, "instances times threads"),
        ({"cache_bytes": MEMORY}, f"cache_bytes is {MEMORY}"),
        ({"max_batch_size": 2**30}, "max_batch_size"),
        ({"max_queue_rows": 2**40}, "max_queue_rows"),
    ],
)
def test_a_configuration_beyond_a_ceiling_is_refused(asked: dict[str, int], named: str) -> None:
    with pytest.raises(StrictError, match=named):
        check_config(build_config(asked))


def test_a_usual_configuration_is_not() -> None:
    check_config(build_config({}))
    check_config(build_config({"instances": 8, "threads": 8, "cache_bytes": 2**20, "max_batch_size": 256}))


def test_batches_that_would_take_the_memory_are_refused() -> None:
    graph = graph_of((TensorSpec(name="x", datatype="FP32", shape=(-1, 1024, 1024)),))
    rows = MEMORY // (4 * 2**20)

    check_batches("model", graph, Batching(max_batch_size=8, buckets=(8,)), 2)
    with pytest.raises(VersionRejected, match=r"Lower max_batch_size or instances in config\.toml"):
        check_batches("model", graph, Batching(max_batch_size=rows, buckets=(rows,)), 2)


def test_slots_are_as_many_as_have_room_in_half_of_the_memory() -> None:
    state = StateSpec(name="k", datatype="FP32", shape=(16, 1024, 64), length_axis=1)
    language = Language(context=1024, vocab_size=300, bos_token=0, eos_token=0, states=(state,))
    slot_bytes = 16 * 1024 * 64 * 4

    assert fitting_slots(language, 32) == 32
    assert fitting_slots(language, 10**9) == MEMORY // 2 // slot_bytes


def test_a_text_that_would_take_the_memory_is_refused() -> None:
    state = StateSpec(name="k", datatype="FP32", shape=(MEMORY // 8, 2), length_axis=1)
    language = Language(context=1024, vocab_size=300, bos_token=0, eos_token=0, states=(state,))

    with pytest.raises(VersionRejected, match="shorter --context"):
        fitting_slots(language, 32)
