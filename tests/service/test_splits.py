from __future__ import annotations

import itertools

import pytest

from service.settings import Settings
from service.splits import Split, Turns, parse_split
from tests.service.cli.command import run


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("digits@2", Split("digits", "2", "1")),
        ("Digits.v2@17:0.1", Split("Digits.v2", "17", "0.1")),
        ("digits@2:.05", Split("digits", "2", ".05")),
        ("digits@2:1.0", Split("digits", "2", "1.0")),
    ],
)
def test_a_split_names_a_version_and_a_share(text: str, split: Split) -> None:
    assert parse_split(text) == split


@pytest.mark.parametrize("text", ["digits", "digits@", "@2", "digits@0", "digits@2:", "digits@2:0", "digits@2:0.00"])
@pytest.mark.parametrize("setting", ["shadow", "canary"])
def test_what_names_no_version_or_share_is_refused(setting: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"it must be model@version or model@version:share"):
        Settings.model_validate({setting: text})


@pytest.mark.parametrize("share", ["2", "1.5", "-0.1", "0.1x", "nan", "1e-3"])
def test_a_share_is_above_0_and_up_to_1(share: str) -> None:
    with pytest.raises(ValueError, match="a share above 0 and up to 1"):
        parse_split(f"digits@2:{share}")


def test_splits_come_from_options_that_repeat_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTPLATE_SHADOW", "a@2, b@3:0.5")

    assert Settings().shadow_splits == (Split("a", "2"), Split("b", "3", "0.5"))
    assert Settings.model_validate({"shadow": ["a@2", "b@3,c@4"]}).shadow == ("a@2", "b@3", "c@4")
    assert Settings.model_validate_json(Settings().model_dump_json()).shadow == ("a@2", "b@3:0.5")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--shadow", "a@2", "--shadow", "a@2:0.5"), "a@2 is named twice"),
        (("--canary", "a@2:0.1", "--canary", "a@3:0.1"), "a model has one canary at a time"),
        (("--canary", "a@2"), "it needs a share of the requests, as a@2:0.05"),
        (("--shadow", "a"), "shadow.0 is 'a': "),
    ],
)
def test_splits_that_contradict_each_other_are_refused_at_the_start(options: tuple[str, ...], reason: str) -> None:
    result = run("serve", *options)

    assert result.exit_code == 2
    assert reason in result.output


@pytest.mark.parametrize(("share", "taken"), [("1", 10), ("0.1", 1), ("0.25", 2), (".3", 3), ("0.05", 0)])
def test_turns_are_the_share_exactly_and_evenly(share: str, taken: int) -> None:
    turns = Turns(share)
    takes = [turns.take() for _ in range(1000)]

    assert sum(takes) == round(float(share) * 1000)
    assert sum(takes[:10]) == taken
    gaps = [b - a for a, b in itertools.pairwise(i for i, take in enumerate(takes) if take)]
    assert max(gaps) - min(gaps) <= 1
