"""What the OpenAPI document says of the routes of encoders: their answers. It runs nothing."""

from __future__ import annotations

from pydantic import BaseModel


class EncodedPicture(BaseModel):
    """Where the latent of one picture lies: a normal distribution, number by number."""

    mean: list[float]
    log_variance: list[float]


class Encoded(BaseModel):
    """The answer of `encode`."""

    model: str
    version: str
    results: list[EncodedPicture]


class ReconstructedPicture(BaseModel):
    """One picture as the model draws it and the heat of its errors, PNGs in base64; and its scores in nats.

    `input`, where it is asked for, holds the very pixels that the network was fed.

    `negative_elbo`, `rate` and `distortion` together, is what the model needs for the picture; `anomaly_score` is that
    less what an optimised PNG file needs: the higher, the less the picture is like those that the model was trained on.
    """

    image: str
    error_map: str
    anomaly_score: float
    negative_elbo: float
    rate: float
    distortion: float
    input: str | None = None


class Reconstructed(BaseModel):
    """The answer of `reconstruct`."""

    model: str
    version: str
    results: list[ReconstructedPicture]
