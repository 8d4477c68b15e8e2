"""`make bench BENCH=bench_generators`: generated images, served as JSON and as PNG grids, beside bare ONNX Runtime."""

from __future__ import annotations

import argparse
import itertools
import json
import sys

from rich.console import Console

from loadtests.bare import Bare, Burst, running_bare
from loadtests.chart import Panel
from loadtests.harness import Bench, Step, build_parser, conduct
from loadtests.http_client import pace_of, post, run_load
from loadtests.measure import observe, read_histogram
from loadtests.report import Column, Report, Sheet, plural, sheet
from loadtests.results import BARE, SERVICE, Case, Cell, Figures, Results, Verdict, ratio
from loadtests.servers import Server, fetch

GRAPH = "decoder"
JUDGED: Case = {"format": "json", "num_images": 64, "callers": 8}
_NUM_SEEDS = 64
_TIMEOUT_SECONDS = 120


def of_bare(results: Results, cell: Cell | None, figure: str) -> float | None:
    """A figure of the service over the rate of bare ONNX Runtime at the judged batch."""
    return ratio(cell, results.cell(server=BARE, batch=JUDGED["num_images"]), figure, "images_per_second")


def describe(cell: Cell) -> str:
    """The case in words."""
    case = cell.case
    kind = "PNG grid" if case["format"] == "png" else "JSON"
    return f"{kind}, {case['num_images']} a request, {plural(case['callers'], 'caller')}"


def judge(results: Results) -> list[Verdict]:
    """The target for each format."""
    verdicts = []
    for kind, name in (("json", "JSON"), ("png", "PNG grid")):
        cell = results.cell(server=SERVICE, **(JUDGED | {"format": kind}))
        found = of_bare(results, cell, "compute_images_per_second")
        verdicts.append(Verdict(f"{name}, 64 a request, 8 callers: compute part over bare at batch 64", 0.85, found))
    return verdicts


def make_sheets(results: Results) -> list[Sheet]:
    """The tables of a run."""

    def spread(figure: str) -> Column:
        return Column("spread", lambda cell: f"{cell.spread(figure):.0%}")

    rate, compute = "images_per_second", "compute_images_per_second"
    bare = (Column("batch", "batch"), Column("images/s", rate, 0), spread(rate))
    served = (
        Column("load", describe),
        Column("images/s", rate, 0),
        spread(rate),
        Column("of bare 64", lambda cell: of_bare(results, cell, rate)),
        Column("compute, images/s", compute, 0),
        spread(compute),
        Column("of bare 64", lambda cell: of_bare(results, cell, compute)),
        Column("encode, ms/image", "encode_ms_per_image", 3),
        Column("rows a batch", "mean_batch_size", 1),
        Column("p50 ms", "p50_ms", 1),
        Column("cores", "cpu_cores"),
    )
    facts = results.facts
    title = f"{BARE}, {facts.get('instances')} x {facts.get('threads')} threads (medians of the rounds)"
    return [
        sheet(title, results.select("batch", server=BARE), bare, num_words=0),
        sheet(f"{SERVICE} (medians of the rounds)", results.select("callers"), served),
    ]


def make_notes(results: Results) -> list[str]:
    """What the columns mean."""
    facts = results.facts
    return [
        f"Model {facts.get('model')}. The service runs {facts.get('instances')} x {facts.get('threads')} threads, as "
        "bare does; the compute part counts the decoder's rows over the seconds in which the engine computes them, and "
        "fractions are taken round by round. Encoding PNG is apart: ms for one image, a grid's shared by its images. "
        "Spread: the largest round less the smallest, over the median."
    ]


def make_panels(results: Results) -> list[Panel]:
    """Rates, and what one image costs in computing and in encoding."""
    cells = results.select("callers")
    compute, instances = [cell.median("compute_images_per_second") for cell in cells], results.facts.get("instances", 1)
    rates = {SERVICE: [cell.median("images_per_second") for cell in cells], "its compute part": compute}
    costs = {
        "compute": [1000 * instances / rate if rate else None for rate in compute],
        "encode PNG": [cell.median("encode_ms_per_image") for cell in cells],
    }
    limit = results.median("images_per_second", server=BARE, batch=JUDGED["num_images"])
    names, title = list(map(describe, cells)), "Images a second (dashed: bare, batch 64)"
    return [
        Panel(title=title, unit="images/s", categories=names, series=rates, limit=limit),
        Panel(title="Time of one image", unit="ms", categories=names, series=costs, kind="stacked"),
    ]


