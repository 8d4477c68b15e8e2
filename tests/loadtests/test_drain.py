"""The proof of the drain: on the real service, and that its ledger would see a request lost."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import drain
from loadtests.drain import CLOCK_SECONDS, Entry, Fate, Ledger, fate_of
from loadtests.http_client import KeptConnection, Reply

ROOT = Path(__file__).resolve().parent.parent.parent
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
REFUSAL = b'{"status": 503, "code": "shutting_down"}'


def test_no_request_is_lost_when_the_service_ends_under_load(every_task: Path, tmp_path: Path) -> None:
    serve = f"--repository {every_task} --instances 1 --threads 1"
    output = tmp_path / "drain.json"

    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "loadtests.drain",
            "--before",
            "0.5",
            "--callers",
            "2",
            "--serve",
            serve,
            "--output",
            str(output),
        ],
        capture_output=True,
        text=True,
        timeout=220,
        cwd=ROOT,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    page = json.loads(output.read_text())
    assert page["lost"] == 0
    assert page["problems"] == []
    assert page["exit_status"] == 0
    assert page["in_flight_at_sigterm_and_served"] >= 1
    assert page["fates"][Fate.REFUSED] + page["fates"][Fate.NOT_CONNECTED] >= 1
    assert page["fates"][Fate.BROKEN] == page["fates"][Fate.WRONG] == 0
    assert page["readiness_down_seconds"] < 1.0 - CLOCK_SECONDS <= page["first_refusal_seconds"]


def test_a_service_that_neither_answers_nor_ends_is_a_problem_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GRACE_SECONDS", "_EXIT_MARGIN_SECONDS", "_LAST_REPLY_SECONDS"):
        monkeypatch.setattr(drain, name, 0.1)
    silent = drain.Kind("silent", (b"GET / HTTP/1.1\r\n\r\n",))
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"deaf\n"
            run = drain.Drain(listener.getsockname()[1], process.pid).run([silent], 1, 0.1)
            ledger = asyncio.run(asyncio.wait_for(run, 30))
        finally:
            process.kill()

    assert "the service ended with status None; it must be 0." in ledger.problems(1.0, 0.2)


def reply(status: int = 200, body: bytes = b"{}", **headers: str) -> Reply:
    return Reply(status, {key.replace("_", "-"): value for key, value in headers.items()}, bytearray(body), True, True)


def test_every_fate_is_told_from_the_others() -> None:
    broken = reply()
    broken.is_whole = False

    assert fate_of(Reply(), is_stream=False) is Fate.UNANSWERED
    assert fate_of(broken, is_stream=False) is Fate.BROKEN
    assert fate_of(reply(), is_stream=False) is Fate.SERVED
    assert fate_of(reply(503, REFUSAL, retry_after="1"), is_stream=False) is Fate.REFUSED
    assert fate_of(reply(503, REFUSAL), is_stream=False) is Fate.WRONG  # it does not say when to come back
    assert fate_of(reply(503, b"busy", retry_after="1"), is_stream=False) is Fate.WRONG
    assert fate_of(reply(500), is_stream=False) is Fate.WRONG


def test_a_stream_without_its_last_event_is_broken() -> None:
    assert fate_of(reply(body=b"data: {}\n\n"), is_stream=True) is Fate.BROKEN
    assert fate_of(reply(body=b"data: {}\n\nevent: end\ndata: {}\n\n"), is_stream=True) is Fate.SERVED


def good_run() -> Ledger:
    entries = [
        Entry("classify", -1.0, -0.9, Fate.SERVED),
        Entry("stylize", -0.1, 0.3, Fate.SERVED),
        Entry("classify", 1.1, 1.2, Fate.REFUSED),
        Entry("classify", 1.9, 2.0, Fate.UNANSWERED),
        Entry("classify", 2.1, 2.1, Fate.NOT_CONNECTED),
    ]
    return Ledger(entries, exit_status=0, exit_seconds=2.0, ready_statuses=[(-0.5, 200), (0.1, 503)])


def test_a_good_run_has_no_problems() -> None:
    assert good_run().problems(1.0, 20.0) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Entry("draw", 1.5, 1.8, Fate.BROKEN), "lost: draw, sent at \\+1.500 s: answer broken off"),
        (Entry("draw", 0.2, 0.4, Fate.UNANSWERED), "lost: draw, sent at \\+0.200 s: no answer at all"),
        (Entry("draw", 0.2, 0.4, Fate.WRONG, "status 500"), "wrong: draw, sent at \\+0.200 s: status 500"),
        (Entry("draw", 0.2, 0.4, Fate.REFUSED), "refused 0.400 s after SIGTERM, before 1.0 s"),
    ],
)
def test_a_single_bad_request_is_a_problem(fault: Entry, words: str) -> None:
    ledger = good_run()
    ledger.entries.append(fault)

    with pytest.raises(AssertionError, match=words):
        raise AssertionError(" ".join(ledger.problems(1.0, 20.0)))


def test_an_end_that_is_late_or_not_clean_is_a_problem() -> None:
    ledger = good_run()
    ledger.exit_status, ledger.exit_seconds = -9, 30.0

    assert [problem.split(";")[0] for problem in ledger.problems(1.0, 20.0)] == [
        "the service ended with status -9",
        "the service took 30.0 s to end",
    ]


def test_a_run_that_shows_nothing_is_a_problem() -> None:
    problems = " ".join(Ledger(exit_status=0).problems(1.0, 20.0))

    assert "proves nothing" in problems
    assert "does not show how refusals look" in problems
    assert "/readyz was not seen" in problems


@pytest.mark.parametrize(
    ("answer", "fate"),
    [
        (b"", Fate.UNANSWERED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Fate.BROKEN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfull", Fate.SERVED),
    ],
)
def test_a_connection_tells_how_far_the_answer_came(answer: bytes, fate: Fate) -> None:
    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def ask() -> Reply:
        server = await asyncio.start_server(answer_and_close, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            _, connection = await asyncio.get_running_loop().create_connection(KeptConnection, "127.0.0.1", port)
            try:
                return await asyncio.wait_for(connection.exchange(b"GET / HTTP/1.1\r\n\r\n"), 10)
            finally:
                connection.close()

    assert fate_of(asyncio.run(ask()), is_stream=False) is fate
