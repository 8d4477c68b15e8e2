"""A reader of streamed texts counts a text that breaks off as failed, however it breaks off.

Locust patches the process that imports it, so the reader is one of its own.
"""

import asyncio
import json
import socket
import struct
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"tokens": [1, 2]}\n\n'
END = b'event: end\ndata: {"finish_reason": "length"}\n\n'
LAST_CHUNK = b"0\r\n\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
READER = """
import json, sys
from locust.env import Environment
from loadtests.scenarios.catalog import COMPLETE, Served
from loadtests.scenarios.users import CompleteUser
CompleteUser.host = sys.argv[1]
environment, found = Environment(user_classes=[CompleteUser]), {}
reader = CompleteUser(environment)
for name in sys.argv[2:]:
    CompleteUser.models, found[name] = [Served(name, COMPLETE)], []
    note = lambda exception, **_: found[name].append(str(exception or "good"))
    environment.events.request.add_listener(note)
    try:
        reader.complete_short()
    except Exception as error:
        found[name].append(f"raised {error!r}")
    environment.events.request.remove_listener(note)
print(json.dumps(found))
"""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


ANSWERS = {
    "whole": HEAD + chunk(TOKEN) + chunk(END) + LAST_CHUNK,
    "endless": HEAD + chunk(TOKEN) + LAST_CHUNK,
    "closed": HEAD + chunk(TOKEN),
    "reset": HEAD + chunk(TOKEN),
}


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    model = head.split(b"/")[3].decode()
    writer.write(ANSWERS[model])
    await writer.drain()
    if model == "reset":
        await asyncio.sleep(0.2)  # what was sent must arrive before the reset, which would overtake it
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.close()


async def _read_all() -> dict[str, list[str]]:
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as server:
        host = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        reader = await asyncio.create_subprocess_exec(
            sys.executable, "-c", READER, host, *ANSWERS, stdout=asyncio.subprocess.PIPE, cwd=ROOT
        )
        said, _ = await asyncio.wait_for(reader.communicate(), 60)
    found: dict[str, list[str]] = json.loads(said)
    return found


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """What the reader reported of each answer."""
    return asyncio.run(_read_all())


def test_a_whole_text_is_good(found: dict[str, list[str]]) -> None:
    assert found["whole"] == ["good"]


@pytest.mark.parametrize("answer", ["endless", "closed", "reset"])
def test_a_text_that_breaks_off_has_failed_once(found: dict[str, list[str]], answer: str) -> None:
    (complaint,) = found[answer]

    assert complaint.startswith("the stream ended with")
