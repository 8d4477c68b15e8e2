"""`POST /v1/images/generations` and `/v1/images/edits`: images of a label, and photographs in a style.

Source: OpenAI's API reference, images.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType
from starlette.types import Receive

from models.manifest import Manifest
from service import schema
from service.errors import InvalidParameter, UnsupportedMedia
from service.http.body import (
    MULTIPART_TYPE,
    Images,
    checked_images,
    field_text,
    media_type_of,
    read_body,
    read_json,
    unique,
)
from service.http.documentation import REQUEST_HEADERS
from service.http.multipart import parts_of
from service.http.request_context import RequestContext, Scope
from service.protocols.openai.route import OpenAiRoute
from service.protocols.openai.schema import NEUTRAL
from service.schema import Answer, Parameters
from service.tasks.image_generation.process import NUM_SEEDS
from service.tasks.image_generation.routes import GenerateImages
from service.tasks.image_generation.schema import MAX_IMAGES, GenerateImagesAnswer, GenerateParameters
from service.tasks.style_transfer.routes import Stylize
from service.tasks.style_transfer.schema import StylizeParameters
from service.tasks.task import Dependencies, TaskRequest
from service.threads import off_loop

_MAX_FIELDS = 32
_Form = Annotated[
    Literal["b64_json", "url"], Meta(description="The file in base64, or as a `data:` URL that holds it.")
]
_Size = Annotated[str, Meta(max_length=16, description="`auto`, or the size that the images have anyway.")]
_NEUTRAL: Mapping[str, Sequence[Any] | None] = {
    **NEUTRAL,
    **dict.fromkeys(("quality", "style", "moderation", "input_fidelity")),
    "background": ("auto", "opaque"),
    "stream": (False, "false"),
    "partial_images": (0, "0"),
}


class ImageParameters(Parameters):
    """The parameters of an image generation."""

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = _NEUTRAL

    model: Annotated[str, Meta(description="`name` or `name@version` of an image generator.")]
    prompt: Annotated[
        str, Meta(max_length=4096, description="A label, or several with commas; empty where the seed is to decide.")
    ]
    n: (
        Annotated[int, Meta(ge=1, le=MAX_IMAGES, description="Number of images; 1 if absent, or one for each label.")]
        | None
    ) = None
    seed: Annotated[int, Meta(ge=0, le=NUM_SEEDS - 1, description="The same seed gives the same images.")] | None = None
    size: _Size = "auto"
    response_format: _Form = "b64_json"
    output_format: Annotated[Literal["png"], Meta(description="Images are PNG files.")] | None = None


class EditParameters(Parameters):
    """The parameters of an image edit."""

    neutral: ClassVar[Mapping[str, Sequence[Any] | None]] = _NEUTRAL

    model: Annotated[str, Meta(description="`name` or `name@version` of a model that paints in styles.")]
    prompt: Annotated[
        str,
        Meta(max_length=4096, description="A style, or a blend: `udnie, great_wave`, or `udnie:0.7, great_wave:0.3`."),
    ]
    n: Annotated[int, Meta(ge=1, le=1, description="Must be 1: an edit has one result.")] = 1
    strength: Annotated[
        float, Meta(ge=0, le=1, description="From 0, the original photo, to 1, the stylized image.")
    ] = 1.0
    size: _Size = "auto"
    response_format: _Form = "b64_json"
    output_format: (
        Annotated[Literal["jpeg", "png", "webp"], Meta(description="That of the image if absent.")] | None
    ) = None
    output_compression: (
        Annotated[int, Meta(ge=1, le=100, description="The quality of a JPEG or WebP file; 90 if absent.")] | None
    ) = None


class OpenAiImage(Answer):
    """An image: as base64, or as a `data:` URL; `revised_prompt` is its label."""

    b64_json: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    revised_prompt: str | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class OpenAiImages(Answer):
    """OpenAI's list of images."""

    created: int
    data: list[OpenAiImage]
    output_format: str


class _ImagesRoute(OpenAiRoute):
    """Base of both routes."""

    answers = (OpenAiImages,)

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> OpenAiImages:
        """Make the images."""


def _image(content: str, media_type: str, form: str, **members: Any) -> OpenAiImage:
    if form == "url":
        return OpenAiImage(url=f"data:{media_type};base64,{content}", **members)
    return OpenAiImage(b64_json=content, **members)


@contextmanager
def _blaming_the_prompt() -> Iterator[None]:
    """Name the prompt in errors about the label or the style, which it stands for."""
    try:
        yield
    except InvalidParameter as error:
        if error.parameter in ("label", "style", "styles"):
            raise InvalidParameter(f"prompt: {error.message}", parameter="prompt") from error
        raise


def _parts(prompt: str) -> list[str]:
    return [part for part in map(str.strip, prompt.split(",")) if part]


