"""FeatureSpec: the fitted feature transformations of one scenario, as the snapshot carries them.

`smt.training.fit` makes one from the training data; `smt.kernels.transform` executes its JSON, in training and
in the server. Row 0 of every categorical feature's table stands for a missing value, row 1 for an unknown one.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT: Literal[1] = 1
MISSING_ROW = 0
UNKNOWN_ROW = 1
FIRST_VALUE_ROW = 2

Type = Literal["number", "int", "string"]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Log(_Part):
    """sign(x) * log1p(|x|)."""

    op: Literal["log"] = "log"


class Clip(_Part):
    """min(max(x, low), high)."""

    op: Literal["clip"] = "clip"
    low: float
    high: float


class Normalise(_Part):
    """(x - mean) / std."""

    op: Literal["normalise"] = "normalise"
    mean: float
    std: Annotated[float, Field(gt=0)]


class Vocabulary(_Part):
    """Value k has local row 2 + k."""

    op: Literal["vocabulary"] = "vocabulary"
    values: list[int] | list[str]

    @property
    def count(self) -> int:
        return len(self.values)


class Hash(_Part):
    """XXH3_64bits_withSeed(bytes, seed) % size."""

    op: Literal["hash"] = "hash"
    size: Annotated[int, Field(ge=1)]
    seed: Count = 0

    @property
    def count(self) -> int:
        return self.size


class Bucketise(_Part):
    """Number of boundaries <= x; boundaries strictly increase."""

    op: Literal["bucketise"] = "bucketise"
    boundaries: list[float]

    @property
    def count(self) -> int:
        return len(self.boundaries) + 1


class DenseFeature(_Part):
    """A number that goes through `steps` into one column of the dense input."""

    name: str
    input: str
    type: Literal["number", "int"]
    required: bool
    kind: Literal["dense"] = "dense"
    slot: Count
    default: int | float | None
    steps: list[Annotated[Log | Clip | Normalise, Field(discriminator="op")]]


class Sequence(_Part):
    """The values of another input, in their order, each in a slot of its own from `slot` on; `length` slots.

    They are looked up as the feature's own values are: with its encoding, in its table. A slot behind the last value
    is empty, and so a vector of zeros.
    """

    input: str
    required: bool
    slot: Count
    length: Annotated[int, Field(ge=1)]


class CategoricalFeature(_Part):
    """Values that become rows of the feature's own range [first_row, first_row + rows) of the table."""

    name: str
    input: str
    type: Type
    required: bool
    kind: Literal["categorical"] = "categorical"
    slot: Count
    multi_valued: bool
    max_length: Annotated[int, Field(ge=1)]
    first_row: Count
    rows: Annotated[int, Field(ge=FIRST_VALUE_ROW)]
    default: int | float | str | None
    encode: Annotated[Vocabulary | Hash | Bucketise, Field(discriminator="op")]
    # Left out where there is none: such specs are what they were before sequences existed.
    sequence: Annotated[Sequence | None, Field(exclude_if=lambda value: value is None)] = None


class FeatureSpec(_Part):
    """All features of a scenario, in the order of its YAML; their table ranges follow one another in this order."""

    format: Literal[1] = FORMAT
    dense_slots: Count
    categorical_slots: Count
    table_rows: Count
    features: list[Annotated[DenseFeature | CategoricalFeature, Field(discriminator="kind")]]

    @model_validator(mode="after")
    def _ranges_follow(self) -> "FeatureSpec":
        row = 0
        for feature in self.categorical:
            if feature.first_row != row or feature.rows != FIRST_VALUE_ROW + feature.encode.count:
                raise ValueError(f"feature {feature.name!r}: table range does not follow from the features before it")
            row += feature.rows
        if row != self.table_rows:
            raise ValueError(f"table_rows is {self.table_rows}, but the features' ranges end at {row}")
        return self

    @property
    def dense(self) -> list[DenseFeature]:
        return [feature for feature in self.features if isinstance(feature, DenseFeature)]

    @property
    def categorical(self) -> list[CategoricalFeature]:
        return [feature for feature in self.features if isinstance(feature, CategoricalFeature)]

    @cached_property
    def lookups(self) -> list[tuple[str, CategoricalFeature, int]]:
        """What is looked up in the tables, as (key, whose table, slot): features, then their sequences' positions."""
        features = [(feature.name, feature, feature.slot) for feature in self.categorical]
        return features + [
            (f"{feature.name}[{i}]", feature, feature.sequence.slot + i)
            for feature in self.categorical
            if feature.sequence is not None
            for i in range(feature.sequence.length)
        ]

    @property
    def inputs(self) -> list[str]:
        """Distinct raw columns, in order of first use."""
        names = []
        for feature in self.features:
            names.append(feature.input)
            if isinstance(feature, CategoricalFeature) and feature.sequence is not None:
                names.append(feature.sequence.input)
        return list(dict.fromkeys(names))

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data; what `smt.kernels.transform.FeatureTransform` takes."""
        return self.model_dump(mode="json")

    @staticmethod
    def load(path: Path) -> "FeatureSpec":
        """Reads the features.json of a run directory.

        Raises:
            OSError: unreadable. pydantic.ValidationError: not a FeatureSpec.
        """
        return FeatureSpec.model_validate_json(path.read_bytes())
