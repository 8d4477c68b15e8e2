"""The commands that run other engines of a language model. It knows their scripts, not what is measured."""

from __future__ import annotations

import sys
from pathlib import Path


def peer_commands(peers_python: str | None, source: Path | None, scratch: Path, threads: int) -> dict[str, list[str]]:
    """The commands of the peers by name; an empty command is a peer for which an option is missing."""
    flags = ["--source", str(source), "--scratch", str(scratch), "--threads", str(threads)]
    modules = {
        "onnxruntime-genai": "loadtests.language_peers.genai",
        "transformers": "loadtests.language_peers.transformers_batch",
        "llama.cpp": "loadtests.language_peers.llama_cpp_batch",
    }
    commands = {"plain PyTorch": [sys.executable, "-m", "training.language.plain_decoding", *flags] if source else []}
    for name, module in modules.items():
        commands[name] = [peers_python, "-m", module, *flags] if peers_python and source else []
    return commands
