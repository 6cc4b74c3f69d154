"""A stand-in for training: records drawn from planted effects, so that a cycle's decisions can be told beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from smt.training.cycle.execute import JOB, RECORD, RUN, SCENARIO, TEMPLATE
from smt.training.cycle.record import Record
from smt.training.metrics import TaskMetrics
from smt.training.run import RunPaths

ROWS = 1000


class PlantedEffects:
    """An executor whose runs have NE 0.8 · Π (1 - effect of each technique on the scenario) · (1 + noise).

    effects: of a technique, and of a pair of techniques "a+b" where both are on; a number, or one per scenario.
    unseen: share of each technique's effect that is gone on test rows, of a scenario that names some.
    stop_after: raises KeyboardInterrupt once so many jobs are done.
    """

    def __init__(
        self,
        effects: Mapping[str, float | Mapping[str, float]],
        noise: float = 0.0005,
        fails: Sequence[str] = (),
        stop_after: int | None = None,
        unseen: float = 0.0,
    ) -> None:
        self.effects = effects
        self.noise = noise
        self.fails = fails
        self.stop_after = stop_after
        self.unseen = unseen
        self.executed: list[Path] = []

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        for folder in folders:
            if len(self.executed) == self.stop_after:
                raise KeyboardInterrupt
            # Not synced, as records are: nothing here survives a crash of the machine.
            (folder / RECORD).write_text(json.dumps(self._record(folder).to_json()))
            if json.loads((folder / JOB).read_bytes())["keep"]:
                weights = RunPaths(folder / RUN).weights
                weights.parent.mkdir(parents=True, exist_ok=True)
                weights.touch()
            self.executed.append(folder)
            done(folder)

    def close(self) -> None: ...

    def _record(self, folder: Path) -> Record:
        job = json.loads((folder / JOB).read_bytes())
        scenario = json.loads((folder / SCENARIO).read_text())
        template = json.loads((folder / TEMPLATE).read_text())
        names = [each if isinstance(each, str) else each["name"] for each in template.get("techniques", [])]
        failed = next((f"the loss of {name} is nan" for name in names if name in self.fails), "")
        seed = int(job["key"][:8], 16)
        ne = test_ne = 0.8 * (1 + np.random.default_rng(seed).normal(0, self.noise))
        for key, effect in self.effects.items():
            if set(key.split("+")) <= set(names):
                share = effect if isinstance(effect, float) else effect.get(scenario["scenario"], 0.0)
                ne *= 1 - share
                test_ne *= 1 - share * (1 - self.unseen)
        metrics, test = (
            {
                task["name"]: TaskMetrics(ROWS, ROWS // 2, value, 0.7, value * 0.69, 1.0)
                for task in scenario["tasks"]
                if not failed
            }
            for value in (ne, test_ne)
        )
        recipe = template["recipe"]
        return Record(
            key=job["key"],
            scenario=scenario["scenario"],
            techniques=names,
            seed=recipe["seed"],
            share=scenario["data"]["share"],
            epochs=recipe["epochs"],
            data=job["data"],
            template="none",
            torch="none",
            metrics=metrics,
            curve=[{"epoch": e, "loss": ne, "mean_ne": ne + 0.1 / e} for e in range(1, recipe["epochs"] + 1)],
            reliability={task["name"]: [[0.1, 0.12, 500], [0.6, 0.57, 500]] for task in scenario["tasks"]},
            rows={"train": ROWS, "valid": ROWS},
            trained_rows=ROWS * recipe["epochs"],
            seconds=1.0,
            test=test if "test" in scenario["data"] else {},
            failed=failed,
        )
