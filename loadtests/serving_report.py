"""What `make bench` aims at, and the tables, notes and charts of its figures. It starts nothing."""

from __future__ import annotations

from loadtests.bodies import BINARY, GRPC, JSON, PNG, RAW
from loadtests.chart import Panel, bars, grouped
from loadtests.networks import LIGHT, LIGHT_FP32, MEAN, RESNET18
from loadtests.report import Column, Report, Sheet, plural, sheet
from loadtests.results import BARE, EMPTY, SERVICE, Case, Cell, Results, Verdict, ratio

HEAVY, SHIPPED = RESNET18.name, "fashion-mnist"
EARLIER, SINGLE = "hotplate, earlier commit", "hotplate, max batch 1"
WRITERS, STREAM, STREAMS = ("novelist", "novelist-lstm"), "stream of tokens", 16
PEER_NAMES = {
    "reference": ("ASGI reference", "ASGI reference, 2 processes"),
    "mosec": ("mosec",),
    "plain": ("plain fastapi sync", "plain fastapi async"),
    "litserve": ("litserve",),
}
# Bare bursts a few seconds apart differ by less than this on a machine that does nothing else.
STEADY = 0.15


def ratio_to(results: Results, section: str) -> float | None:
    """The service over the best peer of a section: one FP32 row as bytes, 64 callers.

    Fractions of bare are compared, not rates: the servers ran at different times, and the machine drifts.
    """
    own, *others = (
        results.median("fraction_of_bare", server=server, model=LIGHT_FP32, form=BINARY, callers=64)
        for server in (SERVICE, *PEER_NAMES[section])
    )
    best = max((other for other in others if other), default=None)
    return own / best if own is not None and best else None


def ratio_beside(results: Results, cell: Cell | None) -> float | None:
    """A cell of the service over the same of the other service that was measured beside it."""
    if cell is None:
        return None
    return ratio(cell, results.cell(**(cell.case | {"server": cell.case["beside"]})), _rate_of(cell))


def _rate_of(cell: Cell) -> str:
    return "tokens_per_second" if cell.case["form"] == STREAM else "requests_per_second"


def judge(results: Results) -> list[Verdict]:
    """Hold a run against every target."""

    def found(figure: str, form: str, callers: int, model: str = LIGHT_FP32) -> float | None:
        return results.median(figure, server=SERVICE, model=model, form=form, callers=callers)

    def times(other: str, model: str, form: str, callers: int) -> float | None:
        case: Case = {"server": SERVICE, "beside": other, "model": model, "form": form, "callers": callers}
        return ratio_beside(results, results.cell(**case))

    one, many = "fraction_of_bare", "binary, 64 callers"
    idle, memory = (
        results.median(figure, server=SERVICE, model=LIGHT_FP32, state="idle") for figure in ("idle_cores", "pss_mib")
    )
    plain, binary = (results.cell(server=SERVICE, model=MEAN, form=form, callers=1) for form in (JSON, BINARY))
    return [
        Verdict(f"{many}: fraction of bare, 1 thread", 0.70, found(one, BINARY, 64)),
        Verdict("raw classify, 64 callers: the same", 0.70, found(one, RAW, 64, LIGHT)),
        Verdict("binary, 16 callers: the same", 0.65, found(one, BINARY, 16)),
        Verdict("gRPC, 64 callers: the same", 0.50, found(one, GRPC, 64)),
        Verdict("binary, 1 caller: p50 over bare session.run, ms", 0.30, found("added_ms", BINARY, 1), at_most=True),
        Verdict(f"{many}: CPU beside the network, us", 80, found("beside_us", BINARY, 64), at_most=True),
        Verdict(f"{many}: p99 / p50", 2.0, found("p99_over_p50", BINARY, 64), at_most=True),
        Verdict("JSON, 64 callers: times the earlier commit", 1.8, times(EARLIER, LIGHT_FP32, JSON, 64)),
        Verdict("PNG, 64 callers: times the earlier commit", 1.8, times(EARLIER, LIGHT, PNG, 64)),
        *(
            Verdict(f"{model}, 16 streams: times the earlier commit", 1.8, times(EARLIER, model, STREAM, STREAMS))
            for model in WRITERS
        ),
        Verdict("heavy, 16 callers: fraction of bare, all cores", 0.97, found("fraction_of_all_cores", RAW, 16, HEAVY)),
        Verdict("idle: memory (PSS), MiB", 190, memory, at_most=True),
        Verdict("idle: % of a core", 1.0, None if idle is None else 100 * idle, at_most=True),
        Verdict(f"{many}: times mosec", 1.0, ratio_to(results, "mosec")),
        Verdict(f"{many}: times plain FastAPI", 3.0, ratio_to(results, "plain")),
        Verdict(f"{many}: times litserve", 5.0, ratio_to(results, "litserve")),
        Verdict("3x224x224 FP32, 1 caller: JSON over binary", 3.0, ratio(plain, binary, "p50_ms"), at_most=True),
        Verdict("1 caller: rate with batching over max batch 1", 0.95, times(SINGLE, LIGHT_FP32, BINARY, 1)),
    ]


