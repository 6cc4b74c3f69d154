"""What a soak is judged by: whether the server's counters are the clients', and whether its memory grows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from smt.serving.loadgen import LoadResult, StreamResult

# In place of a status, where the client knows that there was an answer and not which: in a MultiPredict each scenario
# has its own.
ANY = "*"

# Calls that never left the client.
_NOT_MADE = ("no connection", "not sent", "client deadline, not sent")

_PARTS = 10

Counts = Counter[tuple[str, str]]  # by scenario and status


@dataclass
class ClientCounts:
    """What clients know of their calls.

    Attributes:
        answered: by scenario and status, as the server said it.
        open: calls per scenario that ended without the server's word, or by their deadline, which gRPC itself may have
            told: the server may have counted them, as whatever it made of them, or never have seen them.
    """

    answered: Counts = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)

    def add(self, scenarios: Iterable[str], stream: StreamResult) -> None:
        """All calls of a stream, each of which is one of each of the scenarios."""
        names = list(scenarios)
        for outcome, count in stream.totals.items():
            for scenario in names:
                if outcome.isupper() and outcome != "DEADLINE_EXCEEDED":
                    self.answered[scenario, ANY if len(names) > 1 else outcome] += count
                elif outcome not in _NOT_MADE:
                    self.open[scenario] += count

    def add_result(self, scenarios: Mapping[str, Sequence[str]], result: LoadResult) -> None:
        """`scenarios`: of each stream, by its name."""
        for name, stream in result.streams.items():
            self.add(scenarios[name], stream)


def differences(server: Counts, client: ClientCounts) -> list[str]:
    """Where the counters do not add up, in words. Empty: every answer was counted once, under its scenario and status,
    and nothing was counted that no client sent."""
    found = []
    scenarios = {scenario for scenario, _ in [*server, *client.answered]} | set(client.open)
    for scenario in sorted(scenarios):
        counted = {code: count for (name, code), count in server.items() if name == scenario}
        answered = {code: count for (name, code), count in client.answered.items() if name == scenario}
        for code, count in answered.items():
            if code != ANY and counted.get(code, 0) < count:
                found.append(
                    f"{scenario} {code}: {counted.get(code, 0):,} counted; clients have {count:,} such answers"
                )
        least, most = sum(answered.values()), sum(answered.values()) + client.open[scenario]
        received = sum(counted.values())
        if not least <= received <= most:
            bounds = f"{least:,}" if least == most else f"{least:,}..{most:,}"
            found.append(f"{scenario}: {received:,} counted; clients made {bounds}")
    return found


@dataclass(frozen=True)
class Trend:
    """A line's slope per hour, and the standard error of it."""

    per_hour: float
    error: float

    @property
    def least(self) -> float:
        """What the slope is at least, with 97.5 % confidence."""
        return self.per_hour - 2 * self.error


def trend(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Of a line fitted to the second half of the samples: to the least of each tenth of it, since what is above that
    comes and goes with the traffic. Raises ValueError for fewer than 40 samples."""
    if len(values) < 40:
        raise ValueError(f"found {len(values)} samples; expected at least 40")
    half = len(values) // 2
    parts = zip(np.array_split(seconds[half:], _PARTS), np.array_split(values[half:], _PARTS), strict=True)
    at, least = np.array([(np.mean(when), np.min(found)) for when, found in parts]).T
    at = at - at.mean()
    slope = float(at @ least / (at @ at))
    rest = least - least.mean() - slope * at
    error = float(np.sqrt(rest @ rest / (_PARTS - 2) / (at @ at)))
    return Trend(slope * 3600, error * 3600)
