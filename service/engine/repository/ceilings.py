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


def check_slots(language: Language, num_slots: int) -> None:
    """Check what the states of all texts take that a language model continues at once.

    Raises: VersionRejected, naming the ceiling.
    """
    slot_bytes = sum(prod(state.shape) * state.dtype.itemsize for state in language.states)
    num_bytes, most = slot_bytes * num_slots, 2 * _max_bytes()
    if num_bytes > most:
        raise VersionRejected(
            f"the states of {num_slots} texts would take {num_bytes} bytes; at most {most} are allowed, half of the "
            f"memory. Lower --max-sequences to {max(most // slot_bytes, 1)} or less."
        )
