"""What a tree of processes uses, read from /proc (Linux): CPU seconds, resident and proportional memory.

It knows only process ids. Source: proc(5).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEBI = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a tree; `pss_mib` shares common pages out, `rss_mib` counts them once a process."""

    rss_mib: float
    pss_mib: float


def _stat_fields(pid: int) -> list[str]:
    # The command name may hold spaces and brackets, so the fields are counted from the last bracket.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """The process `root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat_fields(int(entry.name))[1]), []).append(int(entry.name))
            except (OSError, IndexError):
                continue
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, ()))
    return tree


def find_process(root: int, module: str) -> int:
    """The process of the tree whose command line names this module, in any package.

    Raises: LookupError.
    """
    for pid in process_tree(root):
        try:
            arguments = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(argument.rpartition(b".")[2] == module.encode() for argument in arguments):
            return pid
    raise LookupError(f"no process below {root} runs a module called {module!r}.")


def peak_bytes(pid: int) -> int:
    """The most resident memory that one process has had so far (VmHWM).

    Raises: OSError.
    """
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended: it has no memory.")


def resident_bytes(pid: int) -> int:
    """The resident memory of one process now.

    Raises: OSError.
    """
    return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES


def resident_by_program(root: int) -> dict[str, int]:
    """The resident bytes of the tree's processes, summed over those that run the same module."""
    sizes: dict[str, int] = {}
    for pid in process_tree(root):
        with contextlib.suppress(OSError):
            name, size = program(pid), resident_bytes(pid)
            sizes[name] = sizes.get(name, 0) + size
    return sizes


def cpu_seconds(root: int) -> float:
    """User and system time that the living processes of the tree have used so far."""
    return sum(cpu_seconds_by_program(root).values())


def spent_cpu_seconds(root: int) -> float:
    """The same with what their children had used that have ended since and were awaited."""
    spent = 0
    for pid in process_tree(root):
        with contextlib.suppress(OSError, IndexError):
            spent += sum(int(ticks) for ticks in _stat_fields(pid)[11:15])
    return spent / _TICKS_PER_SECOND


def cpu_seconds_by_program(root: int) -> dict[str, float]:
    """User and system time of the tree's living processes so far, summed over those that run the same module."""
    seconds: dict[str, float] = {}
    for pid in process_tree(root):
        try:
            fields, name = _stat_fields(pid), program(pid)
        except OSError:
            continue
        seconds[name] = seconds.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return seconds


def program(pid: int) -> str:
    """The last name of the module that a process runs; that of its program where it runs none.

    Raises: OSError.
    """
    words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else Path(words[0]).name
    return module.rpartition(".")[2]


def run_on(pid: int, cores: Iterable[int]) -> None:
    """Keep every thread of a process, and those that it starts later, on these cores.

    Raises: OSError.
    """
    wanted = set(cores)
    for thread in (_PROC / str(pid) / "task").iterdir():
        os.sched_setaffinity(int(thread.name), wanted)


def start_ticks(pid: int) -> int | None:
    """When the process started, in ticks since boot; a later process with the same id started later."""
    try:
        return int(_stat_fields(pid)[19])
    except (OSError, IndexError):
        return None


def memory(root: int) -> Memory:
    """The memory of the tree now."""
    rss_kib = pss_kib = 0
    for pid in process_tree(root):
        try:
            lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:] if line.endswith("kB")}
        rss_kib += sizes.get("Rss", 0)
        pss_kib += sizes.get("Pss", 0)
    return Memory(rss_kib * 1024 / _MEBI, pss_kib * 1024 / _MEBI)
