"""The decoder processes of an API process: started when they are needed, shared by callers in turn, ended when late.

A job that is cancelled, as at its deadline, ends its process at once: what a decoder does cannot be stopped otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections.abc import Sequence

import msgspec

from service.decoding.jobs import LENGTHS, Buffer, Done, Job, Refused, message, unfinished
from service.decoding.turns import Turns
from service.errors import Unavailable
from service.processes.launch import command, environment
from service.settings import Settings
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MAX_JOB_SECONDS = 30
"""CPU time of one job; the largest images that the default settings allow take a few seconds."""
_BYTES_PER_PIXEL = 24  # to encode a WebP file with alpha: the pixels as received, as Pillow's and as libwebp's
_SPARE_BYTES = 64 * 2**20
# One thread each: NumPy's own would reserve memory that counts towards the limit.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_answers = msgspec.msgpack.Decoder(Done | Refused)


class Decoders:
    """Processes that do jobs; one caller has all but one of them at most."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        max_bytes = _BYTES_PER_PIXEL * settings.max_image_pixels + 2 * settings.max_body_bytes + _SPARE_BYTES
        self._arguments = [str(max_bytes), str(MAX_JOB_SECONDS)]
        self._turns = Turns(settings.decoders, max(1, settings.decoders - 1))
        self._idle: list[_Decoder] = []
        self._ending: list[subprocess.Popen[bytes]] = []
        self._num_ended = metrics.decoders_ended

    async def run(self, caller: str, job: Job, parts: Sequence[Buffer]) -> tuple[Done, bytearray]:
        """Do a job on the content in `parts`, in the caller's turn.

        Raises: ImageError, GrammarError; Unavailable.
        """
        async with self._turns.take(caller):
            decoder = self._find_idle() or self._start()
            try:
                answer, content = await decoder.run(job, parts)
            except BaseException as error:
                self._end(decoder)
                self._num_ended.inc()
                if isinstance(error, OSError):  # it ended by itself: by a limit, or by a defect of a decoder
                    log.warning("a decoder process ended within a job", extra={"job": type(job).__name__})
                    raise unfinished(job).error from error
                raise
            self._idle.append(decoder)
        if isinstance(answer, Refused):
            raise answer.error
        return answer, content

    def _find_idle(self) -> _Decoder | None:
        while self._idle:
            decoder = self._idle.pop()
            if decoder.process.poll() is None:
                return decoder
            self._end(decoder)
        return None

    def _start(self) -> _Decoder:
        """Start a process; this takes a millisecond or two, the new process then some hundred more."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # Unlike the loop's own way, it does not fork, which gRPC's threads do not take well.
                process = subprocess.Popen(
                    [*command("service.decoding.process"), *self._arguments],
                    env=environment() | _ENVIRONMENT,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                log.exception("no decoder process can be started")
                message = "Images and grammars cannot be read now. Try again later."
                raise Unavailable(message, retry_after_seconds=1.0) from error
        ours.setblocking(False)
        return _Decoder(process, ours)

    def _end(self, decoder: _Decoder) -> None:
        decoder.connection.close()
        decoder.process.kill()
        self._ending = [process for process in (*self._ending, decoder.process) if process.poll() is None]

    def close(self) -> None:
        """End the processes."""
        while self._idle:
            self._end(self._idle.pop())
        for process in self._ending:
            process.wait()


class _Decoder:
    """One process, and this side of its socket."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.process = process
        self.connection = connection

    async def run(self, job: Job, parts: Sequence[Buffer]) -> tuple[Done | Refused, bytearray]:
        """Send a job and receive its answer.

        Raises: OSError where the process ends first.
        """
        loop = asyncio.get_running_loop()
        for piece in message(job, parts):
            await loop.sock_sendall(self.connection, piece)
        num_header_bytes, num_content_bytes = LENGTHS.unpack(await self._receive(LENGTHS.size))
        answer = _answers.decode(await self._receive(num_header_bytes))
        return answer, await self._receive(num_content_bytes)

    async def _receive(self, num_bytes: int) -> bytearray:
        loop, received, position = asyncio.get_running_loop(), bytearray(num_bytes), 0
        with memoryview(received) as view:
            while position < num_bytes:
                count = await loop.sock_recv_into(self.connection, view[position:])
                if count == 0:
                    raise ConnectionResetError("The decoder process ended.")
                position += count
        return received
