"""The settings of the service: one frozen object, passed explicitly.

Values come from the options of `hotplate serve`, then from environment variables with the prefix `HOTPLATE_`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Literal, Self

import annotated_types
from pydantic import AfterValidator, AllowInfNan, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.config import PrecisionSetting
from service.quotas import RATE_KINDS, RATE_PATTERN, Limits, Network, parse_network, parse_rate
from service.splits import SPLIT_PATTERN, Split, check_splits, parse_split

SHIPPED_REPOSITORY = Path(__file__).resolve().parent.parent / "models" / "repository"

Positive = Annotated[float, annotated_types.Gt(0), AllowInfNan(False)]
NotNegative = Annotated[float, annotated_types.Ge(0), AllowInfNan(False)]
Count = Annotated[int, annotated_types.Ge(1)]
MAX_PORT = 65535
Port = Annotated[int, annotated_types.Interval(ge=0, le=MAX_PORT)]


HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$")]


def _paths(value: object) -> object:
    """Accept a path, paths joined as in PATH, or a list."""
    if isinstance(value, str):
        return tuple(part for part in value.split(os.pathsep) if part)
    return (value,) if isinstance(value, Path) else value


def _words(value: object) -> object:
    """Accept comma-separated words or a list of them."""
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = ",".join(value)
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _split(text: str) -> str:
    parse_split(text)
    return text


SplitText = Annotated[
    str, AfterValidator(_split), WithJsonSchema({"type": "string", "pattern": SPLIT_PATTERN}, mode="validation")
]


_DEVICE = r"(cpu|cuda(:\d+)?|(GPU|MIG)-[\w/-]+)"


def all_gpus(environment: Mapping[str, str] = os.environ, folder: Path = Path("/dev")) -> tuple[str, ...]:
    """The GPUs that CUDA may use here: by `CUDA_VISIBLE_DEVICES`, or as many as the driver has devices."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        found = sorted(path.name for path in folder.glob("nvidia[0-9]*"))
    else:
        found = [entry.strip() for entry in visible.split(",") if entry.strip()]
        if any(entry.startswith(("GPU-", "MIG-")) for entry in found):
            return tuple(found)
    return tuple(f"cuda:{number}" for number in range(len(found))) or ("cuda",)


PREFIX = "HOTPLATE_"
# The command line's, for its client commands.
_OTHER_VARIABLES = ("HOTPLATE_URL", "HOTPLATE_API_KEY", "HOTPLATE_CA", "HOTPLATE_CERTIFICATE")
# What Kubernetes sets in every container for a Service of this name, or one that begins with it.
_SERVICE_LINK = re.compile(r"HOTPLATE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
_LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def drop_service_links(environment: MutableMapping[str, str]) -> None:
    """Drop Kubernetes' variables for a Service called hotplate: `HOTPLATE_PORT=tcp://10.0.0.1:80` is no setting."""
    for name, value in list(environment.items()):
        is_address = name.startswith(PREFIX) and name.endswith("_PORT") and _LINK_ADDRESS.match(value)
        if is_address or _SERVICE_LINK.fullmatch(name):
            del environment[name]


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """What is wrong with each variable that begins like a setting and is none, with the name that is nearest to it."""
    known = [*(f"{PREFIX}{name.upper()}" for name in Settings.model_fields), *_OTHER_VARIABLES]
    wrong = []
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, 1, 0.0)
            wrong.append(f"There is no setting {name}; the nearest is {nearest[0]}. `hotplate serve --help` lists all.")
    return wrong


def _rate(text: str) -> str:
    kind, _, rate = text.partition("=")
    if kind not in RATE_KINDS:
        raise ValueError(
            f"{text!r} limits {kind!r}; it must begin with {', '.join(f'{each}=' for each in RATE_KINDS)}."
        )
    parse_rate(rate)
    return text


RateText = Annotated[
    str,
    AfterValidator(_rate),
    WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(RATE_KINDS)})={RATE_PATTERN}$"}, mode="validation"),
]


def _network(text: str) -> str:
    parse_network(text)
    return text


NetworkText = Annotated[
    str,
    AfterValidator(_network),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$"}, mode="validation"),
]


