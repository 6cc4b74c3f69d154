"""The `features:` entries of a scenario's YAML, and what each becomes: one definition per input."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from smt.training.config import StrictModel, did_you_mean, mistake, shown
from smt.training.features import Type

# Rows of one table stay within int32, so that transformed ids can be kept in four bytes.
MAX_TABLE_ROWS = 2**31 - 1
DEFAULT_MAX_LENGTH = 50

STEPS = "log, normalise, {normalise: {mean: 0.0, std: 1.0}}, {clip: [0, 100]}"
ENCODINGS = (
    "vocabulary, {vocabulary: {min_count: 2, max_size: 100000}}, {hash: 100000}, "
    "{bucketise: {quantiles: 20}}, {bucketise: [10, 20, 30]}"
)


class LogStep(StrictModel):
    op: Literal["log"] = "log"


class ClipStep(StrictModel):
    op: Literal["clip"] = "clip"
    low: float
    high: float


class NormaliseStep(StrictModel):
    """With `mean` and `std` given, or (None) fitted from the training data."""

    op: Literal["normalise"] = "normalise"
    mean: float | None = None
    std: float | None = None


Step = LogStep | ClipStep | NormaliseStep


class VocabularyEncoding(StrictModel):
    """The values of the training data that occur at least `min_count` times, the `max_size` most frequent of them."""

    op: Literal["vocabulary"] = "vocabulary"
    min_count: int = 1
    max_size: int = MAX_TABLE_ROWS - 2


class HashEncoding(StrictModel):
    op: Literal["hash"] = "hash"
    size: int
    seed: int = 0


class BucketiseEncoding(StrictModel):
    """Either `boundaries`, or the number of equally filled buckets to fit."""

    op: Literal["bucketise"] = "bucketise"
    boundaries: list[float] | None = None
    quantiles: int | None = None


Encoding = VocabularyEncoding | HashEncoding | BucketiseEncoding


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _one_key(value: Any, allowed: str) -> tuple[str, Any]:
    """`log` and `{log: null}` alike -> ("log", None)."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, dict) and len(value) == 1:
        return next(iter(value.items()))
    raise mistake(shown(value), f"one of {allowed}")