def loads_of(results: Results, **case: str | int) -> list[Cell]:
    """The loads that lie between bare bursts."""
    return [cell for cell in results.select("callers", **case) if "beside" not in cell.case]


def _batch_shares(cell: Cell) -> str:
    """The batches of the last round: the share of each bucket, by its upper bound."""
    counts = cell.rounds[-1].get("batch_sizes") or {}
    shares = {bound.removesuffix(".0"): count / sum(counts.values()) for bound, count in counts.items()}
    return " ".join(f"<={bound}:{share:.0%}" for bound, share in shares.items() if share > 0.005)


def _added_ms(cell: Cell) -> float | None:
    return cell.median("added_ms") if cell.case["callers"] == 1 else None


def _beside_us(cell: Cell) -> float | None:
    """Only of a light network: of a heavy one it is a small difference of large numbers."""
    return cell.median("beside_us") if cell.case["model"] in (LIGHT, LIGHT_FP32) else None


def _engine_cores(cell: Cell) -> float:
    return (cell.median("engine_us") or 0.0) * (cell.median("requests_per_second") or 0.0) / 1e6


def engine_ceiling(cell: Cell) -> float | None:
    """The requests a second at which the engine's process would use a core whole."""
    micros = cell.median("engine_us")
    return 1e6 / micros if micros else None


_CASE = tuple(Column(name, name) for name in ("server", "model", "form", "callers"))
_RATE = Column("requests/s", "requests_per_second", 0)
_LATENCY = (Column("p50 ms", "p50_ms"), Column("p99 ms", "p99_ms"), Column("p99.9 ms", "p999_ms"))
_CPU = (Column("CPU us", "cpu_us", 0), Column("API us", "api_us", 0), Column("engine us", "engine_us", 0))
_ERRORS = Column("errors", lambda cell: str(cell.sum("num_errors")))
_BARE_COLUMNS = (
    Column("network", "model"),
    Column("setting", "setting"),
    Column("images/s", "images_per_second", 0),
    Column("p50 ms", "p50_ms", 3),
)
_LOAD_COLUMNS = (
    *_CASE,
    _RATE,
    Column("of bare, 1 thread", "fraction_of_bare"),
    Column("of bare, all cores", "fraction_of_all_cores"),
    *_LATENCY,
    Column("p99/p50", "p99_over_p50", 1),
    Column("p50 over bare, ms", _added_ms),
    _ERRORS,
)
_COST_COLUMNS = (
    *_CASE,
    *_CPU,
    Column("beside the network us", _beside_us, 0),
    Column("cores", "cpu_cores"),
    Column("rows a batch", "mean_batch_size", 1),
    Column("batches of the last round, by upper bound", _batch_shares),
)
_SATURATION_COLUMNS = (
    Column("cores", "cores"),
    Column("API processes", "workers"),
    _RATE,
    *_LATENCY,
    *_CPU,
    Column("engine, cores", _engine_cores),
    Column("requests/s that would fill the engine's core", engine_ceiling, 0),
    _ERRORS,
)
_IDLE_COLUMNS = (
    *_CASE[:2],
    Column("ready s", "ready_seconds", 1),
    Column("idle, % of a core", lambda cell: 100 * (cell.median("idle_cores") or 0.0), 1),
    Column("RSS MiB", "rss_mib", 1),
    Column("PSS MiB", "pss_mib", 1),
)


