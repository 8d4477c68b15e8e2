"""The memory of batches whose rows vary in size: one arena for all their sessions, emptied when it has grown.

ONNX Runtime's arenas never shrink of themselves: rows of many sizes would leave each session as large as the worst
mixture that it ever met. Emptying costs time, as the system hands out zeroed pages anew, so it is done only at need.
https://onnxruntime.ai/docs/get-started/with-c.html (memory.enable_memory_arena_shrinkage, use_env_allocators)
"""

from __future__ import annotations

import functools

import onnxruntime as ort

from service.telemetry.metrics import resident_bytes

# What the process may keep between batches, beside what it had before the first such session.
KEPT_BYTES = 1024 * 2**20


@functools.cache
def _make_shared_arena() -> int:
    """Make the arena, once; return the resident bytes of the process before."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Regions that double: such as are asked for exactly leave gaps between sizes.
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 0}))
    return resident_bytes()


def use_shared_arena(options: ort.SessionOptions) -> None:
    """Let a session take its memory from the arena that all such sessions of the process share."""
    _make_shared_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    # A plan of the memory would be kept for every shape that was ever seen.
    options.enable_mem_pattern = False


class ArenaGuard:
    """Says which runs give the arena's free memory back: those that begin when the process has grown too much."""

    def __init__(self) -> None:
        self._most_bytes = _make_shared_arena() + KEPT_BYTES
        self._keeping = ort.RunOptions()
        self._emptying = ort.RunOptions()
        self._emptying.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run_options(self) -> ort.RunOptions:
        """The options of a run that begins now."""
        return self._emptying if resident_bytes() > self._most_bytes else self._keeping