class GeneratorBench(Bench):
    """An image generator on one thread, so that images are encoded on other cores."""

    report = Report("generators", "image generation", judge, make_sheets, make_panels, make_notes)
    batches: tuple[int, ...] = (1, 16, 64)
    num_images: tuple[int, ...] = (1, 16, 64)
    callers: tuple[int, ...] = (1, 8)

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        """Read the manifest."""
        super().__init__(options, console)
        self.folder, manifest = self.read_model("image-generation")
        self.graph = manifest.graphs[GRAPH]
        self.results.facts["model"] = f"{manifest.name}@{manifest.version}"

    def measure(self) -> None:
        """Rounds of bare and of the service."""
        with (
            self.serve(self.folder.parent.parent, "--models", self.options.model) as server,
            running_bare(self.folder / self.graph.file) as bare,
        ):
            batching = json.loads(fetch(server.url(f"/v1/models/{self.options.model}"))[1])["batching"]
            self.results.facts |= {name: batching[name] for name in ("instances", "threads")}
            steps = [self.bare_step(bare, batch) for batch in self.batches]
            for kind, callers in itertools.product(("json", "png"), self.callers):
                steps += [self.served_step(server, kind, count, callers) for count in self.num_images]
            self.run_rounds(lambda _: steps)

    def bare_step(self, bare: Bare, batch: int) -> Step:
        """Bare ONNX Runtime on as many threads as the service has."""
        facts = self.results.facts
        burst = Burst(batch, facts["threads"], facts["instances"], seconds=self.seconds)
        return Step({"server": BARE, "batch": batch}, lambda: {"images_per_second": bare.run(burst).images_per_second})

    def served_step(self, server: Server, kind: str, num_images: int, callers: int) -> Step:
        """Callers who ask for images again and again, each time with another seed."""
        path, deadline = f"/v1/models/{self.options.model}/generate", f"X-Request-Timeout: {_TIMEOUT_SECONDS}"
        body = {"num_images": num_images, "format": kind}
        bodies = [json.dumps(body | {"seed": seed * num_images}).encode() for seed in range(_NUM_SEEDS)]
        requests = [post(path, content, "application/json", deadline) for content in bodies]

        def drive() -> Figures:
            before = self.compute_seconds(server)
            pace = pace_of(run_load(server.port, requests, callers, self.seconds))
            return pace.figures() | {
                "images_per_second": pace.replies_per_second * num_images,
                "encode_ms_per_image": pace.timings.get("encode", 0.0) / num_images,
                "compute_seconds": self.compute_seconds(server) - before,
            }

        def measure() -> Figures:
            figures = observe(server, self.options.model, drive, graph=GRAPH)
            seconds = figures.pop("compute_seconds")
            if not figures["mean_batch_size"] or not seconds:
                raise RuntimeError("the service has no compute seconds; its metrics must be on.")
            rows = figures["mean_batch_size"] * sum(figures["batch_sizes"].values())
            return figures | {"compute_images_per_second": rows / seconds * self.results.facts["instances"]}

        return Step({"server": SERVICE, "format": kind, "num_images": num_images, "callers": callers}, measure)

    def compute_seconds(self, server: Server) -> float:
        """The seconds that the decoder's batches have taken so far."""
        return read_histogram(server, "hotplate_compute_seconds", model=self.options.model, graph=GRAPH).total


def make_parser() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    flags = "--instances 1 --threads 1"
    return build_parser("bench_generators", __doc__, rounds=5, duration=2.0, model="fashion-gan", serve_flags=flags)


if __name__ == "__main__":
    sys.exit(conduct(GeneratorBench, make_parser().parse_args()))
