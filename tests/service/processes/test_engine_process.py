from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import StartupError
from service.processes.engine_process import check_splits
from service.settings import Settings
from tests.fake_models.bare_graphs import scale_bytes, write_bare
from tests.fake_models.text_generation import AttentionDecoder


def settings_of(repository: Path, control: str = "none", **splits: str) -> Settings:
    write_bare(repository, "scale", scale_bytes(2))
    AttentionDecoder().write(repository)
    return Settings.model_validate({"repository": repository, "model_control": control, **splits})


@pytest.mark.parametrize(
    ("splits", "reason"),
    [
        ({"shadow": "scale@2"}, r"--shadow scale@2 is in no model repository; it has \['1'\]"),
        ({"canary": "absent@1:0.1"}, r"--canary absent@1 is in no model repository; there are \['scale', 'tiny-tr"),
        ({"shadow": "tiny-transformer@1"}, r"--shadow tiny-transformer@1 is a language model"),
    ],
)
def test_a_shadow_or_a_canary_that_cannot_be_is_refused(tmp_path: Path, splits: dict[str, str], reason: str) -> None:
    with pytest.raises(StartupError, match=reason):
        check_splits(settings_of(tmp_path, **splits))


def test_a_language_model_may_be_a_canary(tmp_path: Path) -> None:
    check_splits(settings_of(tmp_path, canary="tiny-transformer@1:0.1"))


@pytest.mark.parametrize("control", ["poll", "explicit"])
def test_what_may_still_come_is_waited_for(tmp_path: Path, control: str, caplog: pytest.LogCaptureFixture) -> None:
    check_splits(settings_of(tmp_path, control, shadow="scale@2"))

    assert "--shadow scale@2 is in no model repository" in caplog.text
