"""Fits a scenario's feature transformations to its training split: one pass, giving a FeatureSpec.

fitted = fit(scenario)
fitted.spec.to_json(), fitted.rows, fitted.warnings
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smt.kernels.transform import InputInfo as TransformInput
from smt.kernels.transform import RawColumn, StringValues, columns_from_arrow
from smt.training.entries import (
    BucketiseEncoding,
    ClipStep,
    FeatureDefinition,
    HashEncoding,
    LogStep,
    NormaliseStep,
    VocabularyEncoding,
)
from smt.training.features import (
    FIRST_VALUE_ROW,
    Bucketise,
    CategoricalFeature,
    Clip,
    DenseFeature,
    FeatureSpec,
    Hash,
    Log,
    Normalise,
    Sequence,
    Vocabulary,
)
from smt.training.reading import DataError, RawBatch, iter_batches
from smt.training.scenario import Scenario
from smt.training.statistics import Counts, Moments, Numbers, Quantiles, apply_log, arrow_values, first_of_each


@dataclass(frozen=True)
class Fitted:
    """A FeatureSpec, the number of training rows it was fitted to, and what is odd about them.

    positives: of each task, the sum of its labels, rounded: of probabilities, how many positives they expect.
    """

    spec: FeatureSpec
    rows: int
    labelled: list[int]
    positives: list[int]
    warnings: list[str]


def fit(scenario: Scenario, on_batch: Callable[[int], None] | None = None) -> Fitted:
    """Reads the training split once.

    Args:
        on_batch: called with the number of rows read, for a progress bar.

    Raises:
        ConfigError, DataError: the data does not fit the scenario, or the filter keeps no row.
    """
    fitters = [_Fitter(feature, scenario.template.recipe.seed) for feature in scenario.features]
    rows = 0
    labelled = np.zeros(len(scenario.tasks), dtype=np.int64)
    positives = np.zeros(len(scenario.tasks), dtype=np.float64)
    for batch in iter_batches(scenario, "train"):
        columns = raw_columns(scenario, batch)
        for fitter in fitters:
            for reader in fitter.feature.readers:
                fitter.update(reader, columns[reader.input], batch.rows)
        rows += batch.rows
        labelled += (~np.isnan(batch.labels)).sum(axis=0)
        positives += np.nansum(batch.labels, axis=0, dtype=np.float64)
        if on_batch:
            on_batch(batch.rows)
    if not rows:
        source = scenario.filter.source if scenario.filter else ""
        raise scenario.document.fail(("data", "filter"), f"no training row where {source}", "a filter that keeps rows")
    warnings: list[str] = []
    features: list[DenseFeature | CategoricalFeature] = []
    first_row = 0
    for fitter in fitters:
        feature = fitter.finish(first_row, warnings)
        features.append(feature)
        first_row += feature.rows if isinstance(feature, CategoricalFeature) else 0
    spec = FeatureSpec(
        dense_slots=scenario.template.slots.dense,
        categorical_slots=scenario.template.slots.categorical,
        table_rows=first_row,
        features=features,
    )
    return Fitted(spec, rows, labelled.tolist(), np.rint(positives).astype(np.int64).tolist(), warnings)


def input_infos(scenario: Scenario) -> list[TransformInput]:
    """What the scenario's features want of each raw input; known before anything is fitted."""
    infos = []
    for name in scenario.inputs:
        readers = [reader for reader in scenario.readers if reader.input == name]
        kind = "int" if any(feature.type == "int" for feature in readers) else readers[0].type
        required = any(feature.required for feature in readers)
        infos.append(TransformInput(name, kind, required, all(feature.multi_valued for feature in readers)))
    return infos


def raw_columns(scenario: Scenario, batch: RawBatch) -> dict[str, RawColumn]:
    """The batch's inputs as the transformation takes them: missing values left out."""
    columns = columns_from_arrow(batch.columns, scenario.inputs, input_infos(scenario))
    return {column.name: column for column in columns}


