"""A registry gives back what it was given, or nothing at all."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from models.manifest import read_manifest
from service.exchange.oci import ARTIFACT_TYPE, MAX_MANIFEST_BYTES, Registry
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.classification import LinearClassifier
from tests.service.cli.command import NOBODY, run
from tests.service.exchange.http_server import Answer, Request, serving
from tests.service.exchange.registry import MemoryRegistry, digest_of

TITLE = "org.opencontainers.image.title"


def pull(address: str, folder: Path, *options: str, **environment: str) -> typer.testing.Result:
    return run("pull", address, "--repository", folder, *options, **environment)


def refused(address: str, tmp_path: Path, *options: str) -> str:
    """What a pull says that is refused, and leaves nothing behind."""
    result = pull(address, tmp_path / "mine", *options)
    assert result.exit_code == 1, result.output
    assert not (tmp_path / "mine").exists()
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def layers(registry: MemoryRegistry) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(registry.manifests["models/tiny", "1"])["layers"]
    return found


# --- there and back ---


def test_a_version_comes_back_as_it_was(models: Path, pushed: str, tmp_path: Path) -> None:
    result = pull(pushed, tmp_path / "mine")

    assert result.exit_code == 0, result.output
    assert "ok     tiny 1: image-classification" in result.output
    assert contents(tmp_path / "mine" / "tiny") == contents(models / "tiny")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["tiny"]


@pytest.mark.registry
def test_the_distribution_registry_takes_and_gives_it(distribution: str, models: Path, tmp_path: Path) -> None:
    for name, number in (("tiny", "1"), ("scale", "4")):
        address = f"oci://{distribution}/models/{name}:{number}"
        first = run("push", name, address, "--repository", models)
        again = run("push", name, address, "--repository", models)
        assert first.exit_code == 0, first.output
        assert again.output == first.output

        result = pull(first.output.split()[-1], tmp_path / "mine")

        assert result.exit_code == 0, result.output
    assert contents(tmp_path / "mine") == contents(models)


def test_a_graph_without_a_manifest_keeps_its_name_number_and_configuration(
    models: Path, registry: MemoryRegistry, tmp_path: Path
) -> None:
    (models / "scale" / "config.toml").write_text("max_batch_size = 2\n")
    address = f"oci://{registry.host}/anything"
    run("push", "scale", address, "--repository", models)

    result = pull(address, tmp_path / "mine")

    assert "scale 4: tensors; model: batches up to 2, not verified" in result.output
    assert contents(tmp_path / "mine" / "scale") == contents(models / "scale")


def test_the_artifact_says_what_it_is(models: Path, registry: MemoryRegistry) -> None:
    run("push", "tiny", f"oci://{registry.host}/tiny:1", "--repository", models, "--license", "apache-2.0")

    manifest = json.loads(registry.manifests["tiny", "1"])

    assert manifest["artifactType"] == ARTIFACT_TYPE
    assert manifest["annotations"] == {
        TITLE: "tiny",
        "org.opencontainers.image.version": "1",
        "org.opencontainers.image.description": "A linear classifier of the tests.",
        "org.opencontainers.image.licenses": "apache-2.0",
        "io.github.hotplate.task": "image-classification",
    }
    assert [layer["annotations"][TITLE] for layer in manifest["layers"]] == [
        "golden.npz",
        "manifest.json",
        "model.onnx",
    ]


def test_what_the_registry_has_is_not_sent_again(models: Path, registry: MemoryRegistry, pushed: str) -> None:
    before = dict(registry.manifests)
    registry.requests.clear()

    run("push", "tiny", pushed, "--repository", models)

    sent = [request.path for request in registry.requests if request.method in ("POST", "PUT")]
    assert sent == ["/v2/models/tiny/manifests/1"]
    assert registry.manifests == before


def test_a_damaged_version_is_not_sent(models: Path, registry: MemoryRegistry) -> None:
    (models / "tiny" / "1" / "model.onnx").write_bytes(scale_bytes(3.0))

    result = run("push", "tiny", f"oci://{registry.host}/tiny:1", "--repository", models)

    assert result.exit_code == 1
    assert "model.onnx has the SHA-256" in result.output
    assert registry.requests == []


def test_a_version_may_get_another_name(pushed: str, tmp_path: Path) -> None:
    result = pull(pushed, tmp_path / "mine", "--name", "little@7")

    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "mine" / "little" / "7")
    assert (manifest.name, manifest.version) == ("little", "7")


def test_a_second_version_joins_the_first(pushed: str, tmp_path: Path) -> None:
    pull(pushed, tmp_path / "mine", "--no-check")

    pull(pushed, tmp_path / "mine", "--no-check", "--name", "tiny@2")

    assert sorted(folder.name for folder in (tmp_path / "mine" / "tiny").iterdir()) == ["1", "2"]


def test_the_same_version_may_be_pulled_twice_and_another_does_not_replace_it(
    pushed: str, registry: MemoryRegistry, models: Path, tmp_path: Path
) -> None:
    pull(pushed, tmp_path / "mine", "--no-check")
    again = pull(pushed, tmp_path / "mine", "--no-check")
    run("push", "scale", f"oci://{registry.host}/scale", "--repository", models)
    before = contents(tmp_path / "mine")

    other = pull(f"oci://{registry.host}/scale", tmp_path / "mine", "--no-check", "--name", "tiny@1")

    assert again.exit_code == 0, again.output
    assert other.exit_code == 1
    assert "another version" in other.output
    assert contents(tmp_path / "mine") == before


# --- what is changed, damaged or hostile ---


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "golden.npz"])
@pytest.mark.parametrize("damage", ["changed", "shorter", "longer", "gone"])
def test_a_blob_that_is_not_what_its_digest_says_is_refused(
    models: Path, registry: MemoryRegistry, pushed: str, tmp_path: Path, file: str, damage: str
) -> None:
    content = (models / "tiny" / "1" / file).read_bytes()
    changed = {"changed": content[:-1] + b"?", "shorter": content[:-1], "longer": content + b"?"}
    if damage == "gone":
        del registry.blobs[digest_of(content)]
    else:
        registry.replace(content, changed[damage])

    said = refused(pushed, tmp_path, "--no-check")

    assert file in said


def test_a_manifest_that_is_not_the_pinned_one_is_refused(
    registry: MemoryRegistry, pushed: str, tmp_path: Path
) -> None:
    digest = digest_of(registry.manifests["models/tiny", "1"])
    registry.rewrite("models/tiny", digest, layers=layers(registry)[:2])

    said = refused(f"{pushed}@{digest}", tmp_path)

    assert f"not {digest}" in said


def test_a_manifest_that_is_not_what_its_registry_says_is_refused(tmp_path: Path) -> None:
    def damaged(request: Request) -> Answer:
        return Answer(200, b'{"layers": []}', {"docker-content-digest": digest_of(b"another")})

    with serving(damaged) as host:
        assert f"not {digest_of(b'another')}" in refused(f"oci://{host}/tiny", tmp_path)


def test_a_pinned_version_comes_whatever_the_tag_is_by_now(
    models: Path, registry: MemoryRegistry, pushed: str, tmp_path: Path
) -> None:
    digest = digest_of(registry.manifests["models/tiny", "1"])
    run("push", "scale", pushed, "--repository", models)

    assert pull(f"{pushed}@{digest}", tmp_path / "mine", "--no-check").exit_code == 0
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["tiny"]


def test_a_file_that_the_models_own_manifest_does_not_know_is_refused(
    registry: MemoryRegistry, pushed: str, tmp_path: Path
) -> None:
    other = scale_bytes(3.0)
    registry.blobs[digest_of(other)] = other
    changed = layers(registry)
    changed[2] |= {"digest": digest_of(other), "size": len(other)}
    registry.rewrite("models/tiny", "1", layers=changed)

    assert "model.onnx has the SHA-256" in refused(pushed, tmp_path, "--no-check")


def test_a_graph_that_computes_something_else_fails_its_check(
    models: Path, registry: MemoryRegistry, tmp_path: Path, network: LinearClassifier
) -> None:
    network.write(tmp_path / "others", "tiny")
    golden = LinearClassifier(seed=9).write(tmp_path / "seeded", "tiny") / "golden.npz"
    (tmp_path / "others" / "tiny" / "1" / "golden.npz").write_bytes(golden.read_bytes())
    run("push", "tiny", f"oci://{registry.host}/tiny", "--repository", tmp_path / "others")

    assert "cannot be served" in refused(f"oci://{registry.host}/tiny", tmp_path)


TITLES = ["../model.onnx", "/tmp/model.onnx", "a/model.onnx", "..", ".hidden", "", "a\\b", "a\0b", "x" * 129, "é"]


@pytest.mark.parametrize("title", TITLES)
def test_a_title_that_is_no_plain_name_is_refused(
    registry: MemoryRegistry, pushed: str, tmp_path: Path, title: str
) -> None:
    changed = layers(registry)
    changed[2]["annotations"] = {TITLE: title}
    registry.rewrite("models/tiny", "1", layers=changed)
    before = set(tmp_path.rglob("*"))

    assert repr(title) in refused(pushed, tmp_path, "--no-check")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"layers": []}, "no layers"),
        ({"layers": [{"digest": digest_of(b""), "size": 0, "mediaType": "x"}]}, "no title"),
        ({"layers": 2}, "its manifest is not that of an artifact"),
        ({"layers": [{"digest": "md5:00", "size": 1, "annotations": {TITLE: "model.onnx"}}]}, "'md5:00'"),
        ({"layers": [{"digest": digest_of(b""), "size": -1, "annotations": {TITLE: "model.onnx"}}]}, "-1 bytes"),
        ({"layers": [{"digest": digest_of(b""), "size": 1 << 62, "annotations": {TITLE: "model.onnx"}}]}, "the disk"),
        ({"layers": [{"digest": digest_of(b""), "size": 0, "annotations": {TITLE: "model.onnx"}}] * 2}, "Two layers"),
        ({"annotations": {"note": "x" * MAX_MANIFEST_BYTES}}, "more than 4,194,304 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_artifact_that_holds_no_model_is_refused(
    registry: MemoryRegistry, pushed: str, tmp_path: Path, members: dict[str, Any], said: str
) -> None:
    registry.rewrite("models/tiny", "1", **members)

    assert said in refused(pushed, tmp_path, "--no-check")


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", "."])
def test_the_name_that_an_artifact_gives_itself_is_no_path(
    models: Path, registry: MemoryRegistry, tmp_path: Path, name: str
) -> None:
    address = f"oci://{registry.host}/scale"
    run("push", "scale", address, "--repository", models)
    registry.rewrite("scale", "latest", annotations={TITLE: name})

    assert repr(name) in refused(address, tmp_path, "--no-check")


def test_another_name_and_number_may_replace_those_that_are_none(
    models: Path, registry: MemoryRegistry, tmp_path: Path
) -> None:
    address = f"oci://{registry.host}/scale"
    run("push", "scale", address, "--repository", models)
    registry.rewrite("scale", "latest", annotations={TITLE: "A Scale", "org.opencontainers.image.version": "1.0"})

    assert "'A Scale'" in refused(address, tmp_path, "--no-check")
    assert pull(address, tmp_path / "mine", "--no-check", "--name", "scale@1").exit_code == 0


# --- the network ---


def test_a_download_goes_on_where_its_connection_broke(registry: MemoryRegistry, models: Path, tmp_path: Path) -> None:
    write_bare(models, "large", bytes(range(256)) * 1000)
    run("push", "large", f"oci://{registry.host}/large", "--repository", models)
    registry.num_sent = [100_000, 100_000]

    result = pull(f"oci://{registry.host}/large", tmp_path / "mine", "--no-check")

    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "mine" / "large") == contents(models / "large")
    ranges = [request.headers["range"] for request in registry.requests if "range" in request.headers]
    assert ranges == ["bytes=65536-", "bytes=131072-"]


def test_a_download_that_never_ends_whole_is_given_up(registry: MemoryRegistry, pushed: str, tmp_path: Path) -> None:
    registry.num_sent = [10] * 20

    assert "golden.npz ended after 0 of its" in refused(pushed, tmp_path)
    assert len(registry.num_sent) == 16


def test_nobody_there_is_said_at_once(models: Path, tmp_path: Path) -> None:
    address = NOBODY.replace("http", "oci") + "/tiny"

    said = run("push", "tiny", address, "--repository", models).output

    assert "No registry answers at http://127.0.0.1:9" in said
    assert "No registry answers at http://127.0.0.1:9" in refused(address, tmp_path)


def test_a_registry_without_the_model_says_so(registry: MemoryRegistry, tmp_path: Path) -> None:
    assert "404" in refused(f"oci://{registry.host}/tiny:3", tmp_path)


@pytest.mark.parametrize("wants_tokens", [False, True], ids=["basic", "tokens"])
def test_credentials_come_from_dockers_configuration(models: Path, tmp_path: Path, wants_tokens: bool) -> None:
    with MemoryRegistry("ada:secret", wants_tokens=wants_tokens).running() as registry:
        address = f"oci://{registry.host}/models/tiny"
        (tmp_path / "config.json").write_text(docker_config(registry.host, "ada:secret"))
        (tmp_path / "wrong").mkdir()
        (tmp_path / "wrong" / "config.json").write_text(docker_config(registry.host, "ada:guess"))

        for folder in ("nowhere", "wrong"):
            result = run("push", "tiny", address, "--repository", models, DOCKER_CONFIG=str(tmp_path / folder))
            assert result.exit_code == 1
            assert f"401 from {registry.host}" in result.output
        sent = run("push", "tiny", address, "--repository", models, DOCKER_CONFIG=str(tmp_path))
        got = pull(address, tmp_path / "mine", "--no-check", DOCKER_CONFIG=str(tmp_path))

    assert sent.exit_code == 0, sent.output
    assert got.exit_code == 0, got.output


def docker_config(host: str, login: str) -> str:
    return json.dumps({"auths": {host: {"auth": base64.b64encode(login.encode()).decode()}}})


def test_credentials_stay_with_their_registry(tmp_path: Path, models: Path) -> None:
    strangers: list[Request] = []

    def stranger(request: Request) -> Answer:
        strangers.append(request)
        return Answer(201)

    with serving(stranger) as elsewhere, MemoryRegistry("ada:secret").running() as registry:
        registry.uploads_to = f"http://{elsewhere}/up"
        (tmp_path / "config.json").write_text(docker_config(registry.host, "ada:secret"))
        run("push", "tiny", f"oci://{registry.host}/t", "--repository", models, DOCKER_CONFIG=str(tmp_path))

    assert strangers
    assert [request.headers.get("authorization") for request in strangers] == [None] * len(strangers)


@pytest.mark.parametrize(
    ("host", "is_insecure", "scheme"),
    [
        ("localhost:5000", False, "http"),
        ("127.0.0.1:5000", False, "http"),
        ("127.8.0.1", False, "http"),
        ("[::1]:5000", False, "http"),
        ("registry.example.com", False, "https"),
        ("localhost.example.com", False, "https"),
        ("10.0.0.1:5000", False, "https"),
        ("10.0.0.1:5000", True, "http"),
    ],
)
def test_plain_http_is_for_this_machine_or_by_wish(host: str, is_insecure: bool, scheme: str) -> None:
    assert Registry.parse(f"{host}/team/tiny:1", is_insecure=is_insecure).scheme == scheme


@pytest.mark.parametrize(
    "address", ["tiny", "host/", "host/Upper", "host/a:b:c", "host/a@sha256:00", "host/../a", "h/a b"]
)
def test_an_address_that_is_none_is_bad_usage(address: str, models: Path) -> None:
    result = run("push", "tiny", f"oci://{address}", "--repository", models)

    assert result.exit_code == 2
    assert f"oci://{address} is no address" in result.output


def test_a_push_cannot_choose_its_digest(models: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()

    result = run("push", "tiny", f"oci://127.0.0.1:9/tiny@sha256:{digest}", "--repository", models)

    assert result.exit_code == 1
    assert "only a push makes" in result.output
