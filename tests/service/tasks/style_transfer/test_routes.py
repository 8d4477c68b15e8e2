"""`stylize` and `styles` of the real service, against the network computed in NumPy."""

from __future__ import annotations

import socket
import threading
from base64 import b64decode, b64encode
from email.parser import BytesParser
from email.policy import HTTP
from io import BytesIO
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.tasks.style_transfer.tiling import plan_tiles
from tests.fake_models.style_transfer import STYLES, TinyStylizer
from tests.models.samples import png_header
from tests.servers import RunningService, until
from tests.service.http.calls import assert_problem
from tests.service.tasks.style_transfer.stylized import (
    PATH,
    STYLIZATION,
    Pixels,
    assert_alike,
    assert_painted,
    encoded,
    opened,
    painted,
)

SMALL, LARGE = (47, 33), (257, 511)


def random_image(stylizer: TinyStylizer, size: tuple[int, int], seed: int = 1) -> Pixels:
    pixels: Pixels = stylizer.images(1, *size, seed)[0]
    return pixels


def as_files(images: list[Pixels], names: list[str]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("file", (name, encoded(each), "image/png")) for name, each in zip(names, images, strict=True)]


def parts_of(response: httpx.Response) -> list[tuple[str, str, Pixels]]:
    """Name, media type and pixels of each part of a multipart answer."""
    assert response.status_code == 200, response.text
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + response.content)
    assert message.get_content_type() == "multipart/mixed"
    found = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        assert int(part["content-length"]) == len(content)
        found.append((part.get_filename() or "", part.get_content_type(), opened(content)))
    return found


@pytest.mark.parametrize("size", [(32, 32), SMALL, (96, 128), (100, 128), LARGE, (40, 600), (700, 33)])
def test_an_image_of_any_size_is_stylized_whole_or_in_seamless_tiles(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer, size: tuple[int, int]
) -> None:
    photo = random_image(stylizer, size)

    response = style_transfer_client.post(PATH, params={"style": "fields"}, content=encoded(photo))

    assert response.headers["content-type"] == "image/png"
    assert_painted(response, painted(stylizer, photo, stylizer.pure("fields")))
    tiles = len(plan_tiles(*size, STYLIZATION).tiles)
    assert (f'tiles;desc="{tiles}"' in response.headers["server-timing"]) == (tiles > 1)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (31, 400), (400, 31)])
def test_an_image_that_is_too_small_is_refused_with_its_size(
    style_transfer_client: httpx.Client, width: int, height: int
) -> None:
    body = encoded(np.zeros((height, width, 3), np.uint8))

    response = style_transfer_client.post(PATH, params={"style": "waves"}, content=body)

    assert_problem(response, 422, "picture_too_small", f"{width}x{height}", "at least 32")


