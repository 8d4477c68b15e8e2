"""Content codings of bodies, gzip and deflate: inflated within a limit, deflated in what the caller takes.

Long bodies are worked on in a thread. It knows neither routes nor what the bytes mean; which coding a caller takes,
`api/accept.py` finds. Source: RFC 9110.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor

from service.errors import MalformedRequest, PayloadTooLarge, UnsupportedMedia
from service.http.accept import Headers
from service.schema import shown

# zlib's window bits: 15 with zlib's own frame, which is what "deflate" means, 16 more for gzip's.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_RAW_WINDOW_BITS = -15
# Up to so many bytes, zlib takes less time than handing them to a thread and back.
INLINE_BYTES = 16 * 1024
# Below this, coding costs more than it saves.
LEAST_CODED_BYTES = 1024
_FASTEST = 1


async def decoded(body: bytes, headers: Headers, max_bytes: int, threads: ThreadPoolExecutor) -> bytes:
    """The body without its content coding, if it has one; what would exceed `max_bytes` is not inflated to its end.

    Raises: UnsupportedMedia, MalformedRequest, PayloadTooLarge.
    """
    codings = [value for name, value in headers if name == b"content-encoding"]
    coding = b",".join(codings).decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOW_BITS:
        raise UnsupportedMedia(f"The Content-Encoding is {shown(coding)}; it must be gzip, deflate or identity.")
    if len(body) <= INLINE_BYTES // 16:
        return inflate(body, coding, max_bytes)
    return await asyncio.get_running_loop().run_in_executor(threads, inflate, body, coding, max_bytes)


def inflate(body: bytes, coding: str, max_bytes: int) -> bytes:
    """Inflate a body; of `deflate`, the bare form without zlib's frame is taken too, for some senders mean that.

    Raises: MalformedRequest, PayloadTooLarge.
    """
    window_bits = _WINDOW_BITS[coding]
    if coding == "deflate" and not _has_zlib_frame(body):
        window_bits = _RAW_WINDOW_BITS
    inflater = zlib.decompressobj(window_bits)
    try:
        content = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedRequest(f"The body is not what its Content-Encoding says: {coding}.") from error
    if len(content) > max_bytes:
        raise PayloadTooLarge(f"The body has more than {max_bytes} bytes without its Content-Encoding.")
    if not inflater.eof or inflater.unused_data:
        raise MalformedRequest(f"The body is not one whole {coding} stream.")
    return content


def _has_zlib_frame(body: bytes) -> bool:
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


async def encoded(content: bytes, coding: str, threads: ThreadPoolExecutor) -> bytes:
    """The content in a coding, gzip or deflate."""
    if len(content) <= INLINE_BYTES:
        return deflate(content, coding)
    return await asyncio.get_running_loop().run_in_executor(threads, deflate, content, coding)


def deflate(content: bytes, coding: str) -> bytes:
    """Code as gzip, or as deflate in zlib's frame."""
    deflater = zlib.compressobj(_FASTEST, zlib.DEFLATED, _WINDOW_BITS[coding])
    return deflater.compress(content) + deflater.flush()
