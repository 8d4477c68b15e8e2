"""Puts four screenshots that the tests left side by side: `python -m tests.playground.montage`, for the README."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

SHOTS = Path(__file__).resolve().parent.parent.parent / "build" / "playground"
OUTPUT = Path(__file__).resolve().parent / "screenshots" / "pages.webp"
PAGES = ("stylize-light-1440", "draw-fashion-gan-light-1440", "write-light-1440", "watch-light-1440")
SHOWN = (1440, 1080)  # from the top of each page
SIZE = (720, 540)
GAP = 12
PAPER = (216, 210, 202)


def montage(shots: Path) -> Image.Image:
    """The tops of the four pages, two by two."""
    sheet = Image.new("RGB", (2 * SIZE[0] + GAP, 2 * SIZE[1] + GAP), PAPER)
    for index, name in enumerate(PAGES):
        with Image.open(shots / f"{name}.png") as shot:
            top = shot.convert("RGB").crop((0, 0, *SHOWN)).resize(SIZE, Image.Resampling.LANCZOS)
        sheet.paste(top, (index % 2 * (SIZE[0] + GAP), index // 2 * (SIZE[1] + GAP)))
    return sheet


if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    montage(SHOTS).save(OUTPUT, quality=78, method=6)
