"""Canaries in a running server: who gets them, and what takes them out of service by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from tritonclient.grpc import InferenceServerClient

from smt.serving.binary import BinaryRunner, Weights
from smt.serving.client import PredictError
from smt.training.template import Template
from tests.serving.labelled import Compiled, Labelled
from tests.serving.support import FEED, wait_for
from tests.serving.tensors import tensors

ROWS = FEED.rows(4)
MIN_REQUESTS = 30


def label_position(scenario: str, key: str) -> float:
    """Where a request key lies in [0, 100), as serving/server/label_routes.h says."""
    seed = xxhash.xxh3_64_intdigest(scenario.encode())
    return (xxhash.xxh3_64_intdigest(key.encode(), seed=seed) >> 11) / 2**53 * 100


class Canaried(Labelled):
    label = "canary"

    def __init__(self, compiled: Compiled, template: Template, folder: Path) -> None:
        super().__init__(compiled, template, folder, canary_min_requests=MIN_REQUESTS, canary_latency_ratio=0)

    def start(self, weights: Weights, percent: float, features: dict[str, Any] = FEED.features) -> str:
        """Publishes a canary, and waits until it answers."""
        return self.start_labelled(weights, features, percent)

    def reason(self, version: str) -> str:
        (feed,) = self.client.list_scenarios()
        return next(each.reason for each in feed.versions if each.version == version)


@pytest.fixture
def canaried(compiled: Compiled, template: Template, tmp_path: Path) -> Iterator[Canaried]:
    with Canaried(compiled, template, tmp_path) as made:
        yield made
        assert made.running.process.poll() is None, "the server died under a test"


def near(template: Template) -> Weights:
    """Weights that are another version's and score nearly alike."""
    weights = FEED.weights(template, 1)
    return dataclasses.replace(weights, slab=weights.slab * 1.0001)


def far(runner: BinaryRunner, template: Template) -> Weights:
    """Weights whose mean prediction is a third above or below the stable version's."""
    usual = FEED.scored(runner, template, 1, ROWS)["click"].mean()
    for seed in range(2, 100):
        mean = FEED.scored(runner, template, seed, ROWS)["click"].mean()
        if max(mean / usual, usual / mean) > 1.33:
            return FEED.weights(template, seed)
    raise AssertionError("no such seed")


def test_the_split_is_that_of_the_hash(canaried: Canaried, runner: BinaryRunner, template: Template) -> None:
    canary = canaried.start(FEED.weights(template, 2), 30)
    seeds = {canaried.stable: 1, canary: 2}
    scores = {version: FEED.scored(runner, template, seed, ROWS)["click"] for version, seed in seeds.items()}
    client = canaried.client
    answered = dict.fromkeys(seeds, 0)
    for i in range(MIN_REQUESTS - 10):  # too few for an alarm
        key = f"user-{i}"
        expected = canary if label_position("feed", key) < 30 else canaried.stable
        for given in ({"request_key": key}, {"request_id": key}, {"request_key": key, "request_id": "other"}):
            prediction = client.predict("feed", ROWS, **given)
            assert prediction.version == expected, given
            np.testing.assert_array_equal(prediction["click"], scores[expected])
        answered[expected] += 1
        many = client.multi_predict(["feed"], ROWS, request_key=key)["feed"]
        assert not isinstance(many, PredictError)
        assert many.version == expected
        if answered[canary] >= 6:
            break
    assert min(answered.values()) > 0
    assert canaried.running.metric("smt_canary_requests_total", scenario="feed", code="OK") == 4 * answered[canary]


