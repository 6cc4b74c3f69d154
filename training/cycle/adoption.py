"""The adoption matrix: technique × scenario, with gain, interval, whether it was adopted, and why not."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from smt.training.cycle.combining import Step
from smt.training.cycle.screening import Screening
from smt.training.cycle.statistics import Interval


@dataclass(frozen=True)
class Cell:
    """One technique on one scenario.

    gain: over the incumbent, from the last rung that it was in; None where the scenario was represented by another
    one, or nothing was run. measured_on: the scenario that the decision was read off. why: it was not adopted.
    """

    technique: str
    scenario: str
    gain: Interval | None
    rung: int | None
    measured_on: str
    adopted: bool
    why: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def adoption_matrix(
    candidates: Sequence[str],
    representative_of: Mapping[str, str],
    screening: Screening,
    steps: Sequence[Step],
    adopted: Sequence[str],
    dropped: Mapping[str, str],
) -> list[Cell]:
    """A cell for each candidate and scenario.

    Args:
        representative_of: of each scenario, the one that stands for it.
        dropped: why techniques were refused before anything was run, or given up after verification.
    """
    reasons = {**{step.technique: step.why for step in steps if step.why}, **screening.rejected, **dropped}
    cells = []
    for label in candidates:
        rungs = [i for i, rung in enumerate(screening.rungs) if label in rung.comparisons]
        comparison = screening.rungs[rungs[-1]].comparisons[label] if rungs else None
        for scenario, representative in representative_of.items():
            gain = comparison.scenarios.get(scenario) if comparison else None
            cells.append(
                Cell(
                    technique=label,
                    scenario=scenario,
                    gain=gain,
                    rung=rungs[-1] + 1 if gain else None,
                    measured_on=representative,
                    adopted=label in adopted,
                    why="" if label in adopted else reasons[label],
                )
            )
    return cells
