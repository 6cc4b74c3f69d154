"""Shadows in a running server: what they score again, what they report, and that nobody is disturbed by them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient
from typer.testing import CliRunner

from smt.serving.binary import BinaryRunner
from smt.serving.cli import app
from smt.serving.client import Client, PredictError
from smt.serving.labels import clear_label
from smt.training.template import Template
from tests.serving.labelled import Compiled, Labelled
from tests.serving.support import FEED, wait_for
from tests.serving.tensors import tensors

ROWS = FEED.rows(50)


class Shadowed(Labelled):
    label = "shadow"

    def publish(self, seed: int, features: dict[str, Any] = FEED.features, percent: float | None = None) -> str:
        return self.publish_labelled(FEED.weights(self.template, seed), features, percent)

    def start(self, seed: int, features: dict[str, Any] = FEED.features, percent: float | None = None) -> str:
        """Publishes a shadow, and waits until it is one."""
        return self.start_labelled(FEED.weights(self.template, seed), features, percent)

    def status(self) -> Any:
        (feed,) = self.client.list_scenarios()
        assert feed.HasField("shadow")
        return feed.shadow

    def ended(self, requests: int) -> Any:
        """The figures, once so many requests came to an end."""

        def done() -> bool:
            found = self.status()
            return bool(found.compared + found.dropped + found.failed == requests)

        wait_for(done, f"{requests} requests to be compared, dropped or failed")
        return self.status()

    def count(self, result: str) -> float:
        return self.running.metric("smt_shadow_requests_total", scenario="feed", result=result)


@pytest.fixture
def shadowed(compiled: Compiled, template: Template, tmp_path: Path) -> Iterator[Shadowed]:
    with Shadowed(compiled, template, tmp_path) as made:
        yield made
        assert made.running.process.poll() is None, "the server died under a test"


def test_equal_weights_differ_by_nothing(shadowed: Shadowed) -> None:
    shadow = shadowed.start(1)
    for i in range(10):
        assert shadowed.client.predict("feed", ROWS.slice(i, 20)).version == shadowed.stable
    found = shadowed.ended(10)
    assert (found.version, found.compared_with, found.percent) == (shadow, shadowed.stable, 100)
    assert (found.compared, found.rows) == (10, 200)
    assert [task.task for task in found.tasks] == list(FEED.tasks)
    assert all(task.mean_difference == task.max_difference == 0 for task in found.tasks)
    assert found.bounds[0] == 0
    assert list(found.counts) == [200 * len(FEED.tasks)] + [0] * len(found.bounds)


def test_the_difference_is_what_the_weights_make(shadowed: Shadowed, runner: BinaryRunner, template: Template) -> None:
    """By all methods, on requests of several blocks and of few rows; against both versions' scores without a server."""
    shadowed.start(2)
    pieces = [ROWS, ROWS.slice(0, 16), ROWS.slice(20, 9)]
    for rows in pieces:
        assert shadowed.client.predict("feed", rows).version == shadowed.stable
    many = shadowed.client.multi_predict(["feed"], ROWS)["feed"]
    assert not isinstance(many, PredictError)
    with InferenceServerClient(shadowed.running.target) as client:
        client.infer("feed", tensors(ROWS))
    pieces += [ROWS, ROWS]
    found = shadowed.ended(5)
    assert (found.compared, found.rows) == (5, sum(rows.num_rows for rows in pieces))
    for task in found.tasks:
        stable, shadow = (
            np.concatenate([FEED.scored(runner, template, seed, rows)[task.task] for rows in pieces]).astype(float)
            for seed in (1, 2)
        )
        # The server may cut a request so that a few rows are left for a call of their own, which rounds otherwise.
        expected = [np.abs(shadow - stable).max(), np.abs(shadow - stable).mean(), stable.mean(), shadow.mean()]
        found_ones = [task.max_difference, task.mean_difference, task.mean_stable, task.mean_shadow]
        np.testing.assert_allclose(found_ones, expected, rtol=1e-5)
    metric = shadowed.running.metric
    scores = found.rows * len(found.tasks)
    assert sum(found.counts) == metric("smt_shadow_difference_count", scenario="feed") == scores
    means = sum(task.mean_difference for task in found.tasks) / len(found.tasks)
    assert metric("smt_shadow_difference_sum", scenario="feed") == pytest.approx(means * scores)
    assert metric("smt_shadow_difference_max", scenario="feed") == max(task.max_difference for task in found.tasks)
    for of in ("stable", "shadow"):
        mean = sum(getattr(task, f"mean_{of}") for task in found.tasks) / len(found.tasks)
        assert metric("smt_shadow_mean_prediction", scenario="feed", of=of) == pytest.approx(mean)
    assert shadowed.count("compared") == 5