def make_sheets(results: Results) -> list[Sheet]:
    """The tables of a run."""
    loads = loads_of(results)
    return [
        sheet(BARE, results.select("batch", server=BARE), _BARE_COLUMNS, num_words=2),
        sheet("Servers (medians of the rounds)", loads, _LOAD_COLUMNS, num_words=3),
        sheet("What a request costs: CPU microseconds", loads, _COST_COLUMNS, num_words=3),
        *(_beside_sheet(results, other) for other in (EARLIER, SINGLE)),
        sheet("A network that costs nothing, 64 callers", results.select("workers"), _SATURATION_COLUMNS),
        sheet("Servers as a whole, after the load", results.select(state="idle"), _IDLE_COLUMNS, num_words=2),
    ]


def _beside_sheet(results: Results, other: str) -> Sheet:
    columns = (
        *_CASE[1:],
        Column(f"{SERVICE}, requests/s or tokens/s", lambda cell: cell.median(_rate_of(cell)), 0),
        Column(other, lambda cell: results.median(_rate_of(cell), **(cell.case | {"server": other})), 0),
        Column("times", lambda cell: ratio_beside(results, cell)),
    )
    return sheet(f"Beside {other}, in alternation", results.select(server=SERVICE, beside=other), columns, num_words=2)


def make_notes(results: Results) -> list[str]:
    """What bare is, the service over each of its peers, and how far the figures can be trusted."""
    notes = [f"Bare, {model}: {settings}." for model, settings in results.facts.get("bare", {}).items()]
    if "commit" in results.facts:
        notes.append(f"The earlier commit is {results.facts['commit']}.")
    for section, names in PEER_NAMES.items():
        found = ratio_to(results, section)
        if found is not None:
            best = f"the better of {' and '.join(names)}" if len(names) > 1 else names[0]
            notes.append(f"{SERVICE} over {best}, {LIGHT_FP32}, {BINARY}, 64 callers: {found:.2f}")
    spreads = [spread for cell in results.cells for spread in cell.values("bare_spread")]
    num_unsteady = sum(spread > STEADY for spread in spreads)
    if num_unsteady:
        notes.append(
            f"{num_unsteady} of {len(spreads)} rounds lie between bare bursts that differ by more than {STEADY:.0%}: "
            "other work used the machine, so do not rely on the fractions and targets of such a run."
        )
    return notes


def _server(cell: Cell) -> str:
    return str(cell.case["server"])


def _callers(cell: Cell) -> str:
    return plural(cell.case["callers"], "caller")


def make_panels(results: Results) -> list[Panel]:
    """Rates by server and by form, fractions of bare, and what a request costs."""
    light = loads_of(results, model=LIGHT_FP32, form=BINARY)
    own = [cell for model in (LIGHT_FP32, LIGHT) for cell in loads_of(results, server=SERVICE, model=model)]
    # The empty endpoint runs no network, so it has no fraction of one.
    many = [cell for cell in light if cell.case["callers"] == 64 and _server(cell) != EMPTY]
    unit = "requests/s over images/s of bare ONNX Runtime, 1 thread"
    forms = (lambda cell: str(cell.case["form"]), _callers)
    return [
        grouped("One FP32 row of 28x28 as bytes", "requests/s", light, (_callers, _server), "requests_per_second"),
        bars("The same, 64 callers", unit, many, _server, "fraction_of_bare", 2),
        bars("CPU of all processes, 64 callers", "us a request", many, _server, "cpu_us"),
        grouped(f"{SERVICE}, by the form of a request", "requests/s", own, forms, "requests_per_second"),
    ]


REPORT = Report("bench", "serving", judge, make_sheets, make_panels, make_notes)
