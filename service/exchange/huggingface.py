"""A Hugging Face repository as a place for versions: the files of one version beside a model card.

A branch, a tag or a commit is a revision. The card is made from the manifest, unless the version has a README.md.
What arrives is checked against the SHA-256 or the Git hash that the hub states for each file, which its library
does not do.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.tqdm import disable_progress_bars
from rich.progress import Progress

from models.manifest import MANIFEST_FILE, Evaluation, Graph, Manifest
from models.strict import FILE_NAME
from service import __version__
from service.exchange.version import (
    GRAPH_FILES,
    ExchangeFailed,
    Received,
    Refused,
    Version,
    manifest_in,
    named_files,
    require_space,
    sha256_of,
)

CARD_FILE = "README.md"
PIPELINES = {
    "image-classification": "image-classification",
    "text-generation": "text-generation",
    "style-transfer": "image-to-image",
    "image-generation": "unconditional-image-generation",
}
# What its HTTP library raises where nothing answers; which library that is depends on the version.
_TransportError: type[Exception] = HfHubHTTPError.__mro__[1]
_ADDRESS = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Hub:
    """A revision of a repository of the hub that HF_ENDPOINT names, or of huggingface.co."""

    repository: str
    revision: str | None
    is_private: bool

    @classmethod
    def parse(cls, address: str, *, is_private: bool) -> Hub:
        """Parse `organisation/name@revision`; without a revision it is the branch `main`.

        Raises: ValueError.
        """
        if (match := _ADDRESS.fullmatch(address)) is None:
            raise ValueError(f"'hf://{address}' is no address; use hf://organisation/name or ...name@revision.")
        return cls(match["repository"], match["revision"], is_private)

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")

    def push(self, version: Version, license_id: str, progress: Progress) -> str:
        """Send a version as one commit, and return the address of that.

        Raises: ExchangeFailed.
        """
        operations = [CommitOperationAdd(file.name, str(file)) for file in version.files]
        if CARD_FILE not in (file.name for file in version.files):
            card = model_card(version, self.repository, license_id).encode()
            operations.append(CommitOperationAdd(CARD_FILE, card))
        with self._translated(progress):
            api = _api()
            api.create_repo(self.repository, private=self.is_private or None, exist_ok=True)
            if self.revision is not None:
                api.create_branch(self.repository, branch=self.revision, exist_ok=True)
            message = f"{version.name} version {version.version}"
            done = api.create_commit(self.repository, operations, commit_message=message, revision=self.revision)
        return f"hf://{self.repository}@{done.oid}"

    def pull(self, folder: Path, progress: Progress) -> Received:
        """Fetch the files of the version that the repository holds, each of which must have the hash that it states.

        Raises: Refused for what is not as it says; ExchangeFailed.
        """
        with self._translated(progress):
            api = _api()
            info = api.model_info(self.repository, revision=self.revision, files_metadata=True)
            stated = {file.rfilename: file for file in info.siblings or () if FILE_NAME.fullmatch(file.rfilename)}
            if MANIFEST_FILE in stated:
                self._fetch(api, str(info.sha), {MANIFEST_FILE: stated[MANIFEST_FILE]}, folder)
            self._fetch(api, str(info.sha), _wanted(folder, stated), folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes on what it fetched
        return Received(re.sub(r"[^a-z0-9._-]", "-", self.repository.rpartition("/")[2].lower()))

    def _fetch(self, api: HfApi, commit: str, files: dict[str, Any], folder: Path) -> None:
        """Fetch and check files of one commit."""
        require_space(folder, sum(file.size or 0 for file in files.values()))
        api.snapshot_download(self.repository, revision=commit, allow_patterns=list(files), local_dir=folder)
        for name, file in files.items():
            if (folder / name).is_symlink() or not (folder / name).is_file():
                raise Refused(f"{name} did not arrive.")
            wanted = f"sha256:{file.lfs.sha256}" if file.lfs else f"git:{file.blob_id}"
            digest = f"sha256:{sha256_of(folder / name)}" if file.lfs else f"git:{_git_hash(folder / name)}"
            if digest != wanted:
                raise Refused(f"{name} has the digest {digest}, not {wanted}: it was changed or damaged.")

    @contextmanager
    def _translated(self, progress: Progress) -> Iterator[None]:
        """Report what the library raises in one line; it has bars of its own, for where they are wanted.

        Raises: ExchangeFailed.
        """
        if progress.disable:
            disable_progress_bars()
        try:
            yield
        except Refused as error:
            raise Refused(f"{self} is refused. {error}") from error
        except RevisionNotFoundError as error:
            raise ExchangeFailed(f"404 from {_endpoint()}: {self.repository!r} has no {self.revision!r}.") from error
        except (RepositoryNotFoundError, HfHubHTTPError) as error:
            raise ExchangeFailed(self._explained(error)) from error
        except HFValidationError as error:
            raise ExchangeFailed(f"{self} is no address: {error}") from error
        except (_TransportError, OSError, RuntimeError, ValueError) as error:
            reason = f"{error} {error.__cause__ or ''}"
            raise ExchangeFailed(f"{self} failed at {_endpoint()}: {' '.join(reason.split())}") from error

    def _explained(self, error: HfHubHTTPError) -> str:
        status = error.response.status_code
        if status in (401, 403, 404):  # the hub answers 401 for what is not there, so as not to tell
            return (
                f"{status} from {_endpoint()}: {self.repository!r} is not there, or not for you. Set HF_TOKEN, or "
                "log in with `hf auth login`."
            )
        return f"{status} from {_endpoint()}: {' '.join(str(error).split())}"


def _api() -> HfApi:
    return HfApi(endpoint=_endpoint(), library_name="hotplate", library_version=__version__)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _wanted(folder: Path, stated: dict[str, Any]) -> dict[str, Any]:
    """The files of the version, of all that a repository holds beside it: what the manifest in the folder names.

    Raises: Refused where the manifest names what is not there, or nothing is there to serve.
    """
    if MANIFEST_FILE not in stated:
        if not stated.keys() & {*GRAPH_FILES}:
            graphs = " or ".join(GRAPH_FILES)
            raise Refused(f"It holds neither {MANIFEST_FILE} nor {graphs}; `hotplate import` takes other models.")
        return {name: file for name, file in stated.items() if name != CARD_FILE}
    try:
        manifest = manifest_in(folder)
    except ValueError as error:
        raise Refused(str(error)) from error
    names = named_files(manifest) if manifest else {}
    if missing := [name for name in names if name not in stated]:
        raise Refused(f"{MANIFEST_FILE} names {missing}, which the repository does not hold.")
    return {name: stated[name] for name in names if name != MANIFEST_FILE}


def _git_hash(file: Path) -> str:
    """The hash by which Git knows a file's content."""
    content = file.read_bytes()  # a large file is no part of Git itself
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