class ImageGenerations(_ImagesRoute):
    """`POST /v1/images/generations`."""

    path = "/v1/images/generations"
    parameters = ImageParameters
    description = "As `generate`; the prompt is a label of the model, or several."
    example: ClassVar[dict[str, Any]] = {"model": "fashion-gan", "prompt": "Sneaker, Bag", "seed": 7}

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._generate = GenerateImages(dependencies)

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> OpenAiImages:
        """Generate images of labels, in OpenAI's wire format."""
        parameters = await read_json(scope, receive, context, ImageParameters, self.settings.max_body_bytes)
        model = self.find(parameters.model, context, self._generate.task)
        _check_size(parameters.size, model.manifest)
        labels = _parts(parameters.prompt)
        count = parameters.n or max(len(labels), 1)
        wanted = GenerateParameters(
            num_images=count,
            label=tuple(labels[index % len(labels)] for index in range(count)) if labels else None,
            seed=parameters.seed,
            format="json",
        )
        with _blaming_the_prompt():
            made = await self._generate.generate(TaskRequest(model, scope, receive, context), wanted)
        assert isinstance(made, GenerateImagesAnswer)  # the format that was asked for
        data = [
            _image(each.image, "image/png", parameters.response_format, seed=each.seed, revised_prompt=each.label)
            for each in made.images
        ]
        return OpenAiImages(created=int(time.time()), data=data, output_format="png")


def _check_size(size: str, manifest: Manifest) -> None:
    """Check that a size is the one that a generator has.

    Raises: InvalidParameter.
    """
    height, width, *_ = manifest.graphs["decoder"].outputs[0].row_shape
    if size not in ("auto", own := f"{width}x{height}"):
        raise InvalidParameter(f"size is {schema.shown(size)}; it must be {own} or auto.", parameter="size")


class ImageEdits(_ImagesRoute):
    """`POST /v1/images/edits`."""

    path = "/v1/images/edits"
    parameters = EditParameters
    description = "As `stylize`; the prompt is a style of the model, or a blend. Images keep their sizes."
    example: ClassVar[dict[str, Any]] = {}

    def __init__(self, dependencies: Dependencies) -> None:
        super().__init__(dependencies)
        self._stylize = Stylize(dependencies)

    async def answer(self, scope: Scope, receive: Receive, context: RequestContext) -> OpenAiImages:
        """Paint images in a style, in OpenAI's wire format."""
        body = await read_body(scope, receive, context, self.settings.max_body_bytes)
        media_type, header = media_type_of(scope)
        if media_type != MULTIPART_TYPE:
            raise UnsupportedMedia("The media type is not accepted; send multipart/form-data with an image.")
        images, fields = await off_loop(_form, header, body, self.settings.max_images)
        checked_images(images, self.settings)
        parameters = schema.read(EditParameters, schema.from_text(EditParameters, fields))
        if parameters.size != "auto":
            raise InvalidParameter("size must be auto or absent: an image keeps its size.", parameter="size")
        model = self.find(parameters.model, context, self._stylize.task)
        known = [style.name for style in model.manifest.stylization.styles] if model.manifest.stylization else []
        with _blaming_the_prompt():
            wanted = StylizeParameters(
                styles=schema.parse_value(
                    schema.fields_of(StylizeParameters)["styles"], _blend(parameters.prompt, known)
                ),
                strength=parameters.strength,
                format=parameters.output_format,
                quality=parameters.output_compression or StylizeParameters().quality,
            )
            files = await self._stylize.stylize(TaskRequest(model, scope, receive, context), images, wanted)
        data = [
            _image(b64encode(file.content).decode("ascii"), file.media_type, parameters.response_format)
            for file in files
        ]
        output_format = files[0].media_type.removeprefix("image/")
        return OpenAiImages(created=int(time.time()), data=data, output_format=output_format)

    def request_document(self) -> dict[str, Any]:
        """OpenAPI's `parameters` and `requestBody`."""
        files = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
        properties = {"image": files, **schema.properties(EditParameters)}
        form = {"type": "object", "required": ["image", *schema.required(EditParameters)], "properties": properties}
        content = {"multipart/form-data": {"schema": form}}
        return {"parameters": REQUEST_HEADERS, "requestBody": {"required": True, "content": content}}


def _form(header: bytes, body: bytes, max_images: int) -> tuple[Images, dict[str, str]]:
    """The images and the other fields of a form.

    Raises: InvalidParameter for another file; MalformedRequest.
    """
    images, fields = Images(), []
    for part in parts_of(header, body, max_images + _MAX_FIELDS):
        if part.filename is None:
            fields.append((part.name, field_text(part)))
        elif part.name in ("image", "image[]"):
            images.encoded.append(part.content)
            images.names.append(part.filename)
        else:
            raise InvalidParameter(
                f"The file field is named {schema.shown(part.name)}; only image is taken.", parameter=part.name
            )
    return images, unique(fields)


def _blend(prompt: str, known: Sequence[str]) -> str:
    """A prompt as a blend of styles, whose names may be written with spaces and in any case."""
    names = {name.casefold(): name for name in known}
    parts = []
    for part in _parts(prompt) or [prompt]:
        name, colon, weight = part.partition(":")
        name = name.strip()
        name = names.get(name.casefold().replace(" ", "_"), name)
        parts.append(f"{name}:{weight.strip() if colon else 1}")
    return ",".join(parts)
