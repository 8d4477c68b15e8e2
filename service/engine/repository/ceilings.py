"""What a model may ask for on this machine: what it takes is bounded before anything is loaded.

A request to load a model, or a file beside it, must not take the threads and the memory that all models share.
"""

from __future__ import annotations

from math import prod

from models.config import CONFIG_FILE, ModelConfig
from models.manifest import Batching, Graph, Language
from models.strict import StrictError
from service.engine.repository.version_files import VersionRejected
from service.engine.runtime.runtime import available_cpus, available_memory_bytes

_MIN_THREADS = 64
_THREADS_PER_CPU = 16
_MAX_ROWS = 2**20
# Of the memory that the service may use.
_MAX_SHARE = 1 / 4


def _max_bytes() -> int:
    return int(available_memory_bytes() * _MAX_SHARE)


def check_config(config: ModelConfig) -> None:
    """Check what a model's configuration asks for.

    Raises: StrictError, naming the ceiling.
    """
    max_threads = max(_MIN_THREADS, _THREADS_PER_CPU * available_cpus())
    num_threads = (config.instances or 1) * (config.threads or 1)
    asked = {
        "instances times threads": (num_threads, max_threads, f"{_THREADS_PER_CPU} for each CPU"),
        "cache_bytes": (config.cache_bytes, _max_bytes(), "a quarter of the memory"),
        "max_batch_size": (config.max_batch_size, _MAX_ROWS, "for any model"),
        "max_queue_rows": (config.max_queue_rows or 0, _MAX_ROWS, "for any model"),
    }
    for name, (value, most, why) in asked.items():
        if value > most:
            raise StrictError(f"{CONFIG_FILE}: {name} is {value}; here it must be at most {most}, {why}.")


def check_batches(name: str, graph: Graph, batching: Batching, num_instances: int) -> None:
    """Check what the batches of a graph take: one for each instance, and one that is filled.

    Raises: VersionRejected, naming the ceiling.
    """
    if not graph.is_batched:
        return
    row_bytes = sum(prod(max(size, 1) for size in spec.row_shape) * spec.dtype.itemsize for spec in graph.inputs)
    num_bytes, most = row_bytes * batching.max_batch_size * (num_instances + 1), _max_bytes()
    if num_bytes > most:
        raise VersionRejected(
            f"batches of {batching.max_batch_size} rows of {name!r} for {num_instances} instances would take "
            f"{num_bytes} bytes; at most {most} are allowed, a quarter of the memory. "
            f"Lower max_batch_size or instances in {CONFIG_FILE}."
        )


def fitting_slots(language: Language, most: int) -> int:
    """How many texts a language model may continue at once: `most`, or as many as have states in half of the memory.

    Raises: VersionRejected where not one has.
    """
    slot_bytes = sum(prod(state.shape) * state.dtype.itemsize for state in language.states)
    num_bytes = 2 * _max_bytes()
    if slot_bytes > num_bytes:
        raise VersionRejected(
            f"the states of one text of {language.context} tokens would take {slot_bytes} bytes; at most {num_bytes} "
            "are allowed, half of the memory. Import it anew with a shorter --context."
        )
    return min(most, num_bytes // slot_bytes)
