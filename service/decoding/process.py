"""A decoder process: `python -m service.decoding.process MAX_EXTRA_BYTES MAX_JOB_SECONDS`, started by `decoders.py`.

It does one job after another from the socket that is its standard input, and ends when that closes. It may neither open
a file or a connection nor write one, and takes bounded memory and CPU time, so that a file which has the better of a
decoder has won little. It compiles grammars for the same reason. It imports next to nothing of the service.
"""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from PIL import Image

from models.image_header import Format, ImageError
from service.decoding.jobs import (
    LENGTHS,
    Buffer,
    CheckGrammar,
    Done,
    Job,
    Refused,
    ToFile,
    ToPhoto,
    ToRow,
    message,
    unfinished,
)
from service.grammar import GrammarError

MAX_GRAMMAR_SECONDS = 2
"""CPU time of one grammar; large ones take some tens of milliseconds."""
_FORMATS: tuple[Format, ...] = ("PNG", "JPEG", "WEBP")
_jobs = msgspec.msgpack.Decoder(Job)


def serve(connection: socket.socket, max_job_seconds: int) -> None:
    """Do jobs until the other side closes the connection."""
    while lengths := _receive(connection, LENGTHS.size):
        num_header_bytes, num_content_bytes = LENGTHS.unpack(lengths)
        job = _jobs.decode(_receive(connection, num_header_bytes))
        content = _receive(connection, num_content_bytes)
        _allow_seconds(min(max_job_seconds, MAX_GRAMMAR_SECONDS) if isinstance(job, CheckGrammar) else max_job_seconds)
        answer, parts = _run(job, content)
        del content
        for piece in message(answer, parts):
            connection.sendall(piece)


def _run(job: Job, content: bytes) -> tuple[Done | Refused, Sequence[Buffer]]:
    try:
        return job.run(content)
    except ImageError as error:
        return Refused(error.kind, str(error)), ()
    except GrammarError as error:
        return Refused("grammar", str(error)), ()
    except MemoryError:
        if isinstance(job, CheckGrammar):
            return unfinished(job), ()
        return Refused("too_large", "The image takes too much memory."), ()


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    """Exactly so many bytes, or fewer where the connection is closed."""
    return connection.recv(num_bytes, socket.MSG_WAITALL) if num_bytes else b""


def warm_up() -> None:
    """Load everything that jobs need later, when nothing can be opened any more."""
    Image.preinit()
    grey = ToRow((8, 8, 1), True, "auto", 4096, 0.1, None)
    for name in _FORMATS:
        for channels in (3, 4):
            _, (file,) = ToFile((32, 32, 3), channels == 4, name, b"", 90).run(bytes(32 * 32 * channels))
            ToPhoto(4096).run(bytes(file))
            grey.run(bytes(file))
    CheckGrammar("json").run(b"{}")


def confine(max_extra_bytes: int) -> None:
    """Give up the rights to open and write files, and to more memory than this."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + max_extra_bytes,) * 2)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (0, 0))


def _allow_seconds(seconds: int) -> None:
    """Let this process use so much more CPU time; the kernel ends it after that."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def main() -> None:
    """Run the decoder process."""
    max_extra_bytes, max_job_seconds = map(int, sys.argv[1:])
    warm_up()
    confine(max_extra_bytes)
    serve(socket.socket(fileno=0), max_job_seconds)


if __name__ == "__main__":
    main()