def test_a_blend_at_its_corners_is_the_pure_style(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    body = encoded(random_image(stylizer, SMALL))
    for style in STYLES:
        others = ",".join(f"{other}:0" for other in STYLES if other != style)
        pure = style_transfer_client.post(PATH, params={"style": style}, content=body)
        corner = style_transfer_client.post(PATH, params={"styles": f"{style}:0.3,{others}"}, content=body)
        assert pure.status_code == corner.status_code == 200
        assert pure.content == corner.content


def test_a_blend_is_divided_by_its_sum(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    photo = random_image(stylizer, SMALL)

    response = style_transfer_client.post(PATH, params={"styles": " waves:3, night : 1"}, content=encoded(photo))

    assert_painted(response, painted(stylizer, photo, np.array([[0.75, 0, 0.25]], np.float32)))


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_strength_0_returns_the_photo(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer, size: tuple[int, int]
) -> None:
    photo = random_image(stylizer, size)

    response = style_transfer_client.post(PATH, params={"style": "waves", "strength": "0"}, content=encoded(photo))

    assert np.array_equal(opened(response.content), photo)
    assert "compute" not in response.headers["server-timing"]


def test_half_strength_is_halfway_between_photo_and_style(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    photo = random_image(stylizer, LARGE)
    painting = painted(stylizer, photo, stylizer.pure("night"))

    response = style_transfer_client.post(PATH, params={"style": "night", "strength": "0.5"}, content=encoded(photo))

    assert_painted(response, np.rint((photo.astype(float) + painting) / 2).astype(np.uint8))


def test_preserved_colors_are_the_photos_and_the_brightness_is_the_styles(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    photo = (random_image(stylizer, LARGE) // 4 + 96).astype(np.uint8)  # no channel reaches black or white
    painting = painted(stylizer, photo, stylizer.pure("waves"))
    flat = painted(stylizer, photo, stylizer.pure("waves")).astype(float)

    response = style_transfer_client.post(
        PATH, params={"style": "waves", "strength": "0.4", "preserve_color": "true"}, content=encoded(photo)
    )

    found = opened(response.content).astype(float)
    luma = np.array([0.299, 0.587, 0.114])
    expected = photo @ luma + 0.4 * (flat @ luma - photo @ luma)
    inside = (found > 0).all(axis=2) & (found < 255).all(axis=2)
    assert inside.mean() > 0.9
    assert np.abs(found @ luma - expected)[inside].max() < 1.5
    # Chroma: the differences between channels.
    assert np.abs(np.diff(found, axis=2) - np.diff(photo.astype(float), axis=2))[inside].max() <= 1
    assert not np.array_equal(opened(response.content), painting)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_alpha_is_kept(style_transfer_client: httpx.Client, stylizer: TinyStylizer, kind: str) -> None:
    colours = random_image(stylizer, LARGE)
    alpha = np.random.default_rng(3).integers(0, 256, (*LARGE, 1), np.uint8)

    response = style_transfer_client.post(
        PATH, params={"style": "waves", "format": kind}, content=encoded(np.concatenate([colours, alpha], axis=2))
    )

    found = opened(response.content)
    assert response.headers["content-type"] == f"image/{kind}"
    assert np.array_equal(found[:, :, 3:], alpha)
    if kind == "png":
        assert_alike(found[:, :, :3], painted(stylizer, colours, stylizer.pure("waves")))


def test_a_jpeg_shows_what_is_transparent_on_white(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)

    response = style_transfer_client.post(PATH, params={"style": "waves", "format": "jpeg"}, content=encoded(pixels))

    assert response.headers["content-type"] == "image/jpeg"
    assert (opened(response.content) >= 254).all()


def test_exif_orientation_is_applied(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    upright = random_image(stylizer, LARGE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    exif[0x010F] = "A camera"
    body = encoded(np.rot90(upright).copy(), exif=exif.tobytes())

    response = style_transfer_client.post(PATH, params={"style": "waves"}, content=body)

    assert_painted(response, painted(stylizer, upright, stylizer.pure("waves")))
    assert not Image.open(BytesIO(response.content)).getexif()
    assert b"camera" not in response.content


def test_concurrent_images_of_several_sizes_are_not_mixed_up(
    style_transfer_service: RunningService, stylizer: TinyStylizer
) -> None:
    sizes = [SMALL, LARGE, (64, 96), (300, 40)] * 3
    photos = [random_image(stylizer, size, seed) for seed, size in enumerate(sizes)]
    answers: list[httpx.Response | None] = [None] * len(sizes)

    def send(index: int) -> None:
        address = f"{style_transfer_service.url}{PATH}"
        style = STYLES[index % 3]
        answers[index] = httpx.post(address, params={"style": style}, content=encoded(photos[index]), timeout=30)

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    for index, answer in enumerate(answers):
        assert answer is not None
        assert_painted(answer, painted(stylizer, photos[index], stylizer.pure(STYLES[index % 3])))


def test_grey_and_16_bit_photos_are_stylized_in_colour(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    grey = random_image(stylizer, SMALL)[:, :, 0]
    expected = painted(stylizer, np.stack([grey] * 3, axis=2), stylizer.pure("waves"))

    for pixels in (grey, grey.astype(np.uint16) * 257):
        assert_painted(style_transfer_client.post(PATH, params={"style": "waves"}, content=encoded(pixels)), expected)


@pytest.mark.parametrize(
    ("kind", "media_type"), [("JPEG", "image/jpeg"), ("PNG", ""), ("WEBP", "application/octet-stream")]
)
def test_the_answer_has_the_format_of_the_image(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer, kind: str, media_type: str
) -> None:
    body = encoded(random_image(stylizer, SMALL), kind)
    headers = {"content-type": media_type} if media_type else {}

    response = style_transfer_client.post(PATH, params={"style": "waves"}, content=body, headers=headers)

    assert response.headers["content-type"] == f"image/{kind.lower()}"
    assert Image.open(BytesIO(response.content)).format == kind


def test_quality_changes_the_size(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    body = encoded(random_image(stylizer, LARGE))
    sizes = [
        len(
            style_transfer_client.post(
                PATH, params={"style": "waves", "format": "jpeg", "quality": q}, content=body
            ).content
        )
        for q in (5, 50, 100)
    ]

    assert sizes == sorted(sizes)
    assert sizes[0] * 3 < sizes[2]


def test_several_images_are_answered_as_multipart_with_their_names(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    photos = [random_image(stylizer, size, seed) for seed, size in enumerate([SMALL, LARGE, (64, 64), SMALL])]
    names = ["a.png", "../../etc/passwd", "C:\\b\\a.png", "Übung \u202e.png"]

    response = style_transfer_client.post(PATH, files=as_files(photos, names), data={"style": "night", "strength": "1"})

    parts = parts_of(response)
    assert [name for name, _, _ in parts] == ["a.png", "passwd.png", "a-2.png", "Übung.png"]
    assert {media_type for _, media_type, _ in parts} == {"image/png"}
    for photo, (_, _, found) in zip(photos, parts, strict=True):
        assert_alike(found, painted(stylizer, photo, stylizer.pure("night")))


def test_several_images_are_answered_as_a_zip_if_accepted(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer
) -> None:
    photos = [random_image(stylizer, SMALL, seed) for seed in range(3)]
    files = as_files(photos, ["x.png", "X.PNG", ""])

    response = style_transfer_client.post(
        PATH, files=files[:2], params={"style": "waves", "format": "jpeg"}, headers={"accept": "application/zip"}
    )

    assert response.headers["content-type"] == "application/zip"
    with ZipFile(BytesIO(response.content)) as archive:
        assert archive.namelist() == ["x.jpg", "X-2.jpg"]
        assert archive.testzip() is None
        assert opened(archive.read("x.jpg")).shape == photos[0].shape


def test_json_holds_images_and_parameters(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    photos = [random_image(stylizer, SMALL, seed) for seed in range(2)]
    images = [b64encode(encoded(photo)).decode() for photo in photos]

    single = style_transfer_client.post(
        PATH, json={"images": images[:1], "style": "waves", "strength": 1.0, "quality": 90}
    )
    both = style_transfer_client.post(PATH, json={"images": images, "styles": "waves:1", "preserve_color": False})

    expected = [painted(stylizer, photo, stylizer.pure("waves")) for photo in photos]
    assert_painted(single, expected[0])
    for (_, _, found), each in zip(parts_of(both), expected, strict=True):
        assert_alike(found, each)


def test_an_invalid_image_among_several_is_named(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    good = encoded(random_image(stylizer, SMALL))
    cases = [
        (b"hello", 415, "unsupported_media_type"),
        (good[:-40], 422, "undecodable_image"),
        (good[:100] + bytes(20) + good[120:], 422, "undecodable_image"),
        (png_header(3000, 3000), 413, "payload_too_large"),
    ]
    for bad, status, code in cases:
        files = [("file", ("a.png", good, "image/png")), ("file", ("b.png", bad, "image/png"))]
        assert_problem(
            style_transfer_client.post(PATH, files=files, data={"style": "waves"}),
            status,
            code,
            "Image 2 of 2 ('b.png')",
        )


@pytest.mark.parametrize(("width", "height"), [(2001, 2000), (16_385, 32), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(
    style_transfer_client: httpx.Client, width: int, height: int
) -> None:
    response = style_transfer_client.post(
        PATH, params={"style": "waves"}, content=png_header(width, height) + bytes(100)
    )

    assert_problem(response, 413, "payload_too_large", f"{width}x{height}")


def test_the_images_of_a_request_have_a_limit_in_total(style_transfer_client: httpx.Client) -> None:
    body = encoded(np.zeros((1900, 1900, 3), np.uint8))

    response = style_transfer_client.post(PATH, files=[("file", ("a.png", body))] * 5, data={"style": "waves"})

    assert_problem(response, 413, "payload_too_large", "18050000 pixels in total; at most 16000000")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "style is missing; known styles are waves, fields, night."),
        ({"style": "cubism"}, "There is no style 'cubism'; known are waves, fields, night."),
        ({"styles": "waves:1,cubism:1"}, "There is no style 'cubism'; known"),
        ({"style": "waves", "styles": "waves:1"}, "both given"),
        ({"styles": ""}, "styles is ''; it must be names with weights"),
        ({"style": "waves", "strength": "1.01"}, "strength is 1.01; it must be a number from 0 to 1."),
        ({"style": "waves", "quality": "1" * 40}, "quality is '1111"),
        ({"style": "waves", "top_k": "3"}, "Unknown parameter 'top_k'; known are style, styles, strength"),
    ],
)
def test_an_invalid_parameter_is_quoted_with_what_is_valid(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer, query: dict[str, str], message: str
) -> None:
    response = style_transfer_client.post(PATH, params=query, content=encoded(random_image(stylizer, SMALL)))

    assert_problem(response, 422, "invalid_parameter", message)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"hello", 415),
        ({"content-type": "application/octet-stream"}, b"hello", 415),
        ({"content-type": "image/png"}, b"", 422),
        ({}, b"", 422),
        ({"content-type": "application/json"}, b'{"images": ["aGk="], "style": 3}', 422),
        ({"content-type": "application/json"}, b'{"images": ["aGk="], "top_k": 3}', 422),
        ({"content-type": "application/json"}, b'{"images": []}', 422),
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "multipart/form-data; boundary=b"}, b"junk", 400),
    ],
)
def test_a_body_that_is_not_an_image_is_refused(
    style_transfer_client: httpx.Client, headers: dict[str, str], body: bytes, status: int
) -> None:
    response = style_transfer_client.post(f"{PATH}?style=waves", content=body, headers=headers)

    assert_problem(response, status, response.json()["code"])


def test_another_task_is_refused(style_transfer_client: httpx.Client, stylizer: TinyStylizer) -> None:
    body = encoded(random_image(stylizer, SMALL))

    stylized = style_transfer_client.post("/v1/models/tiny/stylize?style=waves", content=body)

    assert_problem(stylized, 422, "unsupported_task", "'tiny' does image-classification")
    assert_problem(style_transfer_client.get("/v1/models/tiny/styles"), 422, "unsupported_task", "style-transfer")
    assert_problem(
        style_transfer_client.post("/v1/models/tiny-stylizer/classify", content=body), 422, "unsupported_task"
    )


@pytest.mark.parametrize("reference", ["tiny-stylizer", "tiny-stylizer@1"])
def test_styles_are_listed_with_their_thumbnails(style_transfer_client: httpx.Client, reference: str) -> None:
    listed = style_transfer_client.get(f"/v1/models/{reference}/styles").json()

    assert (listed["model"], listed["version"]) == ("tiny-stylizer", "1")
    assert tuple(style["name"] for style in listed["styles"]) == STYLES
    for style in listed["styles"]:
        head, _, content = style["thumbnail"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert opened(b64decode(content)).shape == (12, 16, 3)


def test_a_deadline_ends_all_tiles_of_an_image(
    style_transfer_client: httpx.Client, stylizer: TinyStylizer, style_transfer_service: RunningService
) -> None:
    body = encoded(np.zeros((1900, 1900, 3), np.uint8))

    response = style_transfer_client.post(f"{PATH}?style=waves", content=body, headers={"x-request-timeout": "0.3"})

    assert response.status_code in (503, 504)
    assert_problem(response, response.status_code, response.json()["code"])
    assert_idle(style_transfer_client)


def test_a_caller_who_leaves_frees_the_engine(
    style_transfer_client: httpx.Client, style_transfer_service: RunningService
) -> None:
    body = encoded(np.zeros((1900, 1900, 3), np.uint8))
    head = f"POST {PATH}?style=waves HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"

    def num_painted() -> float:
        return total(style_transfer_client, "hotplate_rows_total", 'graph="tile"')

    before = num_painted()
    url = httpx.URL(style_transfer_service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as hasty:
        hasty.sendall(head.encode() + body)
        until(lambda: num_painted() > before)
    assert_idle(style_transfer_client)

    assert num_painted() - before < len(plan_tiles(1900, 1900, STYLIZATION).tiles)


def total(client: httpx.Client, metric: str, label: str = "") -> float:
    """The sum of a metric's series that have a label."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric) and label in line)


def assert_idle(client: httpx.Client) -> None:
    """Assert that no request is queued or in flight, and a new one is answered."""

    def is_idle() -> bool:
        # The scrape itself is in flight.
        return total(client, "hotplate_queue_depth") == 0 and total(client, "hotplate_requests_in_flight") == 1

    until(is_idle, seconds=10)
    body = encoded(np.zeros((32, 32, 3), np.uint8))
    assert client.post(f"{PATH}?style=waves", content=body).status_code == 200


def test_the_service_logged_no_error(style_transfer_service: RunningService) -> None:
    assert [record for record in style_transfer_service.records if record["level"] == "ERROR"] == []
