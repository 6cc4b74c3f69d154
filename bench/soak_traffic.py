"""The calls of a soak: polite, hasty, wrong and rude ones, each kind on scenarios of its own, so that the server's
counters can be compared with what was sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.fleet import Fleet
from bench.load import requests
from smt.serving import loadgen
from smt.serving.protos import prediction_pb2 as pb

POLITE = ("scenario_000", "scenario_001")
TOGETHER = ("scenario_002", "scenario_003")  # scored by MultiPredict alone
MISTAKEN = "scenario_004"
HASTY = "scenario_005"
RUDE = "scenario_006"
FLOOD = "scenario_007"
SCENARIOS = 8
# Where the server counts what names no scenario of its registry.
UNKNOWN = "_unknown"

MULTI_PREDICT = "/smt.v1.PredictionService/MultiPredict"
PREDICT = "/smt.v1.PredictionService/Predict"

_SIZES = {1: 0.3, 16: 0.25, 64: 0.2, 256: 0.15, 1024: 0.07, 4096: 0.03}
_HASTY_SIZES = {64: 0.7, 256: 0.3}
_TOGETHER_SIZES = (1, 16, 200)
_FLOOD_ROWS = 1024
_PAYLOADS = 4  # of each kind and size
# Seconds. With so many the shortest cannot be met and the longest always can.
_DEADLINES = (0.001, 0.003, 0.01, 0.05, 0.5)
# Of what the server can score, and of mistakes so many per second.
_POLITE_SHARE, _HASTY_SHARE, _TOGETHER_SHARE, _MISTAKES_RATE = 0.25, 0.1, 0.15, 50.0
_DRAIN_SECONDS = 20.0

# What each mistake must be answered with.
MISTAKES = {
    "no such version": "NOT_FOUND",
    "a feature missing": "INVALID_ARGUMENT",
    "a feature that is not read": "INVALID_ARGUMENT",
    "a value that is not finite": "INVALID_ARGUMENT",
    "more rows than values": "INVALID_ARGUMENT",
    "half a message": "INVALID_ARGUMENT",
    "no such scenario": "NOT_FOUND",
}


@dataclass(frozen=True)
class Traffic:
    """A plan, and which scenarios a call of each of its streams counts for."""

    plan: loadgen.Plan
    scenarios: Mapping[str, Sequence[str]]


def steady(fleet: Fleet, target: str, capacity: float, seconds: float) -> Traffic:
    """Open loops at about half of `capacity` (rows per second): requests of all sizes, MultiPredict, requests with
    deadlines, and mistakes."""
    polite = _sized(fleet, target, POLITE, _SIZES)
    timeouts = [loadgen.Timeout(value) for value in _DEADLINES]
    hasty = _sized(fleet, target, (HASTY,), _HASTY_SIZES, timeouts=timeouts, linger_seconds=1.0)
    together = [
        loadgen.Stream(f"together x {rows}", MULTI_PREDICT, _together(fleet, target, rows)) for rows in _TOGETHER_SIZES
    ]
    mistaken = _mistaken(fleet, target)
    mean = len(TOGETHER) * sum(_TOGETHER_SIZES) / len(_TOGETHER_SIZES)
    sources = [
        loadgen.Source(loadgen.Open(_POLITE_SHARE * capacity / _mean_rows(_SIZES)), polite),
        loadgen.Source(loadgen.Open(_HASTY_SHARE * capacity / _mean_rows(_HASTY_SIZES)), hasty),
        loadgen.Source(loadgen.Open(_TOGETHER_SHARE * capacity / mean), together),
        loadgen.Source(loadgen.Open(_MISTAKES_RATE), mistaken),
    ]
    plan = loadgen.Plan(
        [target], sources, seconds=seconds, warm_up_seconds=0, connections=8, drain_seconds=_DRAIN_SECONDS
    )
    scenarios: dict[str, Sequence[str]] = {stream.name: stream.name.split(" ")[:1] for stream in [*polite, *hasty]}
    scenarios |= {stream.name: TOGETHER for stream in together}
    scenarios |= {stream.name: [MISTAKEN] for stream in mistaken} | {"no such scenario": [UNKNOWN]}
    return Traffic(plan, scenarios)


def rude(fleet: Fleet, target: str, seconds: float, seed: int) -> Traffic:
    """Clients that give up on calls, and whose connections break."""
    cancelled = {"cancel_fraction": 0.3, "cancel_seconds": (0.0, 0.01)}
    streams = _sized(fleet, target, (RUDE,), {16: 0.5, 256: 0.4, 4096: 0.1}, **cancelled)
    source = loadgen.Source(loadgen.Closed(16, think_seconds=0.05), streams)
    plan = loadgen.Plan(
        [target],
        [source],
        seconds=seconds,
        warm_up_seconds=0,
        connections=6,
        drain_seconds=_DRAIN_SECONDS,
        seed=seed,
        disconnects_per_second=4.0,
    )
    return Traffic(plan, {stream.name: [RUDE] for stream in streams})


def flood(fleet: Fleet, target: str, seconds: float, seed: int) -> Traffic:
    """More large requests at once than the server has time for."""
    streams = _sized(fleet, target, (FLOOD,), {_FLOOD_ROWS: 1.0})
    source = loadgen.Source(loadgen.Closed(64), streams)
    plan = loadgen.Plan(
        [target], [source], seconds=seconds, warm_up_seconds=0, connections=4, drain_seconds=_DRAIN_SECONDS, seed=seed
    )
    return Traffic(plan, {stream.name: [FLOOD] for stream in streams})


def _mean_rows(sizes: Mapping[int, float]) -> float:
    return sum(rows * share for rows, share in sizes.items()) / sum(sizes.values())


def _sized(
    fleet: Fleet, target: str, scenarios: Sequence[str], sizes: Mapping[int, float], **options: Any
) -> list[loadgen.Stream]:
    """Named "SCENARIO x ROWS"."""
    made = []
    for seed, (rows, share) in enumerate(sizes.items()):
        for scenario in scenarios:
            [stream] = requests(fleet, target, {scenario: share}, rows, seed, payloads=_PAYLOADS, **options)
            made.append(loadgen.Stream(**{**vars(stream), "name": f"{scenario} x {rows}"}))
    return made


def _together(fleet: Fleet, target: str, rows: int) -> list[loadgen.Payload]:
    """MultiPredict of both scenarios, with the candidates of requests for one of them."""
    [stream] = requests(fleet, target, {TOGETHER[0]: 1.0}, rows, seed=rows, payloads=_PAYLOADS)
    made = []
    for payload in stream.payloads:
        one = pb.PredictRequest.FromString(payload.message)
        both = [pb.ScenarioRequest(scenario=name) for name in TOGETHER]
        message = pb.MultiPredictRequest(scenarios=both, rows=rows, candidates=one.candidates)
        made.append(loadgen.Payload(message.SerializeToString(), rows * len(TOGETHER)))
    return made


def _mistaken(fleet: Fleet, target: str) -> list[loadgen.Stream]:
    """Named by MISTAKES."""
    [stream] = requests(fleet, target, {MISTAKEN: 1.0}, 16, seed=0, payloads=1)
    good = stream.payloads[0].message
    made = []
    for name in MISTAKES:
        message = pb.PredictRequest.FromString(good)
        match name:
            case "no such version":
                message.version = "20200101-000000-000-00000000"
            case "a feature missing":
                del message.candidates[3]
            case "a feature that is not read":
                message.candidates.add(name="numbr_0", floats=pb.Floats(values=[1.0] * 16))
            case "a value that is not finite":
                number = next(feature for feature in message.candidates if feature.WhichOneof("values") == "floats")
                number.floats.values[7] = float("nan")
            case "more rows than values":
                message.rows = 17
            case "no such scenario":
                message.scenario = "scenario_999"
        content = message.SerializeToString()
        if name == "half a message":
            content = content[: len(content) // 2]
        made.append(loadgen.Stream(name, PREDICT, [loadgen.Payload(content, 16)]))
    return made
