from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.versions import Default, read_default
from tests.fake_models.bare_graphs import scale_bytes, write_bare, write_scale
from tests.fake_models.classification import LinearClassifier
from tests.fake_models.text_generation import AttentionDecoder
from tests.servers import RunningService, until
from tests.service.cli.command import NOBODY, run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """ONNX files that multiply by the number in their name."""
    folder = tmp_path / "files"
    folder.mkdir()
    for factor in (2, 3):
        (folder / f"times-{factor}.onnx").write_bytes(scale_bytes(factor))
    (folder / "broken.onnx").write_bytes(b"no graph")
    return folder


def test_a_model_grows_by_versions_that_are_promoted_and_rolled_back(tmp_path: Path, files: Path) -> None:
    repository = tmp_path / "new" / "repository"
    where = ("--repository", repository)
    added = [run("new-version", "scale", files / f"times-{factor}.onnx", *where) for factor in (2, 3)]
    promoted = run("promote", "scale@2", *where)

    assert [each.exit_code for each in (*added, promoted)] == [0, 0, 0], promoted.output
    assert added[0].output == f"scale@1 is {repository / 'scale' / '1'}.\n"
    assert "The default is still 1; `hotplate promote scale@2` changes that." in added[1].output
    assert promoted.output == "scale@2 is the default; before it was 1.\n"
    assert (repository / "scale" / "2" / "model.onnx").read_bytes() == scale_bytes(3)

    copied = run("new-version", "scale", *where)
    assert "scale@3 is" in copied.output
    assert (repository / "scale" / "3" / "model.onnx").read_bytes() == scale_bytes(3)  # that of the default

    assert run("rollback", "scale", *where).output == "scale@1 is the default again; before it was 2.\n"
    again = run("rollback", "scale", *where)
    assert again.exit_code == 1
    assert "scale: version 1 is its first default; there is none to return to." in again.output


def test_the_repository_may_come_from_the_environment(tmp_path: Path, files: Path) -> None:
    made = run("new-version", "scale", files / "times-2.onnx", HOTPLATE_REPOSITORY=f"{tmp_path / 'a'}:{tmp_path / 'b'}")

    assert made.exit_code == 0
    assert (tmp_path / "a" / "scale" / "1" / "model.onnx").exists()


def test_a_version_that_was_copied_in_by_hand_is_rolled_back_too(tmp_path: Path) -> None:
    for version in (1, 2):
        write_bare(tmp_path, "scale", scale_bytes(version), str(version))

    assert run("rollback", "scale", "--repository", tmp_path).output.startswith("scale@1 is the default again")
    (tmp_path / "scale" / "default").unlink()
    assert run("promote", "scale@2", "--repository", tmp_path).output.endswith("before it was 1.\n")
    assert run("rollback", "scale", "--repository", tmp_path).exit_code == 0
    assert read_default(tmp_path / "scale") == Default("1")


def test_a_version_that_cannot_be_served_is_not_promoted(
    tmp_path: Path, files: Path, network: LinearClassifier
) -> None:
    where = ("--repository", tmp_path)
    write_bare(tmp_path, "scale", scale_bytes(2))
    run("new-version", "scale", files / "broken.onnx", *where)
    network.write(tmp_path, "tiny")
    damaged = network.write(tmp_path, "tiny", "2")
    (damaged / "model.onnx").write_bytes(LinearClassifier(seed=9).onnx())

    broken, changed = (run("promote", f"{name}@2", *where) for name in ("scale", "tiny"))

    assert (broken.exit_code, changed.exit_code) == (1, 1)
    assert "scale@2 cannot be served: ONNX Runtime cannot load the graph" in broken.output
    assert "tiny@2 cannot be served: model.onnx has the SHA-256" in changed.output
    assert read_default(tmp_path / "scale") == Default("1")