# --- the card ---


def model_card(version: Version, repository: str, license_id: str) -> str:
    """The page of a repository: data for the hub between two lines, then what a reader wants to know."""
    manifest = version.manifest
    scores = [_result(version.task, score) for score in manifest.evaluation] if manifest else []
    data = ModelCardData(
        license=license_id or None,
        pipeline_tag=PIPELINES.get(version.task),
        tags=["onnx", "hotplate", version.task],
        model_name=version.name,
        eval_results=scores or None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {version.name}", version.description]
    if manifest is not None:
        parts += [_tensors(manifest.graphs), _scores(manifest.evaluation), _provenance(manifest)]
    serve = f"```sh\nhotplate pull hf://{repository} --repository my-models\nhotplate serve --repository my-models\n```"
    parts += ["## Serve it", "With [Hotplate](https://github.com/hotplate/hotplate):", serve]
    return "\n\n".join(part for part in parts if part) + "\n"


def _result(task: str, score: Evaluation) -> EvalResult:
    return EvalResult(
        task_type=PIPELINES.get(task, task),
        dataset_type=score.dataset,
        dataset_name=score.dataset,
        dataset_split=score.split,
        metric_type=score.metric,
        metric_value=score.value,
    )


def _tensors(graphs: dict[str, Graph]) -> str:
    rows = ["## Inputs and outputs", "", "| graph | | name | type | shape |", "|---|---|---|---|---|"]
    for name, graph in graphs.items():
        for side, specs in (("input", graph.inputs), ("output", graph.outputs)):
            rows += [f"| `{name}` | {side} | `{s.name}` | {s.datatype} | {list(s.shape)} |" for s in specs]
    return "\n".join(rows)


def _scores(scores: tuple[Evaluation, ...]) -> str:
    rows = ["## Scores", "", "| metric | value | data | split | count |", "|---|---|---|---|---|"]
    rows += [f"| {s.metric} | {s.value:.6g} | {s.dataset} | {s.split} | {s.count:,} |" for s in scores]
    return "\n".join(rows) if scores else ""


def _provenance(manifest: Manifest) -> str:
    if (training := manifest.training) is None:
        return ""
    parity = f" The graph is within {manifest.parity.max_abs_error:.2g} of the network." if manifest.parity else ""
    return (
        f"## Training\n\n{training.parameters:,} parameters, trained by `{training.script}` in "
        f"{training.seconds / 60:.0f} minutes on {training.device} with the seed {training.seed}.{parity} "
        f"`{MANIFEST_FILE}` has the whole configuration."
    )