class _Fitter:
    """Collects what one feature needs to know of its column, and of that of its sequence."""

    def __init__(self, feature: FeatureDefinition, seed: int) -> None:
        self.feature = feature
        self.seen = 0
        self.moments = Moments()
        self.counts = Counts()
        # A seed of the feature's own name: adding a feature does not change the sample of another.
        self.quantiles = Quantiles(zlib.crc32(feature.name.encode()) ^ seed)

    def update(self, feature: FeatureDefinition, column: RawColumn, rows: int) -> None:
        """feature: itself or its sequence, which reads the column."""
        encode = feature.encode
        values = _used(feature, column, rows)
        self.seen += len(values)
        if isinstance(encode, VocabularyEncoding):
            self.counts.update(values)
        elif isinstance(encode, BucketiseEncoding) and encode.quantiles is not None:
            self.quantiles.update(self._finite(values))
        elif any(isinstance(step, NormaliseStep) and step.mean is None for step in feature.steps or ()):
            self.moments.update(self._before_normalise(self._finite(values)))

    def _finite(self, values: npt.NDArray[Any]) -> Numbers:
        numbers = np.asarray(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise DataError(
                f"feature {self.feature.name!r}: found {numbers[~np.isfinite(numbers)][0]} in the column "
                f"{self.feature.input!r}; expected finite numbers, or a filter that leaves such rows out"
            )
        return numbers

    def _before_normalise(self, numbers: Numbers) -> Numbers:
        # In double precision: the transformation's own output is saturated and rounded to float32.
        for step in self.feature.steps or ():
            if isinstance(step, LogStep):
                numbers = apply_log(numbers)
            elif isinstance(step, ClipStep):
                numbers = np.clip(numbers, step.low, step.high)
            else:
                break
        return numbers

    def finish(self, first_row: int, warnings: list[str]) -> DenseFeature | CategoricalFeature:
        feature = self.feature
        if not self.seen:
            warnings.append(f"feature {feature.name!r}: every value of {feature.input!r} is missing")
        common: dict[str, Any] = {
            "name": feature.name,
            "input": feature.input,
            "type": feature.type,
            "required": feature.required,
            "slot": feature.slot,
            "default": feature.default,
        }
        if feature.steps is not None:
            return DenseFeature(**common, steps=self._steps(warnings))
        encode = self._encode(warnings)
        return CategoricalFeature(
            **common,
            multi_valued=feature.multi_valued,
            max_length=feature.max_length,
            first_row=first_row,
            rows=FIRST_VALUE_ROW + encode.count,
            encode=encode,
            sequence=None if feature.sequence is None else Sequence(**feature.sequence.model_dump()),
        )

    def _steps(self, warnings: list[str]) -> list[Log | Clip | Normalise]:
        steps: list[Log | Clip | Normalise] = []
        for step in self.feature.steps or ():
            if isinstance(step, LogStep):
                steps.append(Log())
            elif isinstance(step, ClipStep):
                steps.append(Clip(low=step.low, high=step.high))
            elif step.mean is not None and step.std is not None:
                steps.append(Normalise(mean=step.mean, std=step.std))
            elif self.moments.count:
                # Clipped to what training saw, so that an unseen extreme cannot throw the model.
                steps.append(Clip(low=self.moments.low, high=self.moments.high))
                steps.append(Normalise(mean=self.moments.mean, std=self._std(warnings)))
            else:
                steps.append(Normalise(mean=0.0, std=1.0))
        return steps

    def _std(self, warnings: list[str]) -> float:
        # Rounding leaves a constant column a standard deviation that is not quite 0.
        if self.moments.low == self.moments.high:
            warnings.append(f"feature {self.feature.name!r}: every value of {self.feature.input!r} is the same")
            return 1.0
        return self.moments.std

    def _encode(self, warnings: list[str]) -> Vocabulary | Hash | Bucketise:
        encode = self.feature.encode
        if isinstance(encode, HashEncoding):
            return Hash(size=encode.size, seed=encode.seed)
        if isinstance(encode, VocabularyEncoding):
            values = self.counts.most_frequent(encode.min_count, encode.max_size)
            if not values and self.seen:
                warnings.append(f"feature {self.feature.name!r}: no value occurs {encode.min_count} times")
            return Vocabulary(values=values)
        assert isinstance(encode, BucketiseEncoding)
        if encode.boundaries is not None:
            return Bucketise(boundaries=encode.boundaries)
        boundaries = self.quantiles.boundaries(encode.quantiles or 1)
        if not boundaries and self.seen:
            warnings.append(f"feature {self.feature.name!r}: every value of {self.feature.input!r} is the same")
        if self.quantiles.sampled:
            sample = f"a sample of {self.quantiles.limit} of {self.quantiles.count} values"
            warnings.append(f"feature {self.feature.name!r}: quantiles are those of {sample}")
        return Bucketise(boundaries=boundaries)


def _used(feature: FeatureDefinition, column: RawColumn, rows: int) -> Any:
    """The values that will be encoded: the used ones of a list, and the default in place of missing ones."""
    values: Any = column.values
    lengths = column.lengths
    if feature.type == "int" and values.dtype != np.int64:
        found = f"{values[np.trunc(values) != values][0]} in the column {feature.input!r}"
        raise DataError(f"feature {feature.name!r}: found {found}; expected integers, or type number")
    if feature.type == "number":
        values = values.astype(np.float64)
    if lengths is None:
        return values
    if feature.multi_valued:
        kept = first_of_each(lengths, feature.max_length)
        return values if kept is None else _select(values, kept)
    if int(lengths.max(initial=0)) > 1:
        found = f"a list of {int(lengths.max())} values in {feature.input!r}"
        raise DataError(f"feature {feature.name!r}: found {found}; expected one value, or `multi_valued: true`")
    missing = rows - len(values)
    if feature.default is None or not missing:
        return values
    if isinstance(values, StringValues):
        return StringValues.from_strings([*arrow_values(values).to_pylist(), *[str(feature.default)] * missing])
    return np.concatenate([values, np.full(missing, feature.default, dtype=values.dtype)])


def _select(values: Any, kept: npt.NDArray[np.bool_]) -> Any:
    if not isinstance(values, StringValues):
        return values[kept]
    return StringValues.from_strings(arrow_values(values).filter(kept).to_pylist())