def test_requests_may_name_the_label_or_the_version(canaried: Canaried, template: Template) -> None:
    client = canaried.client
    with pytest.raises(PredictError, match="names no version of scenario 'feed'; expected 'stable', or none"):
        client.predict("feed", ROWS, label="canary")
    canary = canaried.start(FEED.weights(template, 2), 0.001)
    assert client.predict("feed", ROWS, label="canary").version == canary
    assert client.predict("feed", ROWS, label="stable").version == canaried.stable
    assert client.predict("feed", ROWS, version=canary).version == canary
    assert client.predict("feed", ROWS, version=canaried.stable).version == canaried.stable
    with pytest.raises(PredictError, match="expected 'stable', 'canary', or none"):
        client.predict("feed", ROWS, label="nonsense")
    with pytest.raises(PredictError, match="is not being served"):
        client.predict("feed", ROWS, label="canary", version=canaried.stable)


def test_promotion_of_the_canary_needs_no_load(canaried: Canaried, template: Template) -> None:
    canary = canaried.start(near(template), 50)
    loads = canaried.running.metric("smt_snapshot_loads_total", scenario="feed")
    canaried.registry.set_current("feed", canary)
    wait_for(lambda: canaried.state(canary) == ("serving", "stable"), "the canary to be promoted")
    assert canaried.client.predict("feed", ROWS).version == canary
    assert canaried.state(canaried.stable)[0] == "warm"
    assert canaried.running.metric("smt_snapshot_loads_total", scenario="feed") == loads


def test_a_canary_that_predicts_otherwise_is_rolled_back(
    canaried: Canaried, runner: BinaryRunner, template: Template
) -> None:
    canary = canaried.start(far(runner, template), 50)
    for i in range(8 * MIN_REQUESTS):
        canaried.client.predict("feed", ROWS, request_key=str(i))
    wait_for(lambda: canaried.state(canary)[0] == "refused", "the canary to be rolled back")
    assert canaried.reason(canary).startswith("rolled back: drift: task ")
    check_rolled_back(canaried, "drift")


def test_a_canary_that_fails_is_rolled_back(canaried: Canaried, template: Template) -> None:
    """It needs a feature that clients do not send, so its requests are INVALID_ARGUMENT."""
    features = {**FEED.features, "features": [dict(feature) for feature in FEED.features["features"]]}
    device = next(feature for feature in features["features"] if feature["name"] == "device")
    device |= {"required": True, "default": None}
    canary = canaried.start(FEED.weights(template, 1), 50, features)
    rows = {name: ROWS[name].to_pylist() for name in ROWS.column_names if name != "device"}
    failed = 0
    for i in range(8 * MIN_REQUESTS):
        try:
            canaried.client.predict("feed", rows, request_key=str(i))
        except PredictError:
            failed += 1
    assert failed > 0
    wait_for(lambda: canaried.state(canary)[0] == "refused", "the canary to be rolled back")
    assert canaried.reason(canary).startswith("rolled back: errors: 100.00 % of its ")
    check_rolled_back(canaried, "errors")


def check_rolled_back(canaried: Canaried, cause: str) -> None:
    for i in range(50):
        assert canaried.client.predict("feed", ROWS, request_key=str(i)).version == canaried.stable
    assert canaried.running.metric("smt_canary_rollbacks_total", scenario="feed", cause=cause) == 1
    assert canaried.running.metric("smt_canary_rollbacks_total", scenario="feed") == 1
    (line,) = canaried.running.events("canary_rolled_back")
    assert (line["cause"], line["serving"]) == (cause, canaried.stable)


def test_open_inference_protocol_requests_are_split_too(canaried: Canaried, template: Template) -> None:
    canary = canaried.start(FEED.weights(template, 2), 50)
    with InferenceServerClient(canaried.running.target) as client:
        for i in range(12):
            answer = client.infer("feed", tensors(ROWS), parameters={"request_key": f"user-{i}"})
            expected = canary if label_position("feed", f"user-{i}") < 50 else canaried.stable
            assert answer.get_response().model_version == expected
        answer = client.infer("feed", tensors(ROWS), parameters={"label": "canary"})
        assert answer.get_response().model_version == canary
        answer = client.infer("feed", tensors(ROWS), model_version=canary)
        assert answer.get_response().model_version == canary