def _options(name: str, value: Any, keys: Sequence[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise mistake(f"{shown(value)} for {name}", f"a mapping with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise mistake(f"the unknown key {key!r} in {name}{did_you_mean(key, keys)}", ", ".join(keys))
    return value


def _step(value: Any) -> Step:
    name, options = _one_key(value, STEPS)
    if name == "log":
        if options is not None:
            raise mistake(f"{shown(options)} for log", "log without settings")
        return LogStep()
    if name == "clip":
        if not (isinstance(options, list) and len(options) == 2 and all(map(_is_number, options))):
            raise mistake(f"{shown(options)} for clip", "two numbers, as in {clip: [0, 100]}")
        if options[0] > options[1]:
            raise mistake(f"{shown(options)} for clip", "the lower number first")
        return ClipStep(low=float(options[0]), high=float(options[1]))
    if name == "normalise":
        given = _options(name, options, ["mean", "std"])
        if not given:
            return NormaliseStep()
        if set(given) != {"mean", "std"} or not all(map(_is_number, given.values())) or given["std"] <= 0:
            raise mistake(f"{shown(given)} for normalise", "numbers mean and std, std above 0; or neither, to fit both")
        return NormaliseStep(mean=float(given["mean"]), std=float(given["std"]))
    raise mistake(f"the unknown step {name!r}{did_you_mean(name, ['log', 'clip', 'normalise'])}", STEPS)


def _steps(value: Any) -> list[Step]:
    if not isinstance(value, list):
        raise mistake(shown(value), f"a list of {STEPS}")
    steps = [_step(item) for item in value]
    if sum(isinstance(step, NormaliseStep) for step in steps) > 1:
        raise mistake("normalise twice", "at most one normalise")
    return steps


def _encoding(value: Any) -> Encoding:
    name, options = _one_key(value, ENCODINGS)
    if name == "vocabulary":
        given = _options(name, options, ["min_count", "max_size"])
        for key, number in given.items():
            if not _is_count(number, 1, MAX_TABLE_ROWS - 2):
                raise mistake(f"{shown(number)} for {key}", f"an integer from 1 to {MAX_TABLE_ROWS - 2}")
        return VocabularyEncoding(**given)
    if name == "hash":
        given = {"size": options} if not isinstance(options, dict) else _options(name, options, ["size", "seed"])
        if not _is_count(given.get("size"), 1, MAX_TABLE_ROWS - 2):
            raise mistake(f"{shown(given.get('size'))} for hash", f"a size from 1 to {MAX_TABLE_ROWS - 2}")
        if not _is_count(given.get("seed", 0), 0, 2**63 - 1):
            raise mistake(f"{shown(given['seed'])} for seed", "an integer of at least 0")
        return HashEncoding(**given)
    if name == "bucketise":
        if isinstance(options, list):
            numbers = all(map(_is_number, options))
            if not options or not numbers or any(a >= b for a, b in pairwise(options)):
                raise mistake(f"{shown(options)} for bucketise", "numbers that strictly increase, as in [10, 20, 30]")
            return BucketiseEncoding(boundaries=[float(number) for number in options])
        given = _options(name, options, ["quantiles"])
        if not _is_count(given.get("quantiles"), 2, 10_000):
            raise mistake(f"{shown(given.get('quantiles'))} for quantiles", "an integer from 2 to 10000")
        return BucketiseEncoding(quantiles=given["quantiles"])
    near = did_you_mean(name, ["vocabulary", "hash", "bucketise"])
    raise mistake(f"the unknown encoding {name!r}{near}", f"one of {ENCODINGS}")


def _default(value: Any) -> Any:
    if value is not None and not isinstance(value, str) and not _is_number(value):
        raise mistake(shown(value), "a value of the feature's type: the raw value that stands for a missing one")
    return value


Words = Annotated[str, Field(min_length=1, max_length=256)]


class SequenceEntry(StrictModel):
    """A list-valued input whose values are of the feature's kind: the movies seen before, beside the movie."""

    input: Words
    length: Annotated[int, Field(ge=1, le=4096)]
    slot: Annotated[int, Field(ge=0)]
    required: bool = True


class FeatureEntry(StrictModel):
    """One entry: how each of `inputs` becomes a feature. Exactly one of `dense` and `encode` is given."""

    inputs: Annotated[list[Words], Field(min_length=1)]
    name: Words = "{input}"
    type: Type
    dense: Annotated[
        list[Any] | None, BeforeValidator(_steps), Field(description=f"a list of {STEPS}; [] for the raw number")
    ] = None
    encode: Annotated[Any, BeforeValidator(_encoding), Field(description=f"one of {ENCODINGS}")] = None
    required: bool = True
    default: Annotated[Any, AfterValidator(_default)] = None
    slot: Annotated[int, Field(ge=0)] | None = None
    multi_valued: bool = False
    max_length: Annotated[int, Field(ge=1, le=65536)] | None = None
    sequence: SequenceEntry | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "FeatureEntry":
        if len(set(self.inputs)) < len(self.inputs):
            raise mistake(f"an input twice in {shown(self.inputs)}", "each input once")
        if len(self.inputs) > 1 and self.slot is not None:
            raise mistake(f"slot {self.slot} for {len(self.inputs)} inputs", "a slot for a single input")
        if len(self.inputs) > 1 and "{input}" not in self.name:
            raise mistake(f"the name {self.name!r} for {len(self.inputs)} inputs", "a name with {input} in it")
        if (self.dense is None) == (self.encode is None):
            found = "neither dense nor encode" if self.dense is None else "both dense and encode"
            raise mistake(found, "either `dense: [...]` for a number, or `encode: ...` for a category")
        if self.dense is not None and self.type == "string":
            raise mistake("a dense feature of type string", "type number or int, or `encode` instead of `dense`")
        if isinstance(self.encode, BucketiseEncoding) and self.type == "string":
            raise mistake("bucketise of type string", "type number or int; vocabulary or hash for strings")
        if isinstance(self.encode, VocabularyEncoding | HashEncoding) and self.type == "number":
            raise mistake(f"{self.encode.op} of type number", "type int or string; bucketise for numbers")
        self._check_lists()
        self._check_default()
        return self

    def _check_lists(self) -> None:
        if self.multi_valued and self.dense is not None:
            raise mistake("multi_valued of a dense feature", "multi_valued with `encode`")
        if self.multi_valued and self.default is not None:
            raise mistake("a default of a multi_valued feature", "no default: a missing list is an empty one")
        if self.max_length is not None and not self.multi_valued:
            raise mistake("max_length without multi_valued", "max_length with `multi_valued: true`")
        if self.sequence is not None and (self.encode is None or len(self.inputs) > 1):
            found = f"a sequence of {'a dense feature' if self.encode is None else 'several inputs'}"
            raise mistake(found, "a sequence of one input with `encode`")

    def _check_default(self) -> None:
        kind = {"number": (int, float), "int": (int,), "string": (str,)}[self.type]
        if self.default is not None and not isinstance(self.default, kind):
            raise mistake(f"the default {shown(self.default)} of type {self.type}", f"a default of type {self.type}")
        if isinstance(self.default, int) and abs(self.default) >= 1 << 63:
            raise mistake(f"the default {self.default}", "integers of 64 bits")


@dataclass(frozen=True)
class FeatureDefinition:
    """One feature of a scenario, not yet fitted. `entry` is its position under `features:` in the YAML."""

    name: str
    input: str
    type: Type
    slot: int
    required: bool
    default: int | float | str | None
    steps: tuple[Step, ...] | None
    encode: Encoding | None
    multi_valued: bool
    max_length: int
    entry: int
    sequence: SequenceEntry | None = None

    @property
    def kind(self) -> Literal["dense", "categorical"]:
        return "categorical" if self.encode is not None else "dense"

    @property
    def readers(self) -> list["FeatureDefinition"]:
        """The feature; with a sequence also what that is alone: a multi-valued feature of the other input."""
        if self.sequence is None:
            return [self]
        itself = replace(self, sequence=None)
        sequence = replace(
            itself,
            input=self.sequence.input,
            slot=self.sequence.slot,
            required=self.sequence.required,
            default=None,
            multi_valued=True,
            max_length=self.sequence.length,
        )
        return [itself, sequence]
