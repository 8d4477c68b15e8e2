"""Finds what a Hugging Face folder or repository holds, and brings a repository's files to this machine.

It owns which files are taken: never a pickle. What the files mean is `llama.py`'s and, for ONNX, `onnx_graphs.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from models.chat_template import CHAT_TEMPLATE_FILE
from models.importing.bert import MODEL_TYPES as ENCODER_TYPES
from models.importing.llama_config import CONFIG_FILE, MODEL_TYPES, read_json
from models.importing.sources import REPOSITORY_ID, ImportRefused
from models.manifest import Source

# Where `optimum-cli export onnx` and the repositories on the hub keep the graph.
_USUAL_GRAPHS = ("model.onnx", "onnx/model.onnx")
_SMALL_FILES = (
    CONFIG_FILE,
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    CHAT_TEMPLATE_FILE,
    "README.md",
)
_LICENSE = re.compile(r"^license:[ \t]*['\"]?([^\s'\"#]+)", re.MULTILINE)
_FRONT_MATTER = re.compile(r"---\r?\n(.*?)\r?\n---", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HuggingFaceFiles:
    """A folder in Hugging Face's layout; `file` is the ONNX or GGUF file to import, None for *.safetensors."""

    folder: Path
    file: Path | None
    source: Source


def find_files(source: str, file: str = "") -> HuggingFaceFiles:
    """Find what to import in a folder, or download it of a repository `owner/name[@revision]`.

    `file` names one of several ONNX or GGUF files.

    Raises: ImportRefused.
    """
    path = Path(source)
    if path.is_dir():
        chosen = _choose(_names(path), read_json(path / CONFIG_FILE), file, source)
        return HuggingFaceFiles(path, path / chosen if chosen else None, _described(path, path.resolve().name))
    match = REPOSITORY_ID.fullmatch(source)
    if match is None:
        raise ImportRefused(f"{source!r} is no folder, and no repository such as 'owner/name' or 'owner/name@main'.")
    return _download(match["id"], match["revision"], file)


def _choose(names: Sequence[str], config: dict[str, Any], file: str, source: str) -> str | None:
    """The ONNX or GGUF file to import; None for the *.safetensors of a language model or an encoder of texts.

    Raises: ImportRefused where there is nothing to import, or a choice to make.
    """
    graphs, ggufs = (sorted(name for name in names if name.endswith(suffix)) for suffix in (".onnx", ".gguf"))
    if file:
        if file not in (*graphs, *ggufs):
            raise ImportRefused(f"{source!r} has no {file!r}; its ONNX and GGUF files are {[*graphs, *ggufs]}.")
        return file
    has_weights = any(name.endswith(".safetensors") and "/" not in name for name in names)
    is_known = config.get("model_type") in (*MODEL_TYPES, *ENCODER_TYPES)
    if is_known and (has_weights or not (graphs or ggufs)):
        return None
    kind, graphs = ("ONNX", graphs) if graphs else ("GGUF", ggufs)
    if usual := [name for name in _USUAL_GRAPHS if name in graphs]:
        return usual[0]
    if len(graphs) == 1:
        return graphs[0]
    if graphs:
        raise ImportRefused(f"{source!r} has {len(graphs)} {kind} files; name one with --file: {', '.join(graphs)}.")
    raise ImportRefused(
        f"{source!r} has no ONNX or GGUF file, and its model type is {config.get('model_type')!r}. Export it with "
        f"`optimum-cli export onnx --model {source} FOLDER`, and import FOLDER. Without an export, language models of "
        f"the types {', '.join(MODEL_TYPES)} and encoders ({', '.join(ENCODER_TYPES)}) are imported from their "
        "config.json and *.safetensors."
    )


def _download(repository: str, revision: str | None, file: str) -> HuggingFaceFiles:
    """Download the files that an import needs, into the cache of huggingface_hub.

    Raises: ImportRefused.
    """
    with _translated(repository, revision):
        names = _listing(repository, revision)
        folder = _fetch(repository, revision, [CONFIG_FILE])
        chosen = _choose(names, read_json(folder / CONFIG_FILE), file, repository)
        folder = _fetch(repository, revision, [name for name in names if _is_needed(name, chosen)])
    # The cache names a snapshot after its commit.
    source = _described(folder, repository, folder.name if _COMMIT.fullmatch(folder.name) else None)
    return HuggingFaceFiles(folder, folder / chosen if chosen else None, source)


def _is_needed(name: str, chosen: str | None) -> bool:
    if name in _SMALL_FILES:
        return True
    if chosen is None:
        return "/" not in name and name.endswith((".safetensors", ".safetensors.index.json"))
    # Weights of a graph may lie beside it: model.onnx_data, model.onnx.data, model.onnx_data_1.
    return PurePosixPath(name).parent == PurePosixPath(chosen).parent and name.startswith(chosen)


def _listing(repository: str, revision: str | None) -> list[str]:
    """The names of a repository's files; those in the cache where the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(repository, revision=revision)
    except HfHubHTTPError:
        raise  # the hub answered
    except Exception:  # what its HTTP client raises, which changed from version to version
        folder = _fetch(repository, revision, [CONFIG_FILE], is_cached=True)
        return _names(folder)
    return [each.rfilename for each in info.siblings or ()]


def _names(folder: Path) -> list[str]:
    return [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]


def _fetch(repository: str, revision: str | None, names: list[str], *, is_cached: bool = False) -> Path:
    """Download named files with a progress bar, or find them in the cache."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, revision=revision, allow_patterns=names, local_files_only=is_cached))


@contextmanager
def _translated(repository: str, revision: str | None) -> Iterator[None]:
    """Raises: ImportRefused for what huggingface_hub raises."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportRefused("A repository is downloaded by huggingface_hub: install hotplate[import].") from error
    try:
        yield
    except errors.GatedRepoError as error:
        raise ImportRefused(
            f"{repository!r} is gated: accept its terms on its page, then log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ImportRefused(f"There is no repository {repository!r}, or it is private: `hf auth login`.") from error
    except errors.RevisionNotFoundError as error:
        raise ImportRefused(f"{repository!r} has no branch, tag or commit {revision!r}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise ImportRefused(
            f"{repository!r} cannot be downloaded, for the hub cannot be reached, and it is not in the cache. Download "
            f"it where there is a network (`hf download {repository} --local-dir FOLDER`), and import FOLDER."
        ) from error
    except (errors.HFValidationError, errors.HfHubHTTPError, OSError) as error:
        raise ImportRefused(f"{repository!r} cannot be downloaded: {str(error).splitlines()[0]}") from error


def _described(folder: Path, origin: str, commit: str | None = None) -> Source:
    """What the model card says of a folder's licence."""
    try:
        matter = _FRONT_MATTER.match((folder / "README.md").read_text("utf-8", "replace"))
    except OSError:
        matter = None
    found = _LICENSE.search(matter[1]) if matter else None
    return Source(origin=origin, commit=commit, license=found[1] if found else None)
