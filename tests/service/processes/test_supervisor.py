"""The ports that the supervisor asks for."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from service.errors import StartupError
from service.processes.supervisor import listen, reserve


@pytest.mark.parametrize(
    ("ask", "advice"),
    [
        (listen, "Choose another port with --port."),
        (reserve, "Choose another port with --grpc-port, or `--grpc-port off`."),
    ],
)
def test_a_taken_port_names_the_option_to_change(
    ask: Callable[[str, int], AbstractContextManager[object]], advice: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError) as caught, ask("127.0.0.1", port):
            pass

    assert str(caught.value) == f"Cannot listen on 127.0.0.1:{port}: Address already in use. {advice}"


@pytest.mark.parametrize("host", ["203.0.113.1", "a..b"])
def test_an_address_of_another_machine_names_the_option_to_change(host: str) -> None:
    with pytest.raises(StartupError, match=r"Choose another address with --host\.$"), listen(host, 0):
        pass


def test_a_reserved_port_is_free_for_servers_that_share_it() -> None:
    with reserve("127.0.0.1", 0) as address, socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        server.listen()
