"""Feature transformations: raw columns -> the template's inputs, from the FeatureSpec that a snapshot carries.

Training and serving run the same C++ code (transform.h); `reference.py` is its specification.

    transform = FeatureTransform(spec)
    batch = transform.apply(rows, columns_from_arrow(record_batch, [i.name for i in transform.inputs]))
    batch.dense, batch.ids, batch.offsets, batch.bag_index
"""

from smt.kernels.transform._transform import InputError, SpecError
from smt.kernels.transform.arrow import columns_from_arrow
from smt.kernels.transform.columns import RawColumn, StringValues
from smt.kernels.transform.feature_transform import FeatureTransform, InputInfo, TransformedBatch

__all__ = [
    "FeatureTransform",
    "InputError",
    "InputInfo",
    "RawColumn",
    "SpecError",
    "StringValues",
    "TransformedBatch",
    "columns_from_arrow",
]
