"""Every attack on a live service, in less than five minutes: `make bench BENCH=hostile`.

It starts a service for each stage, or attacks the one at `--url` with what needs no service of its own. The exit status
is 0 when every attack held, 1 when one did not, 2 when there was nothing to attack.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import pkgutil
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from loadtests import attacks
from loadtests.attacks.attack import ATTACKS, Attack, Target, Verdict, judge
from loadtests.attacks.stages import STAGES, Stage, prepare
from loadtests.harness import REPORTS
from loadtests.report import Sheet, machine, machine_line
from loadtests.servers import (
    NOTHING_MEASURED,
    ROOT,
    checked_out,
    free_port,
    hotplate_command,
    run_program,
    running,
)

HEADINGS = ("attack", "sent", "peak memory", "longest stall", "CPU", "took", "outcome")
_MEBI = 2**20


def load_attacks() -> dict[str, Attack]:
    """All attacks, in the order of their modules."""
    for module in pkgutil.iter_modules(attacks.__path__, f"{attacks.__name__}."):
        importlib.import_module(module.name)
    return ATTACKS


@contextlib.contextmanager
def staged(stage: Stage, root: Path = ROOT, flags: Sequence[str] = ()) -> Iterator[Target]:
    """The service of a stage, from a checkout, until the block ends.

    Raises: ServerError.
    """
    with tempfile.TemporaryDirectory(prefix="hotplate-hostile-") as folder:
        prepared = prepare(stage, Path(folder), root)
        port, grpc_port = free_port(), free_port()
        options = ["--grpc-port", str(grpc_port), "--log-format", "json", "--device", "cpu", "--drain-seconds", "0"]
        command = hotplate_command(prepared.repository, port, *options, *prepared.options, *flags)
        with running(f"hotplate-{stage.name}", command, port, "/readyz", Path(folder) / "logs", 120, root) as server:
            yield Target(
                port,
                grpc_port,
                server.pid,
                server.log.read_text,
                prepared.repository,
                keys=prepared.keys,
                keys_file=prepared.keys_file,
                root=root,
            )


def attack_stage(
    stage: Stage, chosen: Sequence[Attack], root: Path, console: Console, flags: Sequence[str]
) -> list[Verdict]:
    """Make all attacks of a stage; after one that the service does not survive, go on with a new service."""
    left, verdicts = list(chosen), []
    while left:
        with staged(stage, root, flags) as target:
            while left:
                verdicts.append(judge(left.pop(0), target))
                show_line(verdicts[-1], console)
                if verdicts[-1].attack.ends_service or any("afterwards" in each for each in verdicts[-1].problems):
                    break
    return verdicts


def show_line(verdict: Verdict, console: Console) -> None:
    """Say how one attack went."""
    colour = "red" if verdict.problems else "green"
    told = "; ".join(verdict.problems) or verdict.outcome
    console.print(f"[{colour}]{'missed' if verdict.problems else 'held  '}[/] {verdict.attack.name}: ", end="")
    console.print(told, markup=False)


def row(entry: dict[str, Any]) -> list[str]:
    """One attack as a row of the table."""
    sent = entry["num_bytes_sent"]
    return [
        entry["name"],
        f"{sent / _MEBI:,.1f} MiB" if sent >= _MEBI else f"{sent / 1024:,.1f} kB",
        f"+{entry['growth_mib']:,.0f} MiB",
        f"{entry['longest_stall_ms']:,.0f} ms",
        f"{entry['cpu_seconds']:,.1f} s",
        f"{entry['seconds']:,.1f} s",
        f"missed: {entry['problems'][0]}" if entry["problems"] else entry["outcome"],
    ]


def sheets(page: dict[str, Any]) -> list[Sheet]:
    """A table for each kind of attack."""
    kinds = dict.fromkeys(entry["kind"] for entry in page["attacks"])
    return [Sheet(kind, HEADINGS, [row(e) for e in page["attacks"] if e["kind"] == kind]) for kind in kinds]


def to_page(verdicts: Sequence[Verdict], seconds: float, commit: str) -> dict[str, Any]:
    """The run as JSON values."""
    entries = [
        {
            "name": verdict.attack.name,
            "kind": verdict.attack.kind,
            "stage": verdict.attack.stage,
            "num_bytes_sent": verdict.num_bytes_sent,
            **asdict(verdict.figures),
            "outcome": verdict.outcome,
            "problems": verdict.problems,
        }
        for verdict in verdicts
    ]
    num_missed = sum(bool(verdict.problems) for verdict in verdicts)
    facts = {"seconds": seconds, "num_attacks": len(entries), "num_missed": num_missed, "commit": commit}
    return {"machine": machine(), **facts, "attacks": entries}


def markdown(page: dict[str, Any]) -> str:
    """The report of a page."""
    title = f"# hotplate: attacks, {page['machine']['finished']}"
    held = page["num_attacks"] - page["num_missed"]
    sentence = f"{held} of {page['num_attacks']} attacks held, in {page['seconds']:.0f} s."
    return "\n\n".join([title, machine_line(page["machine"]), sentence, *(each.to_markdown() for each in sheets(page))])


def select(options: argparse.Namespace) -> list[Attack]:
    """The attacks that the options name; all where they name none."""
    found = list(load_attacks().values())
    if options.url:
        found = [each for each in found if each.stage == "open" and not each.ends_service]
    return [each for each in found if not options.only or any(word in (each.kind, each.name) for word in options.only)]


def given(options: argparse.Namespace) -> Target:
    """The service at `--url`."""
    port = urlsplit(options.url).port or 80
    return Target(port, options.grpc_port or port + 1, options.pid)


def run(options: argparse.Namespace, console: Console) -> list[Verdict]:
    """Make the attacks.

    Raises: ServerError.
    """
    chosen, flags = select(options), shlex.split(options.serve_flags)
    if options.url:
        target, verdicts = given(options), []
        for each in chosen:
            verdicts.append(judge(each, target))
            show_line(verdicts[-1], console)
        return verdicts
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(checked_out(options.commit)) if options.commit else ROOT
        return [
            verdict
            for stage in STAGES.values()
            for verdict in attack_stage(stage, [e for e in chosen if e.stage == stage.name], root, console, flags)
        ]


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.hostile", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND", help="kinds of attacks, or their names")
    parser.add_argument("--url", default="", help="a live service on this machine to attack, on loopback; needs --pid")
    parser.add_argument("--pid", type=int, default=0, help="the process of `hotplate serve` at --url")
    parser.add_argument("--grpc-port", type=int, default=0, help="its gRPC port (default: the HTTP port plus one)")
    parser.add_argument("--commit", default="", help="attack an earlier commit of this project")
    parser.add_argument("--serve-flags", default="", metavar="FLAGS", help="further options of hotplate serve")
    parser.add_argument("--name", default="hostile", help="the name of the report's files (default: hostile)")
    parser.add_argument("--output", type=Path, default=REPORTS, help="the folder for Markdown and JSON")
    parser.add_argument("--list", action="store_true", help="list the attacks and end")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; returns the exit status."""
    parser = build_parser()
    options, console = (
        parser.parse_args(arguments),
        Console(width=None if sys.stdout.isatty() else 180, highlight=False),
    )
    if bool(options.url) != bool(options.pid):
        parser.error("--url and --pid belong together: memory and CPU are read from the process.")
    if options.list:
        for each in select(options):
            console.print(f"{each.kind}: {each.name}", markup=False)
        return 0
    return run_program(lambda: attack_all(options, console), "The campaign", console)


def attack_all(options: argparse.Namespace, console: Console) -> int:
    """Make the attacks, and write and show what they cost."""
    started = time.monotonic()
    verdicts = run(options, console)
    page = to_page(verdicts, time.monotonic() - started, options.commit)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{options.name}.json").write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")
    (options.output / f"{options.name}.md").write_text(markdown(page), encoding="utf-8")
    console.print(*(each.to_rich() for each in sheets(page)))
    console.print(
        f"{page['num_attacks'] - page['num_missed']} of {page['num_attacks']} held, in {page['seconds']:.0f} s."
    )
    return 1 if page["num_missed"] else 0 if verdicts else NOTHING_MEASURED


if __name__ == "__main__":
    sys.exit(main())