def test_a_share_of_the_requests(shadowed: Shadowed) -> None:
    shadowed.start(2, percent=30)
    for _ in range(200):
        shadowed.client.predict("feed", ROWS.slice(0, 1))
    wait_for(lambda: shadowed.status().compared >= 20, "a share to be compared")
    assert shadowed.status().compared <= 110  # 60 expected: seven standard deviations


def test_what_it_cannot_score_is_counted_and_answered_all_the_same(shadowed: Shadowed) -> None:
    features = {**FEED.features, "features": [dict(feature) for feature in FEED.features["features"]]}
    device = next(feature for feature in features["features"] if feature["name"] == "device")
    device |= {"required": True, "default": None}
    shadowed.start(2, features)
    rows = {name: ROWS[name].to_pylist() for name in ROWS.column_names if name != "device"}
    assert shadowed.client.predict("feed", rows).version == shadowed.stable
    found = shadowed.ended(1)
    assert (found.compared, found.failed) == (0, 1)
    assert "device" in found.failure
    shown = CliRunner().invoke(app, ["status", "--target", shadowed.running.target])
    assert "cannot score: " in shown.output


def test_status_shows_it(shadowed: Shadowed) -> None:
    shadow = shadowed.start(2)
    shadowed.client.predict("feed", ROWS)
    found = shadowed.ended(1)
    shown = CliRunner().invoke(app, ["status", "--target", shadowed.running.target, "--json"])
    (feed,) = json.loads(shown.output)["scenarios"]
    assert (feed["shadow"]["version"], feed["shadow"]["compared"]) == (shadow, 1)
    assert [task["max_difference"] for task in feed["shadow"]["tasks"]] == [task.max_difference for task in found.tasks]
    assert sum(bucket["scores"] for bucket in feed["shadow"]["differences"]) == 50 * len(FEED.tasks)
    assert "Shadows" in CliRunner().invoke(app, ["status", "--target", shadowed.running.target]).output


def test_while_shadows_come_and_go_every_request_is_answered(shadowed: Shadowed) -> None:
    versions = [shadowed.start(seed) for seed in (2, 3)]
    ended, wrong = threading.Event(), []

    def ask() -> None:
        with Client(shadowed.running.target, timeout=60) as client:
            while not ended.is_set():
                try:
                    if client.predict("feed", ROWS).version != shadowed.stable:
                        wrong.append("answered by a shadow")
                except PredictError as error:
                    wrong.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        version = versions[turn % 2]
        shadowed.registry.set_label("feed", "shadow", version)
        wait_for(lambda version=version: shadowed.state(version) == ("serving", "shadow"), "the shadow to be loaded")
    before = shadowed.count("compared") + shadowed.count("dropped")
    wait_for(lambda: shadowed.count("compared") + shadowed.count("dropped") > before, "shadows to score on")
    clear_label(shadowed.registry, "feed", "shadow")
    wait_for(lambda: {shadowed.state(each)[0] for each in versions} == {"unloaded"}, "the shadows to be gone")
    ended.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert shadowed.count("failed") == 0


def test_what_does_not_fit_the_queue_is_dropped_and_counted(
    compiled: Compiled, template: Template, tmp_path: Path
) -> None:
    with Shadowed(compiled, template, tmp_path, shadow_queue_bytes=100) as shadowed:
        shadowed.start(2)
        for _ in range(20):
            shadowed.client.predict("feed", ROWS)
        found = shadowed.ended(20)
        assert (found.compared, found.dropped) == (0, 20)
        assert shadowed.count("dropped") == 20
        assert shadowed.running.metric("smt_requests_total", scenario="feed", code="OK") == 20


def test_without_memory_for_it_it_is_refused_and_the_stable_version_serves_on(
    compiled: Compiled, template: Template, tmp_path: Path
) -> None:
    with Shadowed(compiled, template, tmp_path) as shadowed:
        resident = int(shadowed.running.metric("smt_resident_bytes"))
    limit = resident + FEED.weights(template, 1).slab.nbytes  # loading takes the slab as well
    (tmp_path / "small").mkdir()
    with Shadowed(compiled, template, tmp_path / "small", memory_limit=limit) as shadowed:
        version = shadowed.publish(2)
        wait_for(lambda: shadowed.state(version)[0] == "refused", "the shadow to be refused")
        (feed,) = shadowed.client.list_scenarios()
        assert "needs 1 MiB of memory for weights" in feed.versions[-1].reason
        assert feed.state == "SERVING"
        assert not feed.HasField("shadow")
        assert shadowed.client.predict("feed", ROWS).version == shadowed.stable
        assert shadowed.running.events("shadow_refused")[0]["cause"] == "memory"