class Settings(BaseSettings):
    """The settings of one service."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8000, description="TCP port to listen on; 0 takes a free one.")
    grpc_port: Port | Literal["auto", "off"] = Field(
        "auto",
        description="TCP port for gRPC, on the same address: `auto` is the HTTP port plus one, 0 takes a free one, "
        "`off` serves HTTP alone.",
    )
    admin_port: Port | Literal["off"] = Field(
        "off",
        description="TCP port for the routes that change the service, on the same address; then `--port` and gRPC have "
        "none of them. `off` serves all on one port.",
    )
    workers: Count = Field(1, description="API processes in front of the engine.")
    device: Annotated[str, Field(pattern=rf"^(auto|cuda:all|{_DEVICE}(,{_DEVICE})*)$")] = Field(
        "auto",
        description="Where networks run: `auto`, `cpu`, `cuda`, `cuda:1`, or a GPU's or MIG slice's UUID. Several, as "
        "`cuda:0,cuda:1`, `cuda:all` or `cpu,cpu`, have an engine each, and share the requests. It is an error if CUDA "
        "is not available.",
    )
    repository: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        (SHIPPED_REPOSITORY,),
        description="Folder of models, `<model>/<version>/manifest.json` or `model.onnx`; may be repeated. "
        "The first folder that has a model wins.",
    )
    models: str = Field(
        "",
        description="Comma-separated names of the models to serve; empty serves all, or none where models are loaded "
        "on request.",
    )
    model_control: Literal["none", "explicit", "poll"] = Field(
        "none",
        description="Whether models change while the service runs: `none`; `explicit`, on request; `poll`, whenever "
        "their files change.",
    )

    shadow: Annotated[tuple[SplitText, ...], NoDecode, BeforeValidator(_words)] = Field(
        (),
        description="Version to compare with the default, as `model@2`, or `model@2:0.1` for a tenth of the requests: "
        "it computes them too, once they are answered. May be repeated.",
    )
    shadow_tolerance: Positive = Field(
        1e-3,
        description="How far numbers of a shadow may be from those of the default, absolutely or relatively, and still "
        "agree; of classifiers, the likeliest label decides.",
    )
    canary: Annotated[tuple[SplitText, ...], NoDecode, BeforeValidator(_words)] = Field(
        (),
        description="Version that answers a share of the requests for a model, as `model@2:0.05`. May be repeated, for "
        "other models.",
    )

    max_batch_size: Annotated[int, annotated_types.Ge(0)] = Field(
        0, description="Upper bound on every model's batch; 0 leaves it to the manifests."
    )
    max_queue_delay_seconds: NotNegative = Field(
        0.0, description="How long an idle device waits for a fuller batch, from the oldest request on; 0 never waits."
    )
    max_queue_rows: Count = Field(1024, description="Rows that may wait for one model; more are refused with 503.")
    instances: Annotated[int, annotated_types.Ge(0)] = Field(
        0, description="Batches of one model that run at once; 0 measures what is best."
    )
    threads: Annotated[int, annotated_types.Ge(0)] = Field(
        0, description="ONNX Runtime threads of an instance; 0 measures what is best."
    )
    precision: PrecisionSetting = Field(
        "auto",
        description="The precision of models that have variants; auto measures which is fastest, of those that are as "
        "good as fp32.",
    )
    max_sequences: Count = Field(
        32, description="Texts that a language model continues at once: slots, which take memory as they fill."
    )
    max_step_tokens: Count = Field(
        256, description="Tokens in one step of a language model: one for each running text, the rest from prompts."
    )
    max_waiting_sequences: Count = Field(
        256, description="Texts that may wait for a slot of one language model; more are refused with 503."
    )
    cuda_graphs: bool = Field(
        False, description="Capture one CUDA graph for each batch bucket (GPU only); no effect yet."
    )
    load_memory_bytes: Annotated[int, annotated_types.Ge(0)] = Field(
        0,
        description="Memory that the trials of a network without a manifest may take; 0 is a quarter of what the "
        "service may use.",
    )
    model_memory_bytes: Annotated[int, annotated_types.Ge(0)] = Field(
        0,
        description="Memory that loaded models may take together; where a request needs one more, the least recently "
        "used that is idle gives its own back. 0 is what the machine or the container has, without a reserve.",
    )
    idle_unload_seconds: NotNegative = Field(
        0.0,
        description="How long a model goes unused until it gives its memory back; the next request loads it again. "
        "0 keeps it.",
    )
    golden_tolerance: Positive = Field(1e-3, description="Largest deviation from the golden outputs on a CPU.")
    golden_tolerance_cuda: Positive = Field(2e-2, description="The same on a GPU, whose TF32 convolutions round more.")

    api_keys_file: str = Field(
        "",
        description="File of API keys, as `hotplate keys new NAME` writes it; empty needs no key. Probes and the "
        "playground's files stay open.",
    )
    tls_certificate: str = Field(
        "",
        description="PEM file of the service's certificate and those between it and its authority; with `--tls-key`, "
        "HTTP and gRPC are served with TLS alone. Files that change are read again.",
    )
    tls_key: str = Field("", description="PEM file of the certificate's private key, not encrypted.")
    tls_client_ca: str = Field(
        "",
        description="PEM file of the authority of callers; every one must then present a certificate that it signed.",
    )
    metrics_need_key: bool = Field(
        False, description="Whether `/metrics` needs a key too, with the scope `metrics` or `admin`."
    )
    insecure: bool = Field(
        False, description="Listen beyond loopback without keys: whoever reaches the service may use it."
    )
    allowed_hosts: Annotated[tuple[HostName, ...], NoDecode, BeforeValidator(_words)] = Field(
        (),
        description="Host names that the service is known by, besides `localhost` and loopback addresses: where it "
        "listens on loopback, any other `Host` is refused; pages of any other site may not send requests. May be "
        "repeated.",
    )

    rate: Annotated[tuple[RateText, ...], NoDecode, BeforeValidator(_words)] = Field(
        (),
        description="What each caller, a key or else an address, may use a second: `requests=100`, `rows=1000` or "
        "`tokens=500`, or `requests=100:200` where 200 may come at once. More is refused with 429. Rates of a key's "
        "own go before. May be repeated.",
    )
    max_concurrency: Annotated[int, annotated_types.Ge(0)] = Field(
        0, description="Requests that each caller may have in progress, unless the key says otherwise; 0: any number."
    )
    trusted_proxies: Annotated[tuple[NetworkText, ...], NoDecode, BeforeValidator(_words)] = Field(
        (),
        description="Addresses or networks, as `10.0.0.0/8`, of proxies whose `X-Forwarded-For` says where a request "
        "comes from. May be repeated.",
    )

    request_timeout_seconds: Positive = Field(30.0, description="Deadline of a request without `X-Request-Timeout`.")
    max_request_timeout_seconds: Positive = Field(300.0, description="Largest deadline a request may ask for.")
    max_body_bytes: Count = Field(32 * 2**20, description="Largest request body.")
    max_buffered_bytes: Count = Field(
        512 * 2**20,
        description="Bytes that an API process keeps for its callers in all: bodies, decoded images, messages to the "
        "engine, answers not yet read. What would exceed them is refused with 503.",
    )
    max_header_bytes: Count = Field(32 * 2**10, description="Largest request line and headers together.")
    header_timeout_seconds: Positive = Field(10.0, description="Time for a connection to send a whole request head.")
    body_timeout_seconds: Positive = Field(30.0, description="Time for a request to send its whole body.")
    write_timeout_seconds: Positive = Field(
        30.0,
        description="How long an answer waits for a caller who does not read; one who takes less than 16 KiB in this "
        "time is disconnected.",
    )
    max_connections: Count = Field(
        1024,
        description="Connections that an API process holds at once, over HTTP and over gRPC each; more are refused.",
    )
    keep_alive_seconds: Count = Field(75, description="How long an idle connection is kept open.")
    max_image_pixels: Count = Field(25_000_000, description="Largest image, in pixels, checked before decoding.")
    max_images: Count = Field(64, description="Images in one request.")
    decoders: Count = Field(
        3,
        description="Processes in which an API process decodes and encodes large images, started when they are needed; "
        "one caller has all but one of them at most.",
    )

    drain_seconds: NotNegative = Field(
        1.0, description="After SIGTERM: how long new requests are still served while readiness is already down."
    )
    grace_seconds: Positive = Field(30.0, description="After SIGTERM: how long requests in flight may take in all.")
    engine_restart_seconds: Positive = Field(
        20.0, description="How long a request waits for an engine that is being restarted, within its deadline."
    )

    hang_seconds: Annotated[float, annotated_types.Ge(0.5), AllowInfNan(False)] = Field(
        20.0,
        description="How long a process, or a thread of the engine that computes, may give no sign of life until the "
        "process has ended and is replaced; and how long computing may go on after the deadlines of all its requests.",
    )

    playground: bool = Field(True, description="Serve the playground, a page to try every model, at `/`.")
    playground_burst: bool = Field(
        False,
        description="Let the playground send bursts of requests even if the service listens beyond loopback.",
    )

    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines as `console` text or `json`; `auto`: console on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    access_log: bool = Field(False, description="Log every request, not only those that failed with 5xx.")

    metrics_compat: Annotated[tuple[Literal["triton", "vllm"], ...], NoDecode, BeforeValidator(_words)] = Field(
        (), description="Other servers' names to export metrics under as well: `triton`, `vllm` or `triton,vllm`."
    )
    otel_endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s/]\S*)?$")] = Field(
        "",
        description="Where traces are sent by OTLP over HTTP, as `http://collector:4318`; empty leaves it to the "
        "standard `OTEL_` variables, and without those nothing is traced.",
    )

    @model_validator(mode="after")
    def _check_ports(self) -> Self:
        if self.grpc_port == "auto" and self.port == MAX_PORT:
            raise ValueError(f"grpc_port is 'auto', the port after {MAX_PORT}, which does not exist; set it, or `off`.")
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key are needed together; only one is set.")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key, which are not set.")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each engine, as `device` says."""
        return all_gpus() if self.device == "cuda:all" else tuple(self.device.split(","))

    @property
    def has_tls(self) -> bool:
        """Whether the service is served with TLS."""
        return bool(self.tls_certificate)

    @model_validator(mode="after")
    def _check_splits(self) -> Self:
        check_splits(self.shadow)
        check_splits(self.canary)
        models = [split.model for split in self.canary_splits]
        if twice := sorted({model for model in models if models.count(model) > 1}):
            raise ValueError(f"canary names two versions of {twice[0]!r}; a model has one canary at a time.")
        if whole := [text for text in self.canary if ":" not in text]:
            raise ValueError(f"canary is {whole[0]!r}; it needs a share of the requests, as {whole[0]}:0.05.")
        return self

    @property
    def caller_limits(self) -> Limits:
        """What `rate` and `max_concurrency` say."""
        rates = {
            kind: parse_rate(text.partition("=")[2])
            for kind in RATE_KINDS
            for text in self.rate
            if text.startswith(f"{kind}=")
        }
        return Limits(rates, self.max_concurrency)

    @property
    def proxy_networks(self) -> tuple[Network, ...]:
        """What `trusted_proxies` says."""
        return tuple(map(parse_network, self.trusted_proxies))

    @property
    def shadow_splits(self) -> tuple[Split, ...]:
        """What `shadow` says."""
        return tuple(map(parse_split, self.shadow))

    @property
    def canary_splits(self) -> tuple[Split, ...]:
        """What `canary` says."""
        return tuple(map(parse_split, self.canary))

    @property
    def grpc_listen_port(self) -> int | None:
        """The gRPC port to listen on: 0 for any free port, None without gRPC."""
        if self.grpc_port == "off":
            return None
        if self.grpc_port == "auto":
            return self.port and self.port + 1
        return self.grpc_port

    @property
    def repositories(self) -> tuple[Path, ...]:
        """The folders of models, the first of which wins."""
        return self.repository

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names in `models`; empty means all."""
        return tuple(name.strip() for name in self.models.split(",") if name.strip())
