"""TLS in the process: what is offered and refused, and certificates that change under load."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copy
from threading import Event
from typing import Any

import grpc
import httpx
import pytest
from pydantic import ValidationError

from service.errors import StartupError
from service.processes.probe import probe, trust
from service.settings import Settings
from service.tls import CHECK_SECONDS, Tls
from tests.models.samples import sample
from tests.servers import RunningService, until
from tests.service.certificates import Authority

pytestmark = pytest.mark.openssl

Pair = tuple[Path, Path]
FILES = {"CERTIFICATE": "tls.crt", "KEY": "tls.key"}
READY = "/inference.GRPCInferenceService/ServerReady"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def identities(authority: Authority) -> list[Pair]:
    return [authority.sign(name) for name in ("one", "two")]


def install(identity: Pair, folder: Path) -> tuple[Path, Path]:
    """Put a certificate and its key where the service reads them, each at once."""
    for file, name in zip(identity, ("tls.crt", "tls.key"), strict=True):
        copy(file, folder / f".{name}")
        (folder / f".{name}").rename(folder / name)
    return folder / "tls.crt", folder / "tls.key"


class Secure(RunningService):
    """A service with TLS, whose callers are given its authority."""

    def __init__(self, repository: Path, folder: Path, authority: Authority, *options: str) -> None:
        self.folder = folder
        files = ("--tls-certificate", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"))
        super().__init__(repository, *files, *options)
        self.authority = authority

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        if pair:
            context.load_cert_chain(*pair)
        return context

    @property
    def url(self) -> str:
        return self._told("listening on https://", "https://")

    @property
    def grpc_address(self) -> str:
        return self._told("listening on grpcs://")

    def is_ready(self, pair: Pair | None = None) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", verify=self.context(pair), timeout=2).is_success
        except httpx.TransportError:
            return False

    @property
    def files(self) -> dict[str, str]:
        return {f"HOTPLATE_TLS_{name}": str(self.folder / file) for name, file in FILES.items()}

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def name(self) -> str:
        """The name in the certificate that a new connection is given."""
        with (
            socket.create_connection(self.address, 5) as raw,
            self.context().wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            subject: Any = (secure.getpeercert() or {})["subject"]
            return str(dict(part[0] for part in subject)["commonName"])


@pytest.fixture(scope="module")
def secure(
    repository: Path,
    authority: Authority,
    identities: list[Pair],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("tls")
    install(identities[0], folder)
    with Secure(repository, folder, authority) as running:
        until(running.is_ready, running.describe)
        yield running


def test_http_is_answered_to_who_trusts_the_authority(secure: Secure) -> None:
    with httpx.Client(base_url=secure.url, verify=secure.context()) as client:
        for _ in range(3):  # the later ones by the connection itself
            response = client.post("/v1/models/tiny/classify", content=sample("shirt.png"))
            assert response.status_code == 200
        large = client.post("/v1/models/tiny/classify", content=sample("ankle_boot_on_paper.jpg"))
        assert large.status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{secure.url}/livez")


def test_grpc_has_the_same_certificate(secure: Secure) -> None:
    credentials = grpc.ssl_channel_credentials(secure.authority.certificate.read_bytes())
    with grpc.secure_channel(secure.grpc_address, credentials) as channel:
        assert channel.unary_unary(READY)(b"", timeout=5) == b"\x08\x01"
    with grpc.insecure_channel(secure.grpc_address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(READY)(b"", timeout=2)


def test_plain_text_and_old_versions_are_refused(secure: Secure) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.url.replace("https", "http") + "/livez")
    old = secure.context()
    old.set_ciphers("ALL:@SECLEVEL=0")  # else the client itself would refuse
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{secure.url}/livez", verify=old)
    assert httpx.get(f"{secure.url}/livez", verify=secure.context()).status_code == 200


def test_the_command_line_takes_an_authority(secure: Secure) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", "models", "--url", secure.url, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert "tiny" in run("--ca", str(secure.authority.certificate)).stdout
    refused = run()
    assert refused.returncode == 1
    assert "--ca" in refused.stderr


def test_the_probe_needs_no_authority(secure: Secure) -> None:
    assert probe(*secure.address, context=trust(secure.files)) == ""
    assert trust({}) is None


def test_a_certificate_that_changes_under_load_drops_nothing(secure: Secure, identities: list[Pair]) -> None:
    done = Event()

    def work() -> int:
        number = 0
        with httpx.Client(base_url=secure.url, verify=secure.context()) as kept:
            while not done.is_set():
                assert kept.get("/livez").status_code == 200
                assert httpx.get(f"{secure.url}/livez", verify=secure.context()).status_code == 200
                number += 1
        return number

    with ThreadPoolExecutor(2) as callers:
        work_done = [callers.submit(work) for _ in range(2)]
        try:
            assert secure.name() == "one"
            install(identities[1], secure.folder)
            until(lambda: secure.name() == "two", secure.describe)
            credentials = grpc.ssl_channel_credentials(secure.authority.certificate.read_bytes())
            with grpc.secure_channel(secure.grpc_address, credentials) as channel:
                assert channel.unary_unary(READY)(b"", timeout=5) == b"\x08\x01"
        finally:
            done.set()
    assert min(work.result() for work in work_done) > 0


def test_callers_without_a_certificate_are_refused_where_one_is_asked(
    repository: Path, authority: Authority, identities: list[Pair], tmp_path: Path
) -> None:
    install(identities[0], tmp_path)
    caller = authority.sign("caller")
    stranger = Authority(tmp_path, "elsewhere").sign("stranger")
    with Secure(repository, tmp_path, authority, "--tls-client-ca", str(authority.certificate)) as running:
        until(lambda: running.is_ready(caller), running.describe)
        for nobody in (running.context(), running.context(stranger)):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{running.url}/readyz", verify=nobody)
        root = authority.certificate.read_bytes()
        named = grpc.ssl_channel_credentials(root, caller[1].read_bytes(), caller[0].read_bytes())
        with grpc.secure_channel(running.grpc_address, named) as channel:
            assert channel.unary_unary(READY)(b"", timeout=5) == b"\x08\x01"
        nameless = grpc.secure_channel(running.grpc_address, grpc.ssl_channel_credentials(root))
        with nameless as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(READY)(b"", timeout=2)
        assert probe(*running.address, context=trust(running.files)) == ""


@pytest.mark.parametrize(
    "half",
    [{"tls_certificate": "a.pem"}, {"tls_key": "a.key"}, {"tls_client_ca": "ca.pem"}],
)
def test_half_of_tls_is_refused(half: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="tls_"):
        Settings.model_validate(half)


@pytest.mark.parametrize("fault", ["missing", "empty", "mismatch", "authority"])
def test_files_that_make_no_sense_are_named(fault: str, identities: list[Pair], tmp_path: Path) -> None:
    certificate, key = install(identities[0], tmp_path)
    authority = ""
    if fault == "missing":
        key.unlink()
    elif fault == "empty":
        certificate.write_text("")
    elif fault == "mismatch":
        copy(identities[1][1], key)
    else:
        authority = str(tmp_path / "nothing.pem")
    with pytest.raises(StartupError, match="--tls-certificate") as caught:
        Tls(Settings(tls_certificate=str(certificate), tls_key=str(key), tls_client_ca=authority))
    assert "\n" not in str(caught.value)


def test_files_are_read_again_once_they_agree(identities: list[Pair], tmp_path: Path) -> None:
    certificate, key = install(identities[0], tmp_path)
    now = 0.0
    tls = Tls(Settings(tls_certificate=str(certificate), tls_key=str(key)), lambda: now)
    first = tls.identity()
    copy(identities[1][0], certificate)  # not yet the key
    now += CHECK_SECONDS
    assert tls.identity() is first
    copy(identities[1][1], key)
    assert tls.identity() is first  # it was looked at a moment ago
    now += CHECK_SECONDS
    second = tls.identity()
    assert second.certificate == identities[1][0].read_bytes()
    os.utime(certificate, (1, 1))
    key.unlink()
    now += CHECK_SECONDS
    assert tls.identity() is second
