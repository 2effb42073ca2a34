"""How fast a server is asked."""

import asyncio
import time


class Pace:
    """Lets requests through one by one, evenly spread over the minute."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Until the next request may go."""
        now = time.monotonic()
        mine = max(self._next, now)
        self._next = mine + self._interval
        if mine > now:
            await asyncio.sleep(mine - now)
