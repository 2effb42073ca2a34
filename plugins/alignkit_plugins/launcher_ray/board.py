"""Where the launcher and the workers leave each other word: an actor of the Ray cluster."""

from alignkit.launching import TOGETHER


class Board:
    """Signals to pass on, what the processes write, and how they ended."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.output: list[tuple[int, bytes]] = []
        self.statuses: dict[int, int] = {}
        self.begun = self.closed = False

    def begins(self) -> bool:
        """Whether a process may still begin; then one has."""
        self.begun = self.begun or not self.closed
        return not self.closed

    def given_up(self) -> bool:
        """Whether none has begun; then none will."""
        self.closed = not self.begun
        return self.closed

    def signal(self, number: int) -> None:
        """One for all processes."""
        self.signals.append(number)

    def news(self, seen: int) -> tuple[list[int], bool]:
        """Signals after the first `seen`, and whether a process has failed, which the others would wait for."""
        failed = any(status not in (0, *TOGETHER) for status in self.statuses.values())
        return self.signals[seen:], failed

    def say(self, descriptor: int, text: bytes) -> None:
        """Output of a process; 1 stdout, 2 stderr."""
        self.output.append((descriptor, text))

    def heard(self) -> list[tuple[int, bytes]]:
        """The output since the last call."""
        heard, self.output = self.output, []
        return heard

    def ended(self, rank: int, status: int) -> None:
        """A process has come to its end."""
        self.statuses[rank] = status

    def ends(self) -> dict[int, int]:
        """Rank -> exit status of those that have."""
        return self.statuses
