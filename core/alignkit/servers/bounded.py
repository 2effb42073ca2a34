"""Answers of a server up to a size: whoever it is, it must not fill the memory."""

import sys
from collections.abc import AsyncIterator
from typing import Any

# The longest answers of models, with the reasoning and log-probabilities that come with them, have a few hundred kB.
MOST_BYTES = 8 * 1024 * 1024
# Packed, a byte may stand for a thousand.
MOST_PACKED_BYTES = 512 * 1024


class TooLargeError(Exception):
    """The server's answer does not end where an answer should."""


def bound(response: Any) -> None:
    """Let a response that is still to be read be read only so far; then reading it raises TooLargeError."""
    packed = response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
    most = MOST_PACKED_BYTES if packed else MOST_BYTES
    stream = response.stream
    # The client's HTTP library (httpx, or one in its place) takes streams of its own class only.
    library: Any = sys.modules[type(response).__module__.partition(".")[0]]

    class Bounded(library.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            received = 0
            async for piece in stream:
                received += len(piece)
                if received > most:
                    raise TooLargeError(f"the answer is longer than {most:,} bytes")
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    response.stream = Bounded()
