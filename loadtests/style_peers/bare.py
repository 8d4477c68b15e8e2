"""The painter's own graph in bare ONNX Runtime, between Pillow's decoder and encoder: what serving it adds to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from loadtests.bare import open_session
from loadtests.style_peers.protocol import Paint, serve


def load(model: Path, threads: int) -> Paint:
    """Open the graph; every style has the same share, which takes as long as one alone."""
    import numpy as np
    from PIL import Image

    session = open_session(str(model), threads)
    (num_styles,) = (spec.shape[1] for spec in session.get_inputs() if spec.name == "style_weights")
    weights = np.full((1, num_styles), 1 / num_styles, np.float32)

    def paint(photo: Any) -> Any:
        feeds = {"image": np.asarray(photo)[None], "style_weights": weights}
        return Image.fromarray(session.run(["painting"], feeds)[0][0])

    return paint


def main() -> None:
    """Answer jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    serve(lambda: load(given.model, given.threads))


if __name__ == "__main__":
    main()
