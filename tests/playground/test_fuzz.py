"""Presses every control of the page in random order: whatever is done to it, it makes no mistake of its own."""

from __future__ import annotations

import random
import time

import pytest
from playwright.sync_api import Error, Page

from tests.playground.conftest import Open, Watched

TASK_PAGES = (
    "#/classify",
    "#/stylize",
    "#/write",
    "#/write/novelist-lstm",
    "#/correct",
    "#/draw",
    "#/draw/fashion-vae",
)
PAGES = ("#/", *TASK_PAGES, "#/watch")
CONTROLS = "#main :is(button, a[href^='#'], input:not([type=file]), select, textarea, summary, [tabindex='0'])"
# Mistakes of the page itself; what the service refuses is no mistake. A browser logs every answer with an error status.
REFUSALS = ("status of 4", "status of 503")
KEYS = ("Enter", "Space", "Escape", "ArrowLeft", "ArrowRight", "Home", "End", "Backspace", "x")
TEXTS = ("", "7", "-1", "It was", "ß→\n漢", "1e999", " ", "x" * 3000)
SECONDS_A_PAGE = 6
ACT = """([controls, place, text]) => {
  const all = [...document.querySelectorAll(controls)].filter((one) => one.checkVisibility() && !one.disabled);
  if (!all.length) return "nothing";
  const one = all[Math.floor(place * all.length)];
  const label = one.getAttribute("aria-label") || one.labels?.[0]?.textContent;
  const name = label || one.textContent.slice(0, 40) || one.className;
  one.focus();
  const changed = (next) => {
    one.value = next;
    for (const kind of ["input", "change"]) one.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  if (one.tagName === "SELECT") changed(one.options[Math.floor(Math.random() * one.options.length)]?.value ?? "");
  else if (one.type === "range") changed(Number(one.min) + Math.random() * (Number(one.max) - Number(one.min)));
  else if (one.matches("textarea, input[type=text], input:not([type])") && !one.readOnly) changed(text);
  else one.click();
  return `${one.tagName.toLowerCase()} ${name}`.trim();
}"""


def press_at_random(page: Page, dice: random.Random, seconds: float) -> list[str]:
    """Act on random controls, and press random keys, for some seconds; returns what was done."""
    done: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            done.append(page.evaluate(ACT, [CONTROLS, dice.random(), dice.choice(TEXTS)]))
            if dice.random() < 0.3:
                done.append(dice.choice(KEYS))
                page.keyboard.press(done[-1])
        except Error as error:  # a link went to another page meanwhile
            assert "context was destroyed" in str(error), done[-20:]  # noqa: PT017
        if dice.random() < 0.3:
            page.wait_for_timeout(dice.choice((20, 150, 600)))
    return done


@pytest.mark.parametrize("seconds", [10, pytest.param(120, marks=pytest.mark.slow)])
def test_no_order_of_pressing_controls_makes_the_page_err(open_page: Open, watched: Watched, seconds: float) -> None:
    watched.expected = REFUSALS
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    page = open_page()
    done: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        page.goto(f"/{dice.choice(PAGES)}")
        page.reload()
        page.wait_for_timeout(300)
        done += press_at_random(page, dice, min(SECONDS_A_PAGE, max(1.0, deadline - time.monotonic())))
        shown = page.get_by_role("alert").all_inner_texts()
        assert not [text for text in shown if "made a mistake" in text], (seed, done[-30:])
        assert watched.faults() == [], (seed, done[-30:])

    assert len(set(done)) > seconds
