"""The benchmark of language models: figures, targets, the protocol of engines, and the client of the service."""

import asyncio
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtests import bench_language, language_report
from loadtests.engines import EngineUnavailable, running_engine
from loadtests.language_cells import SERVICE, Results, Round, agreement, judge, overhead, round_of
from loadtests.language_client import request_of, stream_all
from loadtests.language_engines import peer_commands
from loadtests.language_peers.gguf_file import gguf_name, interleave, read_safetensors
from loadtests.language_peers.protocol import Answer, Generate, Job, serve

JOB = Job(["a", "b"], [[0, 1], [0, 2]], 3)


def measured(rate: float, gap_ms: float = 1.0) -> Round:
    return Round(num_tokens=round(rate), seconds=1.0, first_token_p50_ms=5.0, gap_p50_ms=gap_ms, gap_p99_ms=2.0)


def results() -> Results:
    made = Results(bare_step_ms={1: [3.0, 3.2, 2.8], 2: [1.8, 1.8, 9.0]})
    for rate, gap in ((4000.0, 2.0), (4400.0, 2.2), (100.0, 2.0)):
        made.add(SERVICE, 16, measured(rate, gap))
    made.add(SERVICE, 1, measured(800.0))
    made.add("plain PyTorch", 16, measured(500.0))
    made.add("plain PyTorch", 1, measured(1000.0))
    made.add("transformers", 16, measured(5000.0))
    made.unavailable["llama.cpp"] = "not installed: No module named 'llama_cpp'"
    return made


def test_a_round_counts_all_tokens_until_the_last() -> None:
    answer = Answer([[7, 8, 9], [7, 8]], [[0.5, 0.6, 0.9], [0.7, 2.0]])
    found = round_of(answer)
    assert found.tokens_per_second == 2.5
    assert found.first_token_p50_ms == pytest.approx(600)
    assert found.gap_p50_ms == pytest.approx(300)
    assert found.gap_p99_ms == pytest.approx(1280)


def test_a_stream_of_one_token_tells_nothing() -> None:
    with pytest.raises(ValueError, match=r"streams have \[1\] tokens; each must have at least 2"):
        round_of(Answer([[7]], [[0.5]]))


def test_targets_are_held_against_medians_and_the_best_peer() -> None:
    found = {verdict.goal: verdict for verdict in judge(results())}
    assert [verdict.found for verdict in found.values()] == pytest.approx([5.0, 0.8, 0.8, 0.1])
    assert [verdict.reached for verdict in found.values()] == [True, False, True, True]


def test_nothing_measured_is_nothing_reached() -> None:
    assert {verdict.reached for verdict in judge(Results())} == {None}
    assert overhead(Results()) is None


def test_agreement_ends_at_the_first_token_that_differs() -> None:
    assert agreement([[1, 2, 3, 4], [5, 6]], [[1, 2, 9, 4], [5, 6]]) == 0.75


def test_tables_name_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    page, made = io.StringIO(), results()
    language_report.print_tables(Console(file=page, width=120), made, judge(made))
    text = page.getvalue()
    assert "llama.cpp: not installed: No module named 'llama_cpp'" in text
    assert "bare ONNX Runtime, 16 rows, 2 threads: 1.800 ms a step" in text
    assert "4,000.00" in text
    assert "missed" in text
    language_report.write_files(tmp_path, made, judge(made), bench_language.build_parser().parse_args([]))
    written = json.loads((tmp_path / language_report.FILES[0]).read_text(encoding="utf-8"))
    assert written["overhead"] == pytest.approx(0.1)
    assert written["unavailable"] == made.unavailable
    assert (tmp_path / language_report.FILES[1]).read_bytes().startswith(b"\x89PNG")


def test_an_engine_answers_jobs_line_by_line() -> None:
    def load() -> Generate:
        return lambda job: Answer(job.prompts, [[0.0]] * len(job.prompts))

    answers, line = io.StringIO(), json.dumps({"texts": ["a"], "prompts": [[4]], "num_tokens": 1}) + "\n"
    serve(load, io.StringIO(line * 2), answers)
    ready, *rest = map(json.loads, answers.getvalue().splitlines())
    assert ready == {"ready": True}
    assert rest == [{"tokens": [[4]], "times": [[0.0]]}] * 2


@pytest.mark.parametrize(
    ("error", "reason"), [(ImportError("no genai"), "not installed: no genai"), (OSError("disk"), "OSError: disk")]
)
def test_an_engine_that_cannot_load_says_why(error: Exception, reason: str) -> None:
    def load() -> Generate:
        raise error

    answers = io.StringIO()
    serve(load, io.StringIO(), answers)
    assert json.loads(answers.getvalue()) == {"unavailable": reason}


