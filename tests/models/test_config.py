from __future__ import annotations

import math
from pathlib import Path

import pytest

from models.config import ModelConfig, VersionPolicy, parse_config, read_config
from models.strict import StrictError


def written(folder: Path, text: str) -> ModelConfig:
    (folder / "config.toml").write_text(text)
    return read_config(folder)


def test_a_model_without_a_file_is_served_as_the_service_is_set(tmp_path: Path) -> None:
    config = read_config(tmp_path)

    assert config.version_policy == VersionPolicy(latest=1)
    assert config.overrides() == {}
    assert (config.cache_bytes, config.warm_up) == (0, True)


def test_every_setting_is_read(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """
        version_policy = { latest = 2 }
        max_batch_size = 8
        max_queue_delay_seconds = 0.002
        instances = 3
        threads = 1
        max_queue_rows = 50
        request_timeout_seconds = 1
        cache_bytes = 1000
        warm_up = false
        precision = "int8"
        max_loss = 0.2
        """,
    )

    assert config.version_policy.most == 2
    assert (config.request_timeout_seconds, config.cache_bytes, config.warm_up) == (1.0, 1000, False)
    assert config.overrides() == {
        "max_batch_size": 8,
        "max_queue_delay_seconds": 0.002,
        "instances": 3,
        "threads": 1,
        "max_queue_rows": 50,
        "precision": "int8",
    }
    assert config.max_loss == 0.2


@pytest.mark.parametrize(
    ("text", "served", "most"),
    [
        ("{ latest = 2 }", ["3", "2", "1"], 2),
        ('"all"', ["3", "2", "1"], math.inf),
        ("{ specific = [1, 3, 7] }", ["3", "1"], math.inf),
    ],
)
def test_a_policy_names_versions(tmp_path: Path, text: str, served: list[str], most: float) -> None:
    policy = written(tmp_path, f"version_policy = {text}").version_policy

    assert (policy.candidates(["3", "2", "1"]), policy.most) == (served, most)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", r"config\.toml is not TOML"),
        ("max_batch = 1", "unknown field `max_batch`; known are version_policy"),
        ("max_batch_size = '4'", r"config\.toml\.max_batch_size is '4'; expected `int`, got `str`"),
        ("max_batch_size = -1", "max_batch_size is -1; it must be at least 0"),
        ("instances = 0", "instances is 0; it must be at least 1"),
        ("threads = 1000000", "threads is 1000000; it must be at most 1024"),
        ("max_queue_delay_seconds = inf", "max_queue_delay_seconds is inf"),
        ("max_queue_delay_seconds = nan", "max_queue_delay_seconds is nan"),
        ("precision = 'int2'", "precision: Invalid enum value 'int2'; valid are auto, bf16, fp16, fp32, int4, int8"),
        ("max_loss = -0.1", r"max_loss is -0\.1; it must be at least 0"),
        ("request_timeout_seconds = 0", "request_timeout_seconds is 0.0; it must be above 0"),
        ("version_policy = 'newest'", r"version_policy is 'newest'; expected `object`"),
        ("version_policy = { latest = 0 }", "latest is 0; it must be at least 1"),
        ("version_policy = { latest = 1, specific = [2] }", "must be one of"),
        ("version_policy = {}", "must be one of"),
    ],
)
def test_unknown_settings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StrictError, match=message):
        written(tmp_path, text)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(StrictError, match="not TOML"):
        read_config(tmp_path)


def test_the_same_settings_come_as_json() -> None:
    assert parse_config('{"version_policy": "all", "instances": 2}').instances == 2
    with pytest.raises(StrictError, match="not JSON"):
        parse_config("{")
    with pytest.raises(StrictError, match="expected `object`"):
        parse_config("[]")
