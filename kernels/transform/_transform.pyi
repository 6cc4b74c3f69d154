from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class SpecError(ValueError): ...
class InputError(ValueError): ...

# name (UTF-8), values or string offsets, string bytes, lengths
_Column = tuple[bytes, NDArray[Any], NDArray[np.uint8] | None, NDArray[np.int32] | None]

class FeatureSpec:
    def __init__(self, json: bytes) -> None: ...
    @property
    def dense_slots(self) -> int: ...
    @property
    def categorical_slots(self) -> int: ...
    @property
    def table_rows(self) -> int: ...
    def inputs(self) -> list[tuple[str, str, bool, bool]]: ...
    def apply(
        self,
        rows: int,
        context: Sequence[_Column],
        candidates: Sequence[_Column],
        max_rows: int,
        max_list: int,
        local_ids: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]: ...