def test_a_process_is_ready_answers_and_may_print_beside(tmp_path: Path) -> None:
    code = (
        "import json, sys; print('a library greets'); print(json.dumps({'ready': True}), flush=True)\n"
        "for line in sys.stdin:\n"
        " n = json.loads(line)['num_tokens']; print(json.dumps({'tokens': [[n]], 'times': [[0.1]]}), flush=True)"
    )
    with running_engine("stand-in", [sys.executable, "-c", code], 1, tmp_path, Answer) as engine:
        assert engine.run(JOB) == Answer([[3]], [[0.1]])


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (
            [sys.executable, "-c", "import json; print(json.dumps({'unavailable': 'not installed: x'}))"],
            "not installed: x",
        ),
        ([sys.executable, "-c", "import sys; sys.exit('the reason')"], "its log says: the reason"),
        (["/nowhere/python"], "/nowhere/python does not run"),
    ],
)
def test_a_process_that_cannot_serve_says_why(tmp_path: Path, command: list[str], reason: str) -> None:
    with pytest.raises(EngineUnavailable, match=reason), running_engine("broken", command, 1, tmp_path, Answer):
        raise AssertionError("a broken engine must not be handed out")


def test_no_peer_is_left_out_silently(tmp_path: Path) -> None:
    names = {"plain PyTorch", "onnxruntime-genai", "transformers", "llama.cpp"}
    assert peer_commands(None, None, tmp_path, 2) == {name: [] for name in names}
    ready = peer_commands("/peers/python", tmp_path, tmp_path, 2)
    assert ready.keys() == names
    assert all(command and command[1] == "-m" for command in ready.values())
    assert peer_commands(None, tmp_path, tmp_path, 2)["plain PyTorch"]


def stream(replies: list[bytes]) -> Answer:
    """Two requests to a server that sends these pieces."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        for reply in replies:
            writer.write(reply)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def both() -> Answer:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await stream_all(server.sockets[0].getsockname()[1], [request_of("m", "a", 3)] * 2)

    found = asyncio.run(both())
    assert len(seen) == 2
    assert seen[0].startswith(b"POST /v1/models/m/generate HTTP/1.1\r\n")
    return found


def chunks(body: bytes, size: int, status: bytes = b"200 OK") -> list[bytes]:
    head = b"HTTP/1.1 " + status + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return [head, *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


EVENTS = (
    b'data: {"index":0,"text":"It","tokens":[5]}\n\ndata: {"text":" is","tokens":[6,7]}\n\nevent: end\ndata: {}\n\n'
)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_tokens_are_counted_however_the_reply_is_cut(size: int) -> None:
    answer = stream(chunks(EVENTS, size))
    assert answer.tokens == [[5, 6, 7]] * 2
    assert all(times == sorted(times) and len(times) == 3 and times[0] > 0 for times in answer.times)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        (chunks(b'{"title":"no such model"}', 99, b"404 Not Found"), "the service answered 404: .*no such model"),
        (chunks(EVENTS, 999)[:2], "the connection ended early"),
        (chunks(b'event: error\ndata: {"title":"engine lost"}\n\n', 99), "engine lost"),
        ([b"no HTTP at all\r\n\r\n"], "the reply is no HTTP"),
    ],
)
def test_a_broken_stream_is_an_error(replies: list[bytes], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        stream(replies)


def test_rows_are_interleaved_so_that_pairs_lie_side_by_side() -> None:
    # Two heads of width 4: llama.cpp turns rows 0 and 1, 2 and 3; Hugging Face 0 and 2, 1 and 3.
    weight = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert interleave(weight, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_tensors_have_llama_cpps_names() -> None:
    assert gguf_name("model.layers.11.self_attn.q_proj.weight") == "blk.11.attn_q.weight"
    assert gguf_name("model.layers.0.post_attention_layernorm.weight") == "blk.0.ffn_norm.weight"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    with pytest.raises(KeyError):
        gguf_name("model.vision.weight")


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    header = json.dumps({"__metadata__": {}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    np.testing.assert_array_equal(read_safetensors(tmp_path / "m")["a"], values)


def test_a_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    options = bench_language.build_parser().parse_args(["--repository", str(tmp_path), "--output", str(tmp_path / "o")])
    with pytest.raises(SystemExit, match="train 'novelist' first"):
        bench_language.Bench(options, Console(file=io.StringIO()))
