"""Makes a classifier of a version folder that holds only a graph and the names of its classes, as by `hotplate import`.

A stranger's graph is read, changed and run in a process of its own, as in `trials.py`, with bounded memory.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec

from models.config import CONFIG_FILE, ModelConfig
from models.importing.labels import find_labels, read_labels
from models.importing.sources import ImportRefused
from models.manifest import VERSION, Batching, read_manifest, write_manifest
from models.preprocessing import PreprocessingOptions
from models.strict import StrictError
from service.engine.repository.independence import is_shortage
from service.engine.repository.model_file import MODEL_FILES
from service.engine.repository.trials import (
    ADVICE,
    LOAD_SECONDS,
    UNPROVED,
    UNTRIED,
    Question,
    child,
    confine,
    end_with_parent,
    try_out,
)
from service.engine.repository.version_files import VersionFiles, VersionRejected, read_version

log = logging.getLogger(__name__)

GRAPH = "model"


class Order(msgspec.Struct):
    """What is to be made: a classifier of a file, in the version folder `target`."""

    file: str
    target: str
    labels: tuple[str, ...]
    preprocess: PreprocessingOptions
    memory_bytes: int


class Outcome(msgspec.Struct):
    """What was made: what had to be guessed, and why it takes one image at a time; or why nothing was made."""

    guesses: tuple[str, ...] = ()
    obstacle: str = ""
    refusal: str = ""


def labelled_version(
    file: Path, name: str, version: str, memory_bytes: int, config: ModelConfig
) -> VersionFiles | None:
    """The classifier that labels make of a graph; None without labels, or where the graph cannot be one.

    Labels lie beside the graph or above it, or `config` has them.

    Raises: VersionRejected where `config` says that it is a classifier.
    """
    model = {"model": name, "version": version}
    is_demanded = bool(config.task == "image-classification" or config.labels or config.preprocess)
    if config.task == "tensors" or file.suffix != ".onnx":
        return None
    try:
        labels = _labels(file.parent, config)
        if not labels and not is_demanded:
            return None
        return _made(file, name, version, labels, memory_bytes, config)
    except ImportRefused as error:
        if is_demanded:
            raise VersionRejected(str(error)) from error
        log.warning("the labels are not used", extra=model | {"reason": str(error)})
        return None


def _labels(folder: Path, config: ModelConfig) -> tuple[str, ...]:
    folders = (folder, folder.parent) if VERSION.fullmatch(folder.name) else (folder,)
    if isinstance(config.labels, str):
        files = [each / config.labels for each in folders]
        return read_labels(next((file for file in files if file.is_file()), files[0]))
    return config.labels or next(filter(None, map(find_labels, folders)), ())


def _made(
    file: Path, name: str, version: str, labels: tuple[str, ...], memory_bytes: int, config: ModelConfig
) -> VersionFiles:
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / name / version
        target.mkdir(parents=True)
        preprocess = config.preprocess or PreprocessingOptions()
        outcome = _ordered(Order(str(file.absolute()), str(target), labels, preprocess, memory_bytes))
        if outcome.refusal:
            raise ImportRefused(outcome.refusal)
        for guess in outcome.guesses:
            said = {"model": name, "version": version, "guess": guess}
            log.warning(f"guessed; {CONFIG_FILE} or `hotplate import` says otherwise", extra=said)
        obstacle = outcome.obstacle or ("" if config.batched else prove_batches(target, memory_bytes))
        reasons = {GRAPH: obstacle or "its rows were independent in comparisons of images"}
        return replace(read_version(target), reasons=reasons)


def prove_batches(folder: Path, memory_bytes: int) -> str:
    """Prove that the images of a classifier may share a batch; where they may not, its version takes one at a time.

    Returns why they may not; empty where they may.
    """
    verdict = try_out(Question(file=str((folder / MODEL_FILES[0]).absolute()), memory_bytes=memory_bytes))
    # Images that agreed in a batch were compared before, so a proof that took too long is none against it.
    if verdict.is_batched or verdict.reason.startswith((UNPROVED, UNTRIED)):
        return ""
    alone = Batching(max_batch_size=1, buckets=(1,))
    write_manifest(folder, msgspec.structs.replace(read_manifest(folder), batching=alone))
    return verdict.problem or verdict.reason


def _ordered(order: Order) -> Outcome:
    process = subprocess.run(
        **child(__name__), input=msgspec.json.encode(order), capture_output=True, timeout=LOAD_SECONDS
    )
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return Outcome(refusal=f"a process that tried it was ended by {name}: {ADVICE}.")
    if process.returncode:
        errors = process.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(f"the process that labels graphs ended with status {process.returncode}: {errors[-1:]}")
    return msgspec.json.decode(process.stdout, type=Outcome)


def main() -> None:
    """Carry out the order on standard input."""
    from models.importing.classifier import ClassifierOptions, build_classifier

    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    file = Path(order.file)
    end_with_parent()
    confine(order.memory_bytes + 6 * sum(each.stat().st_size for each in file.parent.iterdir() if each.is_file()))
    try:
        options = ClassifierOptions(labels=order.labels, preprocessing=order.preprocess)
        classifier = build_classifier(file, options)
        description = f"An image classifier of {len(order.labels)} classes without a manifest."
        classifier.write(Path(order.target), description)
        outcome = Outcome(classifier.guesses, classifier.obstacle)
    except (ImportRefused, StrictError) as error:
        outcome = Outcome(refusal=str(error))
    except Exception as error:
        if not is_shortage(error):
            raise
        outcome = Outcome(refusal=f"{error} take more than {order.memory_bytes} bytes: {ADVICE}.")
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
