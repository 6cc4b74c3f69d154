"""Jobs on a Ray cluster of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt.training.cycle.jobs import Job
from smt.training.cycle.local import LocalExecutor
from smt.training.cycle.ray_executor import RayExecutor
from smt.training.cycle.store import JobError, Runner, Store
from smt.training.cycle.variant import Variant
from tests.training.support import make_scenario

ray = pytest.importorskip("ray", reason="Ray is an extra of its own: pip install 'smt-stack[ray]'")


def test_jobs_on_ray_give_the_records_of_local_ones(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, train=300, valid=200)
    content = Variant.of(scenario.template.path).content
    jobs = [Job(scenario.path, content, seed, epochs=1) for seed in (1, 2)]
    executor = RayExecutor(2)
    try:
        far = Runner(Store(tmp_path / "far"), executor).records(jobs)
        with pytest.raises(JobError, match="nowhere failed"):
            executor.run([tmp_path / "nowhere"], lambda folder: None)
    finally:
        executor.close()
    assert not ray.is_initialized()
    with LocalExecutor(1) as local:
        near = Runner(Store(tmp_path / "near"), local).records(jobs)
    assert [record.metrics for record in far] == [record.metrics for record in near]
