"""`hotplate import`: a network from a file, a folder or a Hugging Face repository becomes a verified version."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track

from models.config import CONFIG_FILE, ModelConfig
from models.golden import Golden, read_golden, write_golden
from models.manifest import (
    MANIFEST_FILE,
    Manifest,
    Precision,
    Source,
    TensorSpec,
    Variant,
    read_manifest,
    write_manifest,
)
from models.preprocessing import PreprocessingOptions
from models.strict import StrictError, build
from service.cli.client import BadUsage, CommandFailed, file_errors
from service.cli.models import check_version
from service.cli.serve import require_runtime
from service.settings import Settings

T = TypeVar("T")

TASKS = ("image-classification", "tensors")
TOP_K = 5
# A longer tensor is not written out in an example.
_MAX_SHOWN = 16
_MAX_LAYERS = 4
# A context that nobody asked for is halved, down to the latter, until so many texts have room.
_LEAST_TEXTS, _LEAST_CONTEXT = 4, 256

_Source = Annotated[
    str, typer.Argument(help="An .onnx, .pt2 or .gguf file, a folder, or a Hugging Face repository id.")
]
_Name = Annotated[str, typer.Option(help="Name of the model in the service.")]
_Task = Annotated[str, typer.Option(help="image-classification or tensors (default: what the graph looks like).")]
_Labels = Annotated[
    Path | None,
    typer.Option(help="Names of the classes: a line each, or JSON (default: labels.txt or labels.json beside it)."),
]
_Preset = Annotated[
    str, typer.Option(help="What the network takes: imagenet, clip, inception (-1 to 1), 0-1 or 0-255.")
]
_Numbers = Annotated[
    str, typer.Option(help="One number, or three as in 0.5,0.5,0.5; of pixels from 0 to 1, or to 255 if one exceeds 1.")
]
_Size = Annotated[int, typer.Option(help="Pixels that the shorter side is resized to.")]
_Crop = Annotated[str, typer.Option(help="Centre that is taken: 224, 192x256 (height, width), or none to stretch.")]
_Layout = Annotated[str, typer.Option(help="nchw or nhwc (default: as the shape says).")]
_Channels = Annotated[str, typer.Option(help="rgb or bgr.")]
_Output = Annotated[str, typer.Option(help="Output with the scores of the classes, where there are several.")]
_Embedding = Annotated[str, typer.Option(help="Tensor that `embed` returns (default: what the last layer takes).")]
_Activation = Annotated[
    str, typer.Option(help="What makes scores probabilities: softmax, sigmoid or none (default: as they look).")
]
_Inverted = Annotated[bool, typer.Option("--light-on-dark", help="A grey network of light objects on black.")]
_Sample = Annotated[
    Path | None,
    typer.Option(help="Inputs of --task tensors by name, to verify with (.npz).", exists=True, dir_okay=False),
]
_Try = Annotated[
    list[Path] | None,
    typer.Option("--try", help="Picture to classify before anything is written.", exists=True, dir_okay=False),
]
_File = Annotated[str, typer.Option(help="ONNX or GGUF file to take of a folder or repository with several.")]
_Context = Annotated[
    int | None,
    typer.Option(
        help="Longest text of a language model, in tokens (default: 2048, or what memory has room for).", min=2
    ),
]
_Quantize = Annotated[
    bool, typer.Option("--quantize", help="Write the graphs in int8 as well; needs --calibration, but for texts.")
]
_Int4 = Annotated[bool, typer.Option("--int4", help="Write a language model in int4 as well.")]
_Half = Annotated[bool, typer.Option("--fp16", help="Write the graph in float16 as well, which is for GPUs.")]
_Calibration = Annotated[
    Path | None,
    typer.Option(
        help="What --quantize measures with, and what scores: a folder of pictures, best in folders called after their "
        "classes, or an .npz file of inputs by name; for a language model, a text that scores.",
        exists=True,
    ),
]
_Repository = Annotated[Path, typer.Option(help="Folder of models to write to.", file_okay=False)]
_Version = Annotated[str, typer.Option(help="Number of the version (default: the next one).")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Write without asking, what is guessed too.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What the command line asks for."""

    source: str
    name: str
    task: str
    labels: Path | None
    classifier: dict[str, Any]
    preprocessing: PreprocessingOptions
    sample: Path | None
    pictures: tuple[Path, ...]
    file: str
    max_context: int | None
    quantize: bool
    int4: bool
    fp16: bool
    calibration: Path | None
    yes: bool

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions beside fp32."""
        wanted: dict[Precision, bool] = {"int8": self.quantize, "int4": self.int4, "fp16": self.fp16}
        return tuple(precision for precision, is_wanted in wanted.items() if is_wanted)

    @property
    def is_classifier(self) -> bool:
        """Whether the command line says something that only a classifier has."""
        said = self.labels or self.pictures or any(self.classifier.values())
        return self.task == TASKS[0] or (not self.task and bool(said or self.preprocessing != PreprocessingOptions()))


def import_model(
    source: _Source,
    name: _Name,
    task: _Task = "",
    labels: _Labels = None,
    preprocess: _Preset = "",
    mean: _Numbers = "",
    std: _Numbers = "",
    size: _Size = 0,
    crop: _Crop = "",
    layout: _Layout = "",
    channels: _Channels = "rgb",
    output: _Output = "",
    embedding_output: _Embedding = "",
    activation: _Activation = "",
    light_on_dark: _Inverted = False,
    sample: _Sample = None,
    pictures: _Try = None,
    file: _File = "",
    context: _Context = None,
    quantize: _Quantize = False,
    int4: _Int4 = False,
    fp16: _Half = False,
    calibration: _Calibration = None,
    repository: _Repository = Path("my-models"),
    version: _Version = "",
    yes: _Yes = False,
) -> None:
    """Import a network: write a version that is labelled, verified and ready to serve.

    What is not said is asked of the network, and shown. What the network does not tell is guessed: a guess is written
    only if you agree, at the prompt or with --yes.
    """
    require_runtime()
    logging.getLogger().addHandler(logging.NullHandler())  # what the engine would log is printed
    _check_options(task, activation)
    if calibration is not None and not (quantize or int4 or fp16):
        raise BadUsage("--calibration is for --quantize, --int4 and --fp16; none of them is there.")
    said = {"preset": preprocess, "mean": _numbers("--mean", mean), "std": _numbers("--std", std), "size": size}
    said |= {"crop": crop, "layout": layout, "channels": channels}
    request = ImportRequest(
        source=source,
        name=name,
        task=task,
        labels=labels,
        classifier={"output": output, "embedding_output": embedding_output, "activation": activation or None}
        | {"light_on_dark": light_on_dark},
        preprocessing=_options(said),
        sample=sample,
        pictures=tuple(pictures or ()),
        file=file,
        max_context=context,
        quantize=quantize,
        int4=int4,
        fp16=fp16,
        calibration=calibration,
        yes=yes,
    )
    _import(request, repository, version)


def _check_options(task: str, activation: str) -> None:
    if task and task not in TASKS:
        raise BadUsage(f"--task is {task!r}; valid are {', '.join(TASKS)}.")
    if activation not in ("", "softmax", "sigmoid", "none"):
        raise BadUsage(f"--activation is {activation!r}; valid are softmax, sigmoid and none.")


def _check_calibration(request: ImportRequest) -> None:
    if request.int4:
        raise BadUsage("--int4 is for language models; a graph is written in int8 by --quantize.")
    if request.quantize and request.calibration is None:
        raise BadUsage(
            "--quantize needs --calibration: the range of every layer is measured on usual inputs. Ranges that are "
            "taken anew for each batch, which need none, would make a row depend on who shares its batch."
        )


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise BadUsage(f"{option} is {text!r}; it must be one number, or three as in 0.485,0.456,0.406.") from None


def _options(said: dict[str, Any]) -> PreprocessingOptions:
    try:
        return build(PreprocessingOptions, {name: value for name, value in said.items() if value}, "--preprocess ")
    except StrictError as error:
        raise BadUsage(str(error)) from error


def _import(request: ImportRequest, repository: Path, version: str) -> None:
    # onnx and ONNX Runtime are slow to import.
    from models.importing.sources import ImportRefused, kind_of, new_version
    from models.versions import next_version
    from service.engine.runtime.runtime import Device

    try:
        importer = _IMPORTERS[kind_of(request.source)]
        with new_version(repository, request.name, version or next_version(repository / request.name)) as folder:
            importer(request, folder)
            key = (request.name, folder.name)
            configs = [ModelConfig(precision=precision) for precision in request.precisions]
            for config in (*configs, ModelConfig(warm_up=False)):
                finding = check_version(key, folder, config, Device("cpu"))
                if not finding.is_fit:
                    raise CommandFailed(f"Nothing was written, for the version fails its check: {finding.detail}")
        typer.echo(f"ok     {request.name} {finding.version}: {finding.detail}\n")
        _show_how_to_call(repository / request.name / finding.version)
    except ImportRefused as error:
        raise CommandFailed(str(error)) from error


# --- ONNX ---


def _import_onnx(request: ImportRequest, folder: Path) -> None:
    path = Path(request.source)
    _import_graph(request, path, folder, path.parent)


def _import_program(request: ImportRequest, folder: Path) -> None:
    """Export a program of `torch.export` to ONNX, in a process of its own, and import that."""
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        raise CommandFailed("A .pt2 program needs PyTorch to become a graph: install the extra, hotplate[training].")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        command = [sys.executable, "-m", "training.export.program", request.source, str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            reason = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CommandFailed(f"PyTorch cannot export {request.source!r}: {reason}")
        _import_graph(request, path, folder, Path(request.source).parent)


def _import_graph(request: ImportRequest, path: Path, folder: Path, beside: Path) -> None:
    """Import a graph; the files of the folder `beside` say what the command line does not."""
    from models.importing.labels import find_labels, labels_in, read_labels
    from models.importing.onnx_graphs import looks_like_classifier, read_metadata
    from models.importing.optimum import is_image_classifier, read_id2label, read_preprocessing

    _check_calibration(request)
    made_for_images = is_image_classifier(beside)
    if request.task == "tensors" or (made_for_images is False and not request.is_classifier):
        _import_tensors(request, path, folder, beside)
    elif request.is_classifier or made_for_images or looks_like_classifier(path):
        labels = read_labels(request.labels) if request.labels else find_labels(beside) or read_id2label(beside)
        labels = labels or labels_in(read_metadata(path))
        if request.preprocessing == PreprocessingOptions():
            request = dataclasses.replace(request, preprocessing=read_preprocessing(beside))
        _import_classifier(request, path, folder, labels)
    else:
        _import_tensors(request, path, folder, beside)
    if request.precisions:
        _add_variants(request, folder)


def _import_classifier(request: ImportRequest, path: Path, folder: Path, labels: tuple[str, ...]) -> None:
    from models.importing.classifier import ClassifierOptions, build_classifier
    from service.engine.repository.labelling import prove_batches
    from service.engine.runtime.runtime import available_memory_bytes

    options = ClassifierOptions(labels=labels, preprocessing=request.preprocessing, **request.classifier)
    classifier = build_classifier(path, options)
    description = f"An image classifier of {len(labels)} classes, imported from {Path(request.source).name}"
    description += "." if len(classifier.graph.outputs) > 1 else "; it gives no embeddings."
    classifier.write(folder, description)
    obstacle = classifier.obstacle or prove_batches(folder, available_memory_bytes() // 4)
    typer.echo(f"{request.source}: image-classification")
    for finding in (*classifier.findings, f"batches: {f'none, as {obstacle}' if obstacle else 'yes'}"):
        typer.echo(f"  {finding}")
    for guess in classifier.guesses:
        typer.secho(f"  guessed: {guess}", fg=typer.colors.YELLOW)
    for picture in request.pictures:
        _try(classifier, picture)
    _agree(request, classifier.guesses)


def _try(classifier: Any, picture: Path) -> None:
    """Show the likeliest labels of a picture."""
    from models.images import ImageError

    with file_errors(picture):
        body = picture.read_bytes()
    try:
        predictions = classifier.classify(body, TOP_K)
    except ImageError as error:
        raise CommandFailed(f"{str(picture)!r}: {error}") from error
    typer.echo(f"{picture}:")
    for label, probability in predictions:
        typer.echo(f"  {probability:.4f} {label}")


def _agree(request: ImportRequest, guesses: tuple[str, ...]) -> None:
    """Ask whether to write, where someone can answer; without an answer, nothing guessed is written.

    Raises: CommandFailed.
    """
    if request.yes:
        return
    if sys.stdin.isatty():
        if not typer.confirm("Write it?", default=not guesses):
            raise CommandFailed("Nothing was written.")
    elif guesses:
        raise CommandFailed(f"Nothing was written, for this was guessed: {'; '.join(guesses)}. --yes accepts it.")


def _import_tensors(request: ImportRequest, path: Path, folder: Path, beside: Path) -> None:
    """Import any graph as it is, with rows that bare ONNX Runtime computed."""
    from models.importing.onnx_graphs import write_as_one_file
    from models.importing.optimum import sample_inputs
    from models.importing.tensors import VERIFIABLE, golden_rows
    from service.engine.repository.derivation import derive_version
    from service.engine.repository.labelling import GRAPH
    from service.engine.repository.model_file import MODEL_FILES
    from service.engine.runtime.runtime import Device

    model = folder / MODEL_FILES[0]
    write_as_one_file(path, model)
    files = _derived(derive_version, folder, Settings(), Device("cpu"), ModelConfig())
    graph = files.manifest.graphs[GRAPH]
    typer.echo(f"{request.source}: tensors")
    for side, specs in (("input", graph.inputs), ("output", graph.outputs)):
        for spec in specs:
            typer.echo(f"  {side}: {spec.name!r} {spec.datatype} {list(spec.shape)}")
    typer.echo(f"  batches: {'yes, as' if graph.is_batched else 'none, as'} {files.reasons[GRAPH]}")
    _agree(request, ())
    golden = None
    if all(spec.datatype in VERIFIABLE for spec in (*graph.inputs, *graph.outputs)):
        most = files.manifest.batching.max_batch_size
        usual = sample_inputs(beside, graph.inputs) or files.samples.get(GRAPH)
        golden = golden_rows(model, graph, usual, request.sample, most)
    if golden is None:
        # Without a manifest, the service derives one at each load, and says that nothing was verified.
        typer.echo("  verified: no; --sample may name inputs whose outputs are the same in any batch")
        return
    write_golden(folder, {GRAPH: golden})
    description = f"An ONNX graph, imported from {Path(request.source).name}."
    write_manifest(folder, replace(files.manifest, description=description))


def _derived(derive: Callable[..., Any], *arguments: Any) -> Any:
    from service.engine.repository.version_files import VersionRejected
    from service.errors import InferenceFailed

    try:
        return derive(*arguments)
    except (VersionRejected, InferenceFailed) as error:
        raise CommandFailed(str(error)) from error


def _add_variants(request: ImportRequest, folder: Path) -> None:
    """Add the graph in other precisions, and say what each loses."""
    from models.importing.calibration import read_samples
    from models.importing.variants import LEAST_SCORED, add_fp16, add_int8, times_as_fast
    from models.variants import obstacle

    if not (folder / MANIFEST_FILE).exists():
        raise CommandFailed(
            "Another precision needs a graph that can be verified: --sample names inputs to do so with."
        )
    manifest, samples = read_manifest(folder), None
    if request.calibration is not None:
        samples = read_samples(request.calibration, manifest, next(iter(manifest.graphs.values())))
    for precision in request.precisions:
        if precision == "int8" and samples is not None:
            variant = add_int8(folder, samples, _track)
        else:
            variant = add_fp16(folder, samples, _track)
        for line in _described_variant(variant, times_as_fast(folder, variant)):
            typer.echo(f"  {precision}: {line}")
        if reason := obstacle(read_manifest(folder), variant):
            if manifest.labels and not variant.evaluation:
                reason += f" (--calibration with {LEAST_SCORED} labelled pictures to score, or more, gives it one)"
            typer.secho(f"  {precision}: not chosen by itself, for {reason}", fg=typer.colors.YELLOW)
            typer.echo(f"""  {precision}: served all the same with precision = "{precision}" in {CONFIG_FILE}""")


def _described_variant(variant: Variant, speedups: dict[int, float]) -> Iterator[str]:
    """What a variant was made with and what it comes to, in lines."""
    if variant.calibration is not None:
        layers = variant.fp32_layers
        shown = ", ".join(layers[:_MAX_LAYERS]) + (
            f" and {len(layers) - _MAX_LAYERS} more" * (len(layers) > _MAX_LAYERS)
        )
        yield f"ranges of {variant.calibration.count} rows; layers left in fp32: {shown or 'none'}"
    if (found := variant.agreement) is not None:
        is_share = found.metric == "same_label"
        told = f"{found.value:.2%} have the same label" if is_share else f"a PSNR of {found.value:.1f} dB"
        yield f"beside fp32 on {found.count} other rows: {told}"
    for score in variant.evaluation:
        yield f"{score.metric} {score.value:.2%} on {score.count} rows"
    times = ", ".join(f"{factor:.2f} times at batch {size}" for size, factor in speedups.items())
    yield f"speed beside fp32 on this machine: {times}"


def _track(names: Sequence[T], description: str) -> Iterable[T]:
    """Go through names with a progress bar on the terminal."""
    errors = Console(stderr=True)
    return track(names, description, console=errors, transient=True, disable=not errors.is_terminal)


# --- Hugging Face ---


def _import_huggingface(request: ImportRequest, folder: Path) -> None:
    """Fill a version folder from a Hugging Face folder or repository."""
    from models.importing.bert import MODEL_TYPES as ENCODER_TYPES
    from models.importing.huggingface import find_files
    from models.importing.llama_config import CONFIG_FILE as CONFIG_JSON
    from models.importing.llama_config import read_json

    found = find_files(request.source, request.file)
    if found.file is None and read_json(found.folder / CONFIG_JSON).get("model_type") in ENCODER_TYPES:
        _import_sentence_encoder(request, found, folder)
        return
    if found.file is None or found.file.suffix == ".gguf":
        _import_language_model(request, found.file or found.folder, found.source, folder)
        return
    _import_graph(request, found.file, folder, found.folder)
    if (folder / MANIFEST_FILE).exists():
        manifest = read_manifest(folder)
        description = f"{manifest.description.split(',')[0]}, imported from {found.source.origin}."
        write_manifest(folder, replace(manifest, description=description, source=found.source))


def _import_sentence_encoder(request: ImportRequest, found: Any, folder: Path) -> None:
    from models.importing.bert import read_sentence_encoder

    if request.precisions:
        raise CommandFailed("--quantize and --fp16 are for graphs; the weights of an encoder stay as they are.")
    encoder = read_sentence_encoder(found.folder)
    typer.echo(f"{request.source}: text-embedding")
    typer.echo(f"  {encoder.num_parameters:,} parameters, vectors of {encoder.config.hidden_size} numbers")
    typer.echo(f"  texts of up to {encoder.encoding.max_tokens} tokens; pooling: {encoder.pooling}")
    _agree(request, ())
    encoder.write(folder, found.source)


def _import_gguf(request: ImportRequest, folder: Path) -> None:
    path = Path(request.source)
    _import_language_model(request, path, Source(origin=path.name), folder)


def _import_language_model(request: ImportRequest, path: Path, source: Source, folder: Path) -> None:
    """Import the language model of a folder or a GGUF file."""
    from models.importing.language_variants import ScoredText, add_variant
    from models.importing.llama import SAMPLE
    from service.engine.repository.ceilings import fitting_slots

    if request.fp16:
        raise CommandFailed(
            "--fp16 is for graphs; a language model is written in int8 by --quantize, in int4 by --int4."
        )
    model = _sized_model(path, request.max_context)
    weights, slots = model.weights.nbytes, fitting_slots(model.language, Settings().max_sequences)
    typer.echo(f"{request.source}: text-generation")
    typer.echo(f"  {model.config.model_type}, {model.num_parameters:,} parameters, a context of {model.shape.context}")
    # What ONNX Runtime packs of the file for each of two graphs, and the file itself for the one that explains.
    typer.echo(
        f"  memory when served: about {_mebibytes(3 * weights)} of weights in fp32, and up to "
        f"{_mebibytes(model.slot_bytes)} for each of {slots} texts at once (max_sequences)"
    )
    _agree(request, ())
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("Weights", total=weights)
        model.write(folder, source, lambda num_bytes: progress.advance(bar, num_bytes))
    if not request.precisions:
        return
    name, content = "a sample", SAMPLE
    if request.calibration is not None:
        with file_errors(request.calibration):
            name, content = request.calibration.name, request.calibration.read_text("utf-8")
    text = ScoredText.take(name, content, model.tokenizer, model.language)
    for precision in request.precisions:
        if precision == "int8" or precision == "int4":
            _show_text_variant(folder, add_variant(folder, model, precision, text, _track))


def _sized_model(path: Path, max_context: int | None) -> Any:
    """Read a model with the context that was asked for, or such that some texts have room in half of the memory."""
    from models.importing.llama import DEFAULT_CONTEXT, read_language_model
    from service.engine.runtime.runtime import available_memory_bytes

    model = read_language_model(path, max_context or DEFAULT_CONTEXT)
    while max_context is None and _LEAST_TEXTS * model.slot_bytes > available_memory_bytes() // 2:
        if model.shape.context < 2 * _LEAST_CONTEXT:
            break
        model = read_language_model(path, model.shape.context // 2)
    return model


def _show_text_variant(folder: Path, variant: Variant) -> None:
    """Say what a variant of a language model loses, and whether it serves by itself."""
    from models.importing.language_variants import perplexities
    from models.variants import obstacle

    manifest, agreement = read_manifest(folder), variant.agreement
    assert agreement is not None  # it was compared
    fp32, ours = perplexities(manifest, variant)
    size = (folder / f"weights.{variant.precision}.bin").stat().st_size
    typer.echo(
        f"  {variant.precision}: {_mebibytes(size)}; on {agreement.count} tokens of {agreement.dataset}: ", nl=False
    )
    typer.echo(f"perplexity {ours:.3f} beside {fp32:.3f}, the same likeliest token after {agreement.value:.1%}")
    if reason := obstacle(manifest, variant):
        typer.secho(f"  {variant.precision}: not chosen by itself, for {reason}", fg=typer.colors.YELLOW)
        typer.echo(
            f"""  {variant.precision}: served all the same with precision = "{variant.precision}" in {CONFIG_FILE}"""
        )


def _mebibytes(num_bytes: int) -> str:
    mebibytes = num_bytes / 2**20
    return f"{mebibytes:,.1f} MiB" if mebibytes < 10 else f"{mebibytes:,.0f} MiB"


_IMPORTERS: dict[str, Callable[[ImportRequest, Path], None]] = {
    "onnx": _import_onnx,
    "program": _import_program,
    "gguf": _import_gguf,
    "folder": _import_huggingface,
    "repository": _import_huggingface,
}


# --- what to do next ---


def _show_how_to_call(folder: Path) -> None:
    name, repository = folder.parent.name, folder.parent.parent
    typer.echo(f"hotplate serve --repository {repository} --models {name}")
    if not (folder / MANIFEST_FILE).exists():
        typer.echo(f"curl localhost:8000/v2/models/{name}")
        return
    manifest = read_manifest(folder)
    typer.echo(_example(manifest, read_golden(folder)))


def _example(manifest: Manifest, goldens: dict[str, Golden]) -> str:
    """A command that calls the model."""
    address = f"localhost:8000/v1/models/{manifest.name}"
    if manifest.task == "image-classification":
        return f"curl {address}/classify --data-binary @picture.jpg"
    if manifest.task == "text-embedding":
        return f"""curl {address}/embed --json '{{"text": "It was the best of times"}}'"""
    if manifest.task == "text-generation":
        return f"""curl {address}/generate --json '{{"prompt": "It was", "max_tokens": 40}}'"""
    name, graph = next(iter(manifest.graphs.items()))
    golden = goldens[name]
    inputs = [_example_tensor(spec, golden.inputs[spec.name][0], graph.is_batched) for spec in graph.inputs]
    url = f"localhost:8000/v2/models/{manifest.name}/infer"
    body = '{"inputs": [' + ", ".join(inputs) + "]}"
    if not any(golden.inputs[spec.name][0].size > _MAX_SHOWN for spec in graph.inputs):
        return f"curl {url} --json '{body}'"
    body = body.replace("false", "False").replace("true", "True")
    return f"python3 -c 'import json; print(json.dumps({body}))' | curl {url} --json @-"


def _example_tensor(spec: TensorSpec, row: NDArray[Any], is_batched: bool) -> str:
    """One row as JSON, or, where it is long, zeros as Python."""
    shape = [1, *row.shape] if is_batched else [*row.shape]
    data = json.dumps([value.item() for value in row.reshape(-1)]) if row.size <= _MAX_SHOWN else f"[0] * {row.size}"
    if spec.datatype == "BOOL" and row.size > _MAX_SHOWN:
        data = f"[True] * {row.size}"
    return f'{{"name": "{spec.name}", "shape": {shape}, "datatype": "{spec.datatype}", "data": {data}}}'
