"""Points of a capacity search: runs of the load generator, with what the server used meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from smt.serving.loadgen.capacity import Point, Slo, point_of
from smt.serving.loadgen.plan import Closed, LoadgenError, Open, Plan, Source, Stream
from smt.serving.loadgen.result import LoadResult, Progress
from smt.serving.loadgen.runner import run
from smt.serving.loadgen.server_use import Look, Use, cores_between

# Of the runs that confirm, times as long as others.
_LONGER = 2.0
# A first guess: so many callers keep any server busy.
_GUESS_CALLERS = 16
_GUESS_SECONDS = 2.0
# Far beyond capacity nothing is learnt by letting calls pile up: the point is missed as soon as so many wait.
_MOST_OUTSTANDING = 20_000


class Measurer:
    """Measures rates of one mix of streams.

    Args:
        plan: targets, connections, threads, seconds, warm-up, seed; its sources are not used.
        look: the server's CPU and memory; None if unknown.
        progress: called every second with the rate (0 for the first guess) and how it goes.
    """

    def __init__(
        self,
        plan: Plan,
        streams: Sequence[Stream],
        slo: Slo,
        look: Look | None,
        progress: Callable[[float, Progress], None] | None = None,
    ) -> None:
        self._plan = replace(plan, max_outstanding=min(plan.max_outstanding, _MOST_OUTSTANDING))
        self._streams = streams
        self._slo = slo
        self._look = look
        self._progress = progress
        self._number = 0

    def guess(self) -> float:
        """A rate to begin with: half of what a closed loop reaches. Raises LoadgenError if nothing is answered OK."""
        plan = replace(self._plan, seconds=_GUESS_SECONDS, sources=[Source(Closed(_GUESS_CALLERS), self._streams)])
        total = run(plan, self._follow(0.0)).total
        if not total.ok:
            found = ", ".join(f"{outcome} ({histogram.count:,})" for outcome, histogram in total.outcomes.items())
            raise LoadgenError(f"no call was answered OK; found {found or 'no answer at all'}")
        return total.ok_per_second / 2

    def __call__(self, rate: float, longer: bool) -> Point:
        """One point; other arrivals than the points before, so that no accident of one is in all of them."""
        self._number += 1
        plan = replace(
            self._plan,
            sources=[Source(Open(rate), self._streams)],
            seed=self._plan.seed + self._number,
            seconds=self._plan.seconds * (_LONGER if longer else 1.0),
        )
        uses: list[Use] = []
        follow = self._follow(rate)

        def tick(second: Progress) -> None:
            # By seconds of the measured window: neither start nor end of the run are in it.
            if self._look is not None and second.at >= plan.warm_up_seconds:
                uses.append(self._look())
            follow(second)

        result: LoadResult = run(plan, tick)
        cores = cores_between(uses[0], uses[-1]) if len(uses) > 1 else None
        resident = max((use.resident_bytes for use in uses), default=None)
        return point_of(rate, result, self._slo, cores, resident)

    def _follow(self, rate: float) -> Callable[[Progress], None]:
        return lambda second: self._progress(rate, second) if self._progress is not None else None
