"""The ports of a service: bound with the option to change in every error, and closed without losing a connection."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator

from service.errors import StartupError

BACKLOG = 2048
SETTLE_SECONDS = 0.02
MAX_CLOSE_SECONDS = 2.0
_SO_ATTACH_FILTER = 26
# A filter of the kernel (https://docs.kernel.org/networking/filter.html) that drops what asks for a new connection: of
# the TCP flags in byte 13, SYN without ACK. Everything else passes.
_DROP_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
_WAITING = struct.Struct("24xI")  # tcpi_unacked of struct tcp_info: of a listening socket, connections to be accepted


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Bind and listen.

    Raises: StartupError, which names the option to change.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=False)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, option, error) from error


@contextlib.contextmanager
def reserve(host: str, port: int, option: str = "--grpc-port") -> Iterator[str]:
    """Keep a port for servers that listen on it themselves, each with SO_REUSEPORT; yield it as `host:port`.

    Raises: StartupError, which names the option to change.
    """
    with listen(host, port, option) as probe:  # fails where others listen, which SO_REUSEPORT would not
        family, (address, port) = probe.family, probe.getsockname()[:2]
    with socket.socket(family) as holder:  # bound but never listening, so that it takes no connection
        # Not SO_REUSEADDR: with it, others could take the port while no server listens.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((address, port))
        except OSError as error:
            raise _cannot_listen(address, port, option, error) from error
        yield join(address, port)


def _cannot_listen(host: str, port: int, option: str, error: OSError | UnicodeError) -> StartupError:
    reason, advice = str(error), "Choose another address with --host."
    if isinstance(error, OSError):
        number = error.errno or 0
        # Name resolution has numbers of its own, below 0.
        reason = os.strerror(number) if number > 0 else str(error.strerror)
        if number in (errno.EADDRINUSE, errno.EACCES):
            advice = f"Choose another port with {option}{', or `--grpc-port off`' * (option == '--grpc-port')}."
    return StartupError(f"Cannot listen on {join(host, port)}: {reason}. {advice}")


def join(address: str, port: int) -> str:
    """An address as in a URL."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# --- closing ---


async def until_accepted(listener: socket.socket) -> None:
    """Let no new connection begin, and wait until every one that had begun is accepted, by any process.

    A listening socket that is closed before resets them, although their clients believe to be connected. Clients who
    come now ask again a second later, and are refused then.
    """
    refuse_new(listener)
    await asyncio.sleep(SETTLE_SECONDS)  # for handshakes that were under way
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MAX_CLOSE_SECONDS):
            while num_waiting(listener):
                await asyncio.sleep(SETTLE_SECONDS)


def refuse_new(listener: socket.socket) -> None:
    """Have the kernel drop requests for new connections, whichever process holds the socket."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
    # A sandbox may not allow it: then a connection that comes while the socket is closed is reset.
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def num_waiting(listener: socket.socket) -> int:
    """Connections that nobody has accepted yet."""
    (num,) = _WAITING.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size))
    return int(num)
