"""Who is told how a cycle comes along."""

from typing import Protocol


class Watch(Protocol):
    """A progress bar, or nothing."""

    def phase(self, title: str, runs: float) -> None:
        """A phase begins, which is to cost so many runs."""

    def advance(self, runs: float) -> None:
        """So many of them are done."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Quiet:
    """Nothing."""

    def phase(self, title: str, runs: float) -> None: ...

    def advance(self, runs: float) -> None: ...

    def say(self, text: str) -> None: ...
