"""Generates `open_inference_pb2.py` and its stub from `open_inference.proto`: `make proto`.

It needs grpcio-tools and is never imported by the service.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
SOURCE = HERE / "open_inference.proto"
_HEADER = f"# Generated from {SOURCE.name} by `make proto`: do not edit.\n"
_DEFAULT_POOL = (
    "from google.protobuf import descriptor_pool as _descriptor_pool\n",
    "_descriptor_pool.Default().AddSerializedFile",
)
_OWN_POOL = ("from service.protocols.open_inference.grpc import POOL\n", "POOL.AddSerializedFile")


def generate(folder: Path) -> list[Path]:
    """Write the modules under a folder, each at its place in the package; return their paths.

    Raises: RuntimeError if the compiler refuses the source or its output is not as expected.
    """
    include = str(files("grpc_tools") / "_proto")
    options = [f"-I{ROOT}", f"-I{include}", f"--python_out={folder}", f"--pyi_out={folder}", str(SOURCE)]
    if protoc.main(["protoc", *options]) != 0:
        raise RuntimeError(f"{SOURCE.name} cannot be compiled; see above.")
    module = folder / SOURCE.relative_to(ROOT).with_name("open_inference_pb2.py")
    text = _HEADER + module.read_text()
    for theirs, ours in zip(_DEFAULT_POOL, _OWN_POOL, strict=True):
        if text.count(theirs) != 1:
            raise RuntimeError(f"The generated module has {theirs!r} {text.count(theirs)} times; once is expected.")
        text = text.replace(theirs, ours)
    stub = module.with_suffix(".pyi")
    module.write_text(text)
    stub.write_text(_HEADER + stub.read_text())
    return [module, stub]


if __name__ == "__main__":
    for path in generate(ROOT):
        sys.stderr.write(f"{path}\n")
