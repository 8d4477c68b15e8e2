"""One HTTP connection that tells exactly how far a request came: sent, answered in part, answered in whole.

It knows neither routes nor what replies mean. Source: RFC 9112, "Message Syntax".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtests.http_client import Caller


@dataclass(slots=True)
class Reply:
    """What came back; `status` 0 where not even a first byte did, `is_whole` only at the message's end."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    has_begun: bool = False
    is_whole: bool = False

    @property
    def closes(self) -> bool:
        """Whether the service will take no further request on this connection."""
        return self.headers.get("connection", "").lower() == "close"


class KeptConnection(Caller):
    """A connection for one request after the other, whose replies are taken as they come: none is an error."""

    def _begin(self) -> None:
        super()._begin()
        self._status, self._has_begun, self._is_whole = 0, False, False

    async def exchange(self, request: bytes) -> Reply:
        """Send a request and return what came back, be it whole, in part or nothing."""
        await self.ask(request)
        return Reply(self._status, self.headers, self.body, self._has_begun, self._is_whole)

    def data_received(self, data: bytes) -> None:
        """Take what came; a reply that is no HTTP ends with what was understood of it."""
        self._has_begun = True
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Keep the status."""
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        """Note the end."""
        self._is_whole = True
        self.end()

    def fail(self, reason: str) -> None:
        """End the wait with what has come so far."""
        self.end()
