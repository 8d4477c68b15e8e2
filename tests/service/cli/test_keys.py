"""API keys against the real service, over HTTP and gRPC, and the commands that make them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
import typer.testing
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from service.cli.keys import new_key
from service.security import digest_of, read_keys
from tests.fake_models.classification import LinearClassifier
from tests.servers import RunningService, until
from tests.service.cli.command import run

NEEDS_KEY = [
    ("GET", "/v1/models"),
    ("POST", "/v1/models/tiny/classify"),
    ("POST", "/v1/completions"),
    ("GET", "/v2"),
    ("POST", "/v2/models/tiny/infer"),
    ("POST", "/v2/repository/index"),
    ("GET", "/nowhere"),
    ("GET", "/metrics"),
]


def command(*words: str, file: Path, key: str = "") -> typer.testing.Result:
    return run(*words, HOTPLATE_API_KEYS_FILE=str(file), HOTPLATE_API_KEY=key)


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "api-keys"


@pytest.fixture(scope="module")
def key(keys_file: Path) -> str:
    made = command("keys", "new", "ana", "--scope", "infer", "--scope", "metrics", file=keys_file)
    assert made.exit_code == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, network: LinearClassifier, keys_file: Path, key: str
) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("guarded")
    network.write(folder, "tiny")
    options = ("--api-keys-file", str(keys_file), "--metrics-need-key", "--access-log")
    with RunningService(folder, "--instances", "1", "--threads", "1", *options) as running:
        yield running.wait_until_ready()


@pytest.mark.parametrize(("method", "path"), NEEDS_KEY)
def test_without_a_key_a_route_answers_401_in_its_own_form(guarded: RunningService, method: str, path: str) -> None:
    answer = httpx.request(method, guarded.url + path)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    content = answer.json()
    told = content["detail"] if "detail" in content else content["error"]
    assert "requires an API key" in (told["message"] if isinstance(told, dict) else told)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs"])
def test_probes_and_documentation_stay_open(guarded: RunningService, path: str) -> None:
    assert httpx.get(guarded.url + path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v2", "/metrics"])
@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_with_the_key_the_routes_answer(guarded: RunningService, key: str, path: str, header: str) -> None:
    value = f"Bearer {key}" if header == "authorization" else key

    assert httpx.get(guarded.url + path, headers={header: value}).status_code == 200


def test_the_log_names_the_caller_and_never_the_key(guarded: RunningService, key: str) -> None:
    httpx.get(f"{guarded.url}/v1/models", headers={"authorization": f"Bearer {key}", "x-request-id": "asked-by-ana"})
    records = until(lambda: [r for r in guarded.records if r.get("request_id") == "asked-by-ana"], guarded.describe)

    assert records[0]["caller"] == "ana"
    assert key not in "".join(guarded.lines)


def test_grpc_asks_for_the_key_too_but_not_of_probes(guarded: RunningService, key: str) -> None:
    with triton.InferenceServerClient(guarded.grpc_address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="requires an API key") as refusal:
            client.get_model_metadata("tiny")
        assert refusal.value.status() == str(grpc.StatusCode.UNAUTHENTICATED)
        with pytest.raises(InferenceServerException, match="is not valid"):
            client.get_model_metadata("tiny", headers={"authorization": "Bearer wrong"})
        assert client.get_model_metadata("tiny", headers={"authorization": f"Bearer {key}"}).name == "tiny"


def test_grpc_calls_without_a_key_are_counted_and_logged_under_names_that_exist(
    guarded: RunningService, key: str
) -> None:
    with grpc.insecure_channel(guarded.grpc_address) as channel:
        for method in ("inference.GRPCInferenceService/ModelInfer", "a.strangers/Fancy"):
            with pytest.raises(grpc.RpcError, match="requires an API key"):
                channel.unary_unary(f"/{method}")(b"", metadata=[("x-request-id", f"refused-{method[0]}")], timeout=20)
    ids = {"refused-i", "refused-a"}
    until(lambda: ids <= {record.get("request_id") for record in guarded.records}, guarded.describe)

    metrics = httpx.get(f"{guarded.url}/metrics", headers={"x-api-key": key}).text
    for route in ("ModelInfer", "unmatched"):
        assert f'hotplate_requests_total{{model="",route="{route}",status="UNAUTHENTICATED"}} 1.0' in metrics
    assert "Fancy" not in metrics


def test_the_log_names_the_caller_of_a_grpc_call(guarded: RunningService, key: str) -> None:
    with triton.InferenceServerClient(guarded.grpc_address) as client:
        client.is_model_ready("tiny", headers={"x-api-key": key, "x-request-id": "called-by-ana"})
    records = until(lambda: [r for r in guarded.records if r.get("request_id") == "called-by-ana"], guarded.describe)

    assert (records[0]["route"], records[0]["caller"]) == ("ModelReady", "ana")
    assert key not in "".join(guarded.lines)


def test_the_command_line_sends_the_key_of_its_environment(guarded: RunningService, keys_file: Path, key: str) -> None:
    refused = command("models", "--url", guarded.url, file=keys_file)
    listed = command("models", "--url", guarded.url, file=keys_file, key=key)

    assert refused.exit_code == 1
    assert "requires an API key" in refused.stderr
    assert listed.exit_code == 0, listed.stderr
    assert "tiny" in listed.stdout


def _is_answered(service: RunningService, headers: dict[str, str], status: int) -> bool:
    return httpx.get(f"{service.url}/v1/models", headers=headers).status_code == status


def test_keys_come_and_go_while_the_service_runs(guarded: RunningService, keys_file: Path) -> None:
    key = command("keys", "new", "ben", file=keys_file).stdout.strip()
    headers = {"authorization": f"Bearer {key}"}
    until(lambda: httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200, guarded.describe)

    assert [key.name for key in read_keys(keys_file).values()] == ["ana", "ben"]
    for action, status in (("disable", 401), ("enable", 200)):
        assert command("keys", action, "ben", file=keys_file).exit_code == 0
        until(partial(_is_answered, guarded, headers, status), guarded.describe)
    assert command("keys", "remove", "ben", file=keys_file).exit_code == 0
    until(lambda: httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 401, guarded.describe)
    assert oct(keys_file.stat().st_mode)[-3:] == "600"
    assert key not in keys_file.read_text()


def test_a_name_is_taken_once_and_must_be_one(guarded: RunningService, keys_file: Path) -> None:
    again = command("keys", "new", "ana", file=keys_file)
    bad = command("keys", "new", "a:b", file=keys_file)
    nobody = command("keys", "remove", "nobody", file=keys_file)

    assert (again.exit_code, bad.exit_code, nobody.exit_code) == (1, 2, 1)
    assert "already has a key 'ana'" in again.stderr
    assert "'a:b' is not a valid name" in bad.stderr
    assert "it has ana" in nobody.stderr
    assert [key.name for key in read_keys(keys_file).values()] == ["ana"]


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "none"

    with RunningService(tmp_path, "--api-keys-file", str(missing)) as service:
        assert service.wait() == 1
        assert str(missing) in "".join(service.lines)


def test_a_new_key_has_the_rights_that_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    file.write_text("# by hand\n")
    options = ("--scope", "infer", "--scope", "admin", "--model", "mnist", "--expires", "2127-01-31")

    made = command("keys", "new", "ops", *options, file=file)
    listed = command("keys", "list", file=file).stdout

    assert made.exit_code == 0, made.stderr
    ops, digest = file.read_text().splitlines()[1], digest_of(made.stdout.strip())
    assert ops == f"ops:{digest} scopes=admin,infer models=mnist expires=2127-01-31T00:00:00Z"
    assert all(told in listed for told in ("ops", "admin, infer", "mnist", "2127-01-31 00:00 UTC", "valid"))
    assert oct(file.stat().st_mode)[-3:] == "600"


@pytest.mark.parametrize(
    "options",
    [
        ("--scope", "root"),
        ("--expires", "tomorrow"),
        ("--option", "nonsense=1"),
        ("--option", "scopes=admin", "--scope", "infer"),
    ],
)
def test_rights_that_do_not_exist_make_no_key(tmp_path: Path, options: tuple[str, ...]) -> None:
    file = tmp_path / "api-keys"

    assert command("keys", "new", "ops", *options, file=file).exit_code == 2
    assert not file.exists()


def test_a_change_leaves_other_lines_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "api-keys"
    lines = ["# by hand", "", f"ana:{digest_of('1')}", f"ben:{digest_of('2')}   scopes=metrics"]
    file.write_text("\n".join(lines))
    link = tmp_path / "link"
    link.symlink_to(file)

    assert command("keys", "disable", "ana", file=link).exit_code == 0
    assert file.read_text().splitlines() == [*lines[:2], f"{lines[2]} disabled", lines[3]]
    assert command("keys", "enable", "ana", file=link).exit_code == 0
    assert file.read_text().splitlines() == lines
    assert link.is_symlink()


def test_commands_at_once_lose_no_key(tmp_path: Path) -> None:
    file, names = tmp_path / "api-keys", [f"key-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: new_key(name, file), names))

    assert sorted(key.name for key in read_keys(file).values()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["api-keys"]
