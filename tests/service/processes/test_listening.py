"""The ports that the supervisor asks for, and how they are closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from service.errors import StartupError
from service.processes.listening import listen, num_waiting, reserve, until_accepted


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


def test_what_had_connected_before_the_port_closes_is_accepted_and_later_ones_are_refused() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        early = [socket.create_connection(address) for _ in range(5)]
        assert num_waiting(listener) == 5
        accepted: list[socket.socket] = []

        async def main() -> None:
            closing = asyncio.create_task(until_accepted(listener))
            await asyncio.sleep(0.1)
            assert not closing.done()
            accepted.extend(listener.accept()[0] for _ in range(5))
            await closing

        asyncio.run(main())
        with socket.socket() as late:
            late.settimeout(0.2)
            assert late.connect_ex(address) != 0  # neither refused nor accepted: it asks again by itself
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for client, server in zip(early, accepted, strict=True):
        client.sendall(b"asked")
        client.close()
        server.close()
