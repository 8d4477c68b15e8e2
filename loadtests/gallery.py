"""Draws sample images beside their explanation and the likeliest labels, as one PNG.

`python -m loadtests.gallery --url http://127.0.0.1:8000`. It asks a running service over HTTP.
"""

from __future__ import annotations

import argparse
import io
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
from PIL import Image

from loadtests.servers import ROOT

SAMPLES = (
    ("fashion-mnist", "ankle_boot_on_paper.jpg"),
    ("fashion-mnist", "shirt.png"),
    ("mnist", "zero_on_paper_turned.jpg"),
    ("cifar10", "ship.jpg"),
)


def ask(url: str, model: str, file: Path) -> dict[str, Any]:
    """Classify one image and explain it."""
    address = f"{url}/v1/models/{model}/classify"
    response = httpx.post(address, params={"top_k": "3", "explain": "true"}, content=file.read_bytes(), timeout=30)
    response.raise_for_status()
    result: dict[str, Any] = response.json()["results"][0]
    return result


def draw(url: str, output: Path) -> None:
    """Write the gallery."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, rows = plt.subplots(len(SAMPLES), 3, figsize=(8, 2.4 * len(SAMPLES)), width_ratios=(1, 1, 1.2))
    for (model, name), (left, middle, right) in zip(SAMPLES, rows, strict=True):
        file = ROOT / "tests" / "data" / name
        result = ask(url, model, file)
        left.imshow(Image.open(file).convert("RGB"))
        left.set_title(f"{name}\nsent to {model}", fontsize=8)
        middle.imshow(Image.open(io.BytesIO(b64decode(result["explanation"]))))
        middle.set_title("what it was fed,\nand what it looked at", fontsize=8)
        left.axis("off")
        middle.axis("off")
        predictions = result["predictions"][::-1]
        bars = right.barh([p["label"] for p in predictions], [p["probability"] for p in predictions], color="#d9480f")
        right.bar_label(bars, [f"{p['probability']:.3f}" for p in predictions], padding=3, fontsize=8)
        right.set_xlim(0, 1.2)
        right.tick_params(labelsize=8)
        right.set_xticks([])
        for side in ("top", "right", "bottom"):
            right.spines[side].set_visible(False)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def main() -> None:
    """Draw the gallery from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service listens (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "loadtests" / "reports" / "gallery.png")
    arguments = parser.parse_args()
    draw(arguments.url, arguments.output)


if __name__ == "__main__":
    main()
