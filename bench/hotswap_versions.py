"""The versions of a benchmark of swaps: sets of weights for each scenario, and what each must answer, to the bit.

variants = Variants(load_shape("R1").template, scenarios=20, count=4, cache=Path("build/bench"))
versions = variants.publish(registry)              # (scenario, version) -> number of the variant
expected = variants.expected(registry, streams)    # computed here, in-process, by no server
expected.check(read_answers(folder), versions)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.fleet import Fleet
from smt.kernels.transform import FeatureTransform, RawColumn
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.loadgen import Answer, Stream
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.registry import Registry
from smt.training.model import abi_hash
from smt.training.template import Template


class Name(NamedTuple):
    """A published version."""

    scenario: str
    version: str


@dataclass(frozen=True)
class Variants:
    """So many sets of weights for each of so many scenarios; the same in every process that makes this object."""

    template: Template
    scenarios: int
    count: int
    cache: Path

    @cached_property
    def fleet(self) -> Fleet:
        return Fleet(self.template, self.scenarios, self.cache)

    @cached_property
    def weights(self) -> dict[str, list[Weights]]:
        """Of each scenario."""
        drawn = Fleet(self.template, self.scenarios * self.count, self.cache).weights()
        return {name: [next(drawn) for _ in range(self.count)] for name in self.fleet.names}

    def publish(self, registry: Registry) -> dict[Name, int]:
        """The binary, and a version of each variant; the last one is current. Returns which variant each version is."""
        self.fleet.publish_binary(registry)
        return {
            Name(name, self.fleet.publish_scenario(registry, name, weights).version): number
            for name, variants in self.weights.items()
            for number, weights in enumerate(variants)
        }

    def expected(self, registry: Registry, streams: Sequence[Stream]) -> Expected:
        """The scores of every variant for every payload of each stream, which is named after its scenario."""
        runner = BinaryRunner.load(registry, self.template.name, abi_hash(self.template))
        transform = FeatureTransform(self.fleet.spec)
        scores: dict[tuple[int, int, int], bytes] = {}
        for stream, one in enumerate(streams):
            batches = [transform.apply(p.rows, _columns(p.message)) for p in one.payloads]
            for variant, weights in enumerate(self.weights[one.name]):
                for payload, batch in enumerate(batches):
                    # Tasks one after the other, as in the response.
                    scores[stream, payload, variant] = runner.score(weights, batch).T.tobytes()
        return Expected([stream.name for stream in streams], scores)


@dataclass
class Verdict:
    """What answers were. wrong: with other scores than those of the version they name, or naming none that was
    published. of_version: how many named each."""

    answers: int = 0
    wrong: int = 0
    of_version: Counter[Name] = field(default_factory=Counter)


@dataclass(frozen=True)
class Expected:
    """scores: of (stream, payload, variant), float32 [tasks, rows] as bytes."""

    scenarios: Sequence[str]
    scores: Mapping[tuple[int, int, int], bytes]

    def check(self, answers: Iterable[Answer], versions: Mapping[Name, int]) -> Verdict:
        """Compares every answer, bit by bit, with what the version it names must say."""
        found = Verdict()
        for stream, payload, message in answers:
            response = pb.PredictResponse.FromString(message)
            name = Name(self.scenarios[stream], response.version)
            scores = b"".join(np.array(task.probabilities, np.float32).tobytes() for task in response.tasks)
            variant = versions.get(name)
            found.answers += 1
            found.wrong += variant is None or scores != self.scores[stream, payload, variant]
            found.of_version[name] += 1
        return found


def _columns(message: bytes) -> list[RawColumn]:
    """The columns of a PredictRequest of numbers and integers, one value a row."""
    request = pb.PredictRequest.FromString(message)
    types = {"floats": np.float32, "doubles": np.float64, "ints": np.int64}
    columns = []
    for feature in request.candidates:
        kind = feature.WhichOneof("values")
        columns.append(RawColumn(feature.name, np.array(getattr(feature, kind).values, types[kind])))
    return columns
