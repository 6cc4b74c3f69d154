"""What the registry's manifest.json files hold: one for each snapshot, one for each template binary."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from smt.serving.digests import Algorithm

NAME_PATTERN = r"[a-z0-9_-]{1,64}"
# YYYYMMDD-HHMMSS-mmm (UTC), which sorts by time of publication, and 8 hex digits that tell simultaneous ones apart.
VERSION_PATTERN = r"\d{8}-\d{6}-\d{3}-[0-9a-f]{8}"
_FILE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

WEIGHTS_FILE = "weights.safetensors"
DELTA_FILE = "delta.safetensors"
BINARY_FILE = "model.pt2"
ONNX_FILE = "model.onnx"


def _matches(pattern: str, what: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not {what}: expected {pattern}")
        return value

    return AfterValidator(check)


Name = Annotated[str, _matches(NAME_PATTERN, "a name")]
Version = Annotated[str, _matches(VERSION_PATTERN, "a version")]
Sha256 = Annotated[str, _matches(r"[0-9a-f]{64}", "a SHA-256")]
Xxh3 = Annotated[str, _matches(r"[0-9a-f]{32}", "an XXH3-128")]
FileName = Annotated[str, _matches(_FILE_PATTERN, "a file name")]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    # Unknown keys are kept out of the model but not refused: `format` says what a reader must understand.
    model_config = ConfigDict(frozen=True, extra="ignore")


class FileEntry(Part):
    """A file of the folder. `xxh3`: its XXH3-128, which is compared in place of the SHA-256 wherever a file is used;
    that took half of the time of a load. What an older publisher wrote has none."""

    bytes: Count
    sha256: Sha256
    xxh3: Xxh3 | None = None

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """Of its sums; the first is compared wherever the file is used."""
        return ("sha256",) if self.xxh3 is None else ("xxh3", "sha256")

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if value is not None}


class TemplateRef(Part):
    name: Name
    version: str


class TaskEntry(Part):
    """A task of the scenario and the template's head (column of the output) that computes it."""

    name: str
    head: Count


class SnapshotManifest(Part):
    """One immutable version of one scenario's weights.

    Format 1 holds all of them. Format 2 is a delta, what changed since the version `base`; `chain` counts the deltas
    from this one down to a full version, itself included. A reader that knows no deltas must refuse one: hence the
    format. `lineage`: where the weights come from; `parent` is the version that was current when this one came.
    """

    format: Literal[1, 2] = 1
    scenario: Name
    version: Version
    base: Version | None = None
    chain: Count = 0
    template: TemplateRef
    abi_hash: Sha256
    dim: Annotated[int, Field(ge=1)]
    tasks: Annotated[list[TaskEntry], Field(min_length=1)]
    features: dict[str, Any]
    files: dict[FileName, FileEntry]
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}

    @model_validator(mode="after")
    def _full_or_delta(self) -> Self:
        if (self.format == 2, self.chain > 0) != (self.base is not None,) * 2:
            raise ValueError(
                f"format {self.format}, base {self.base}, chain {self.chain}: expected format 1 alone, or format 2 "
                "with a base and a chain of at least 1"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_base(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A full version says nothing of deltas, as before there were any."""
        fields: dict[str, Any] = handler(self)
        return {key: value for key, value in fields.items() if self.base or key not in ("base", "chain")}

    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files.values())


class TensorEntry(Part):
    """An input or output of the binary; a string in `shape` names a dynamic dimension."""

    name: str
    dtype: str
    shape: list[int | str]


class LayoutEntry(Part):
    """Where one dense weight lies in the slab; `offset` in bytes."""

    name: str
    dtype: str
    shape: list[int]
    offset: Count


class BinaryManifest(Part):
    """One template compiled for one target.

    kind: "fused", one op on packed weights whose calls may carry rows of many scenarios, or "views", code made by
    Inductor on one scenario's slab. program: what the fused op computes (smt.kernels.cpu.program), whose format is
    `kernel_abi`; empty for views. packed_bytes: size of a slot of the server's arena; of views, the slab's.
    """

    format: Literal[2] = 2
    kind: Literal["fused", "views"] = "fused"
    template: TemplateRef
    abi_hash: Sha256
    target: Name
    isa: str
    inputs: list[TensorEntry]
    outputs: list[TensorEntry]
    layout: list[LayoutEntry]
    slab_elements: Count
    dim: Annotated[int, Field(ge=1)]
    tasks: Annotated[int, Field(ge=1)]
    dense_slots: Count
    categorical_slots: Count
    torch: str
    kernel_version: int
    kernel_abi: int
    precision: Literal["fp32", "bf16", "int8"]
    program: list[int]
    packed_bytes: Annotated[int, Field(ge=1)]
    files: dict[FileName, FileEntry]
    # Largest difference of the compiled forms from the reference, as measured before publication.
    parity: dict[str, float] = {}

    @property
    def sha256(self) -> str:
        """Of the compiled package."""
        return self.files[BINARY_FILE].sha256
