"""A finished run scored by the function that is served, against what training says of the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from smt.training.config import ConfigError, load_yaml
from smt.training.cycle.jobs import Job, canonical
from smt.training.scenario import load_scenario
from smt.training.scoring import score_split
from smt.training.techniques.runs import load_run
from smt.training.trainer import train
from tests.training.support import make_scenario, synthetic, write_parquet


def test_a_run_scores_a_split_as_training_does(tmp_path: Path) -> None:
    techniques = {"capacity:": "techniques: [batch_norm, mlet, ema]\ncapacity:"}
    scenario = make_scenario(tmp_path, template=techniques, train=1500, valid=700)
    result = train(scenario, tmp_path / "run", epochs=2, progress=False)
    found = score_split(load_run(tmp_path / "run"), scenario, "valid")
    for task, metrics in result.metrics.items():
        assert (found[task].rows, found[task].positives) == (metrics.rows, metrics.positives)
        assert found[task].ne == pytest.approx(metrics.ne, rel=1e-5)
        assert found[task].auc == pytest.approx(metrics.auc, abs=1e-4)


def test_a_test_split_is_optional_and_part_of_a_job(tmp_path: Path) -> None:
    plain = make_scenario(tmp_path, train=200, valid=100)
    assert plain.files("test") == []
    template = canonical(load_yaml(plain.template.path).data)
    before = Job(plain.path, template, 1)
    assert "test" not in before.scenario_data["data"]
    named = tmp_path / "named.yaml"
    named.write_text(plain.path.read_text().replace("  valid: valid", "  test: test.parquet\n  valid: valid"))
    with pytest.raises(ConfigError, match=r"data.test\[0\]: found no such file"):
        load_scenario(named).files("test")
    keys = {before.key}
    for seed in (3, 4):  # other rows, another job
        write_parquet(tmp_path / "test.parquet", synthetic(100 + seed, seed))
        job = Job(named, template, 1)
        assert job.scenario_data["data"]["test"] == [str(tmp_path / "test.parquet")]
        keys.add(job.key)
        named = named.rename(tmp_path / f"named{seed}.yaml")  # what a job has read of a file is kept
    assert len(keys) == 3