@pytest.mark.parametrize(
    ("command", "reason", "status"),
    [
        (("promote", "scale"), "'scale' is no version; name one as model@2.", 2),
        (("promote", "scale@7"), "'scale' has no version '7'; it has: 1.", 1),
        (("promote", "other@1"), "There is no model 'other' in the repository", 1),
        (("rollback", "other"), "There is no model 'other' in the repository", 1),
        (("rollback", "scale"), "scale: it has had no other default; there is none to return to.", 1),
        (("new-version", "other"), "'other' has no version to copy", 2),
        (("new-version", "a/b", "."), "'a/b' is no name for a model", 2),
        (("new-version", "scale", "tests"), "'tests' is no version folder", 1),
        (("promote", "scale@1", "--min-agreement", "0.9", "--url", NOBODY), "No service answers at", 1),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path: Path, command: tuple[str, ...], reason: str, status: int) -> None:
    write_bare(tmp_path, "scale", scale_bytes(2))

    result = run(*command, "--repository", tmp_path)

    assert result.exit_code == status, result.output
    assert reason in result.output


# --- beside a running service ---


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, Path]]:
    """Versions 2 and 3 of `scale` shadow the first, with which 3 agrees; `split` sends a quarter to its second."""
    repository = tmp_path_factory.mktemp("repository")
    for version, factor in (("1", 2), ("2", 5), ("3", 2)):
        write_scale(repository, factor, version)
        write_scale(repository, factor, version, "split")
    Default("1").write(repository / "split")
    options = ("--shadow", "scale@2", "--shadow", "scale@3", "--canary", "split@2:0.25", "--model-control", "poll")
    with RunningService(repository, *options, "--instances", "1") as service:
        yield service.wait_until_ready(), repository


def infer(service: RunningService, model: str) -> tuple[str, float]:
    """The version that answers, and by what it multiplies."""
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 1, 1]}]}
    answer = httpx.post(f"{service.url}/v2/models/{model}/infer", json=body).raise_for_status().json()
    return answer["model_version"], answer["outputs"][0]["data"][0]


def test_a_canary_answers_its_share_and_says_so(serving: tuple[RunningService, Path]) -> None:
    service, _ = serving

    answers = [infer(service, "split") for _ in range(20)]

    assert answers == [("1", 2.0), ("1", 2.0), ("1", 2.0), ("2", 5.0)] * 5
    assert {infer(service, "split/versions/1") for _ in range(8)} == {("1", 2.0)}
    assert httpx.get(f"{service.url}/v1/models/split").json()["version"] == "1"


def test_a_shadow_is_promoted_once_it_agrees_and_the_service_follows(serving: tuple[RunningService, Path]) -> None:
    service, repository = serving

    def promote(version: int, *options: object) -> str:
        address = ("--repository", repository, "--min-agreement", "0.99", "--url", service.url)
        result = run("promote", f"scale@{version}", *address, *options)
        assert result.exit_code == (0 if "is the default" in result.output else 1)
        return result.output

    assert "scale@3 is compared on 0 requests; 100 are wanted." in promote(3)
    for _ in range(30):
        assert infer(service, "scale") == ("1", 2.0)
    card = f"{service.url}/v1/models/scale"
    until(lambda: [each["num_requests"] for each in httpx.get(card).json()["shadows"]] == [30, 30])

    table = run("models", "--url", service.url, "shadows").output
    assert "scale@2 beside 1" in table
    assert " 0.00 % of 30 " in table
    assert " 100.00 % of 30 " in table
    assert "scale@2 agrees with version 1 on 0.00 % of 30 rows; 99.00 % are wanted." in promote(2, "--min-requests", 30)
    assert "scale@1 is compared with nothing" in promote(1)
    assert "scale@3 is the default; before it was 1." in promote(3, "--min-requests", 30)

    until(lambda: infer(service, "scale") == ("3", 2.0))
    listed = run("models", "--url", service.url).output
    assert "3 (default)" in listed
    assert "1 (default)" in listed  # of split
    assert httpx.get(f"{card}@1").status_code in (200, 404)
    index = httpx.post(f"{service.url}/v2/repository/index").json()
    assert {each["version"] for each in index if each["name"] == "scale" and each["is_default"]} == {"3"}


def test_a_shadow_that_cannot_be_is_an_error_at_the_start(tmp_path: Path) -> None:
    AttentionDecoder().write(tmp_path)
    with RunningService(tmp_path, "--shadow", "tiny-transformer@1") as service:
        assert service.wait() == 1
        lines = "".join(service.lines)

    assert "--shadow tiny-transformer@1 is a language model; their texts are not compared." in lines
