"""Settings: every field checked, described, and settable from the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import SHIPPED_REPOSITORY, Settings, all_gpus, drop_service_links, unknown_variables


def test_the_defaults_are_local_and_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()

    assert (settings.host, settings.port, settings.grpc_listen_port) == ("127.0.0.1", 8000, 8001)
    assert settings.repositories == (SHIPPED_REPOSITORY,)
    assert settings.model_control == "none"
    assert settings.max_body_bytes == 32 * 2**20
    assert settings.max_image_pixels == 25_000_000
    assert settings.model_names == ()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    description = Settings.model_fields[name].description

    assert description
    assert description.endswith(".")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65536),
        ("port", -1),
        ("grpc_port", 65536),
        ("grpc_port", "on"),
        ("workers", 0),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("device", "cuda:0,"),
        ("device", "cuda:0,cuda:all"),
        ("max_batch_size", -1),
        ("max_queue_delay_seconds", -0.1),
        ("max_queue_rows", 0),
        ("request_timeout_seconds", 0),
        ("max_body_bytes", 0),
        ("header_timeout_seconds", -1),
        ("max_images", 0),
        ("decoders", 0),
        ("grace_seconds", 0),
        ("golden_tolerance", "small"),
        ("log_format", "xml"),
        ("log_level", "loud"),
        ("no_such_setting", 1),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


@pytest.mark.parametrize("name", ["request_timeout_seconds", "body_timeout_seconds", "max_queue_delay_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_time_is_finite(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_the_environment_sets_and_arguments_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPLATE_PORT", "8123")
    monkeypatch.setenv("HOTPLATE_MODELS", " mnist, ,cifar10 ")
    monkeypatch.setenv("HOTPLATE_CUDA_GRAPHS", "true")
    monkeypatch.setenv("HOTPLATE_GRPC_PORT", "off")

    assert Settings().port == 8123
    assert Settings(port=9).port == 9
    assert Settings().grpc_port == "off"
    assert Settings.model_validate({"grpc_port": "8123"}).grpc_port == 8123
    assert Settings().model_names == ("mnist", "cifar10")
    assert Settings().cuda_graphs is True


@pytest.mark.parametrize(
    ("port", "grpc_port", "listens"),
    [(8100, "auto", 8101), (0, "auto", 0), (65535, "off", None), (8000, 9000, 9000), (8000, 0, 0)],
)
def test_grpc_takes_the_port_after_that_of_http(port: int, grpc_port: str | int, listens: int | None) -> None:
    assert Settings.model_validate({"port": port, "grpc_port": grpc_port}).grpc_listen_port == listens


def test_there_is_no_port_after_the_last() -> None:
    with pytest.raises(ValidationError, match="the port after 65535"):
        Settings(port=65535)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().__setattr__("port", 1)


def test_several_repositories_are_named_as_in_a_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPLATE_REPOSITORY", os.pathsep.join(("/first", "/second")))

    assert Settings().repositories == (Path("/first"), Path("/second"))
    assert Settings(repository=["/third"]).repositories == (Path("/third"),)
    assert Settings(**Settings().model_dump(mode="json")).repositories == (Path("/first"), Path("/second"))


def test_a_mistyped_variable_is_told_the_nearest_setting() -> None:
    (wrong,) = unknown_variables(["HOTPLATE_PORT", "HOTPLATE_WORKER", "HOTPLATE_URL", "HOTPLATE_API_KEY", "PATH"])

    assert "HOTPLATE_WORKER;" in wrong
    assert "HOTPLATE_WORKERS" in wrong


def test_what_kubernetes_says_of_a_service_of_this_name_is_dropped() -> None:
    links = {
        "HOTPLATE_PORT": "tcp://10.0.0.1:8000",
        "HOTPLATE_SERVICE_HOST": "10.0.0.1",
        "HOTPLATE_SERVICE_PORT": "8000",
        "HOTPLATE_SERVICE_PORT_HTTP": "8000",
        "HOTPLATE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "HOTPLATE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "HOTPLATE_GRPC_PORT": "tcp://10.0.0.2:8001",
        "HOTPLATE_GRPC_SERVICE_HOST": "10.0.0.2",
    }
    environment = links | {"HOTPLATE_WORKERS": "2", "HOTPLATE_OTEL_ENDPOINT": "http://a:1", "OTHER_PORT": "tcp://a"}
    drop_service_links(environment)

    assert environment.keys() == {"HOTPLATE_WORKERS", "HOTPLATE_OTEL_ENDPOINT", "OTHER_PORT"}
    own = {"HOTPLATE_PORT": "8000"}
    drop_service_links(own)
    assert own


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ("cuda:0", "cuda:1")),
        ("3,1,0", ("cuda:0", "cuda:1", "cuda:2")),
        ("MIG-a1/2/0, MIG-b2/1/0", ("MIG-a1/2/0", "MIG-b2/1/0")),
        ("", ("cuda",)),
    ],
)
def test_all_gpus_are_those_that_cuda_may_use(visible: str | None, expected: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()

    assert all_gpus({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, tmp_path) == expected


def test_each_device_has_an_engine() -> None:
    assert Settings(device="cuda:0,MIG-5a/1/0,cpu").devices == ("cuda:0", "MIG-5a/1/0", "cpu")
    assert Settings().devices == ("auto",)
