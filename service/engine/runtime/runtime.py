"""ONNX Runtime: devices, the CPUs that may be used, sessions and their memory.

It knows graphs, neither arrays nor batches. Options of CUDA:
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnxruntime as ort

from models.manifest import ONNX_DATATYPES, Graph, TensorSpec
from service.errors import InferenceFailed, StartupError
from service.telemetry.metrics import resident_bytes

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
EXIT_DEVICE_LOST = 70
_CGROUP = Path("/sys/fs/cgroup")
# What the process may keep between batches of varying rows, beside what it had before the first such session.
KEPT_BYTES = 1024 * 2**20


@dataclass(frozen=True, slots=True)
class Device:
    """The device that graphs run on: the CPU, or a CUDA device by its index."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"cuda:{self.index}"

    @property
    def is_cuda(self) -> bool:
        """Whether this is a CUDA device."""
        return self.kind == "cuda"


def choose_device(setting: str) -> Device:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:N` to a device that this installation can drive.

    Raises: StartupError where CUDA is requested and not available.
    """
    if setting == "cpu":
        return Device("cpu")
    has_cuda = CUDA in ort.get_available_providers()
    if setting == "auto":
        return Device("cuda") if has_cuda and os.path.exists("/dev/nvidiactl") else Device("cpu")
    if not has_cuda:
        raise StartupError(
            f"--device {setting} was requested, but this ONNX Runtime has {', '.join(ort.get_available_providers())}. "
            "Install the extra 'gpu' instead of 'cpu', or choose --device cpu."
        )
    return Device("cuda", int(setting.partition(":")[2] or 0))


def claim_device(devices: Sequence[str], number: int) -> Device:
    """Take one of the devices of several engines for this process: a GPU alone, or its share of the cores.

    CPU engines divide neighbouring cores among them, which on a machine of several sockets keeps each to its own. Call
    it before anything has started threads.

    Raises: StartupError where this installation cannot drive the device, or there are too few cores.
    """
    name, num_cpu_engines = devices[number], devices.count("cpu")
    if name.startswith(("GPU-", "MIG-")):
        os.environ["CUDA_VISIBLE_DEVICES"] = name  # CUDA sees one slice of a GPU in a process at most
        name = "cuda"
    elif name == "cpu" and num_cpu_engines > 1:
        if num_cpu_engines > (num_cores := available_cpus()):
            raise StartupError(f"--device names the CPU {num_cpu_engines} times, and there are {num_cores} cores.")
        place = devices[:number].count("cpu")
        first, end = (num_cores * each // num_cpu_engines for each in (place, place + 1))
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[first:end])
    return choose_device(name)


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """A file of initializers, under the name by which the graphs refer to it."""

    file: str
    content: bytes


def is_ort_format(content: bytes | Path) -> bool:
    """Whether a file is in ONNX Runtime's own format, by its first bytes, whatever it is called."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            content = file.read(8)
    return content[4:8] == b"ORTM"


def open_session(
    content: bytes | Path,
    device: Device,
    num_threads: int,
    weights: Sequence[SharedWeights] = (),
    *,
    is_prepacked: bool = True,
    spins: bool = False,
    varies: bool = False,
) -> ort.InferenceSession:
    """Create a session from the bytes of a file in ONNX or in ONNX Runtime's format and its weights, or from a path.

    From a path, ONNX Runtime reads the weights itself, and refuses those outside the file's folder.

    `is_prepacked`: packing the weights for speed doubles their memory, so a graph that is seldom used does without.
    `spins`: threads wait for each other within a run without sleeping, which pays where operators take microseconds;
    they stop at the end of the run, so an idle engine is idle. `varies`: rows vary in size.

    Raises: InferenceFailed where the file does not load; StartupError where CUDA was requested and is not used.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1" if spins else "0")
    if not device.is_cuda:
        use_shared_arena(options, varies=varies)
    if not is_prepacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if device.is_cuda:
        ort.preload_dlls()
    try:
        # By the content: ONNX Runtime itself would go by the file's name.
        options.add_session_config_entry("session.load_model_format", "ORT" if is_ort_format(content) else "ONNX")
        if weights:
            contents = [each.content for each in weights]
            sizes = [len(content) for content in contents]
            options.add_external_initializers_from_files_in_memory([each.file for each in weights], contents, sizes)
        source = str(content) if isinstance(content, Path) else content
        session = ort.InferenceSession(source, options, providers=_providers(device, varies))
    except Exception as error:
        raise InferenceFailed(f"ONNX Runtime cannot load the graph{_advice(str(error))}.") from error
    if device.is_cuda and session.get_providers()[0] != CUDA:
        raise StartupError(
            f"{device} was requested, but the session runs on {session.get_providers()[0]}: "
            "the driver, CUDA 13 or cuDNN 9 do not fit this onnxruntime-gpu."
        )
    return session


_NO_OPERATOR = "it has an operator that ONNX Runtime does not have: export it without custom operators"
# What a message of ONNX Runtime says about the graph, and what to do; names in the message complete the advice.
_ADVICE = (
    (
        "ValidateOpsetForDomain",
        "its opset is newer than this version of ONNX Runtime knows: export it with an older one, or update ONNX "
        "Runtime",
    ),
    (
        "Unsupported model IR version",
        "its format is newer than this version of ONNX Runtime knows: save it with an older ir_version, or update "
        "ONNX Runtime",
    ),
    (
        'External data path does not exist: "(?P<file>[^"]*)"',
        "its external data {file} is missing: it must lie in the model's folder, under the name that it was saved with",
    ),
    ("External data path", "its external data must be files in its own folder"),
    (
        "External initializer: .* are out of bounds",
        "its external data is cut short, or belongs to another export: copy it again",
    ),
    ("No Op registered for|is not a registered function/op|No opset import for domain", _NO_OPERATOR),
    ("ORT model verification failed", "the file is damaged, or cut short: copy it again"),
    (
        "ORT format model version",
        "this version of ONNX Runtime does not read its version of the ORT format: convert it again from ONNX",
    ),
    ("No graph was found|Protobuf parsing failed", "it is no ONNX file, or a damaged one"),
    ("NOT_IMPLEMENTED", "it has an operator or a datatype that ONNX Runtime does not compute on this device"),
    ("bad_alloc|Failed to allocate memory", "there is not enough memory for it"),
)


def _advice(reason: str) -> str:
    for sign, advice in _ADVICE:
        if found := re.search(sign, reason):
            names = {name: repr(Path(value).name) for name, value in found.groupdict().items()}
            return f"; {advice.format(**names)}"
    return ""


def _providers(device: Device, varies: bool) -> list[Any]:
    if not device.is_cuda:
        return [CPU]
    # Measured on an H100: NHWC makes ResNet-50 a fifth faster, and style transfer, where shapes vary, half as fast.
    options = {
        "device_id": str(device.index),
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": "0" if varies else "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(CUDA, options), CPU]


def signature_mismatch(graph: Graph, session: ort.InferenceSession) -> str | None:
    """Where the manifest and the graph disagree in names, datatypes or fixed sizes; None where they agree."""
    sides = (("input", graph.inputs, session.get_inputs()), ("output", graph.outputs, session.get_outputs()))
    for side, specs, nodes in sides:
        actual = {node.name: node for node in nodes}
        if side == "input" and set(actual) != {spec.name for spec in specs}:
            return f"the graph's inputs are {sorted(actual)}, not {sorted(spec.name for spec in specs)}."
        for spec in specs:
            if spec.name not in actual:
                return f"the graph has no {side} {spec.name!r}; it has {sorted(actual)}."
            if ONNX_DATATYPES.get(actual[spec.name].type) != spec.datatype:
                return f"{side} {spec.name!r} is {actual[spec.name].type} in the graph, not {spec.datatype}."
            if side == "input" and not _shapes_agree(spec, actual[spec.name].shape):
                return f"input {spec.name!r} has the shape {actual[spec.name].shape} in the graph, not {spec.shape}."
    return None


def _shapes_agree(spec: TensorSpec, shape: Sequence[int | str | None]) -> bool:
    return len(spec.shape) == len(shape) and all(
        not isinstance(size, int) or size == stated for stated, size in zip(spec.shape, shape, strict=True)
    )


def bucket_for(num_rows: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `num_rows`; buckets ascend, and the last one holds any batch."""
    return next(bucket for bucket in buckets if bucket >= num_rows)


# --- the arena of the sessions on a CPU ---
# What graphs compute between input and output is in one arena for all models: only a few compute at once, and an arena
# for each would stay as large as its largest batch. ONNX Runtime's arenas never shrink by themselves; this one is
# emptied when a model was loaded or gave its memory back, and, as rows of many sizes leave gaps in it, where such rows
# are computed and the process has grown too much. Emptying costs time, as the system hands out zeroed pages anew.
# https://onnxruntime.ai/docs/get-started/with-c.html (memory.enable_memory_arena_shrinkage, use_env_allocators)

# A graph without inputs that gives a zero: the arena is emptied at the end of a run.
_ZERO = bytes.fromhex(
    "08083a360a241201792208436f6e7374616e742a150a0b76616c75655f666c6f61741500000000a00101120167620b0a017912060a0408011200"
    "42040a00100d"
)


@functools.cache
def _make_shared_arena() -> None:
    """Create the arena, once."""
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Regions double in size: regions of exactly the requested sizes leave gaps.
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 0}))


@functools.cache
def _bytes_before_varying() -> int:
    """What the process took before its first session of rows that vary in size."""
    return resident_bytes()


def use_shared_arena(options: ort.SessionOptions, *, varies: bool = False) -> None:
    """Let a session compute in the shared arena; its weights are outside, and free where it is closed."""
    _make_shared_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if varies:
        _bytes_before_varying()
        # ONNX Runtime would keep a memory plan for every shape that it has seen.
        options.enable_mem_pattern = False


def _shrinking() -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@functools.cache
def _zero() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    use_shared_arena(options)
    return ort.InferenceSession(_ZERO, options, providers=[CPU])


class ArenaGuard:
    """Lets runs return the arena's free memory to the system when the process has grown too much."""

    def __init__(self) -> None:
        self._max_bytes = _bytes_before_varying() + KEPT_BYTES
        self._keep, self._shrink = ort.RunOptions(), _shrinking()

    def run_options(self) -> ort.RunOptions:
        """The options of the next run."""
        return self._shrink if resident_bytes() > self._max_bytes else self._keep


# --- CPUs ---


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """How many CPUs this process may use: the smaller of its affinity mask and its cgroup's quota, rounded up."""
    cpus = len(os.sched_getaffinity(0))
    quota = _quota_cpus(cgroup)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _quota_cpus(cgroup: Path) -> float | None:
    # cgroup v2 first, then v1: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


# --- memory ---


def available_memory_bytes(cgroup: Path = _CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """How much memory this process may use: the machine's, or less where its cgroup or one above it has a limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _memory_cgroups(cgroup, own):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # not this version of cgroups, or "max"
                limits.append(int((folder / name).read_text()))
    return min(limits)


def _memory_cgroups(cgroup: Path, own: Path) -> Iterator[Path]:
    """Where the limits of this process's memory may be: in a container its cgroup is the root, elsewhere below it."""
    yield from (cgroup, cgroup / "memory")
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):  # version 2 or 1
                inner = PurePosixPath(path.strip("/"))
                yield from (cgroup / controllers / each for each in (inner, *inner.parents))


def free_memory() -> None:
    """Collect the reference cycles that hold sessions, and return free memory to the system."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Return free memory to the system, and what is free in the shared arena."""
    _zero().run(None, {}, _shrinking())
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # a C library without malloc_trim frees memory by itself
        return
