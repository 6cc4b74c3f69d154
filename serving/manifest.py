"""What the registry's manifest.json files hold: one for each snapshot, one for each template binary."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

NAME_PATTERN = r"[a-z0-9_-]{1,64}"
# YYYYMMDD-HHMMSS-mmm (UTC) and the first 8 hex digits of the content's SHA-256; sorts by time of publication.
VERSION_PATTERN = r"\d{8}-\d{6}-\d{3}-[0-9a-f]{8}"
_FILE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"

WEIGHTS_FILE = "weights.safetensors"
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
FileName = Annotated[str, _matches(_FILE_PATTERN, "a file name")]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    # Unknown keys are kept out of the model but not refused: `format` says what a reader must understand.
    model_config = ConfigDict(frozen=True, extra="ignore")


class FileEntry(_Part):
    bytes: Count
    sha256: Sha256


class TemplateRef(_Part):
    name: Name
    version: str


class TaskEntry(_Part):
    """A task of the scenario and the template's head (column of the output) that computes it."""

    name: str
    head: Count


class SnapshotManifest(_Part):
    """One immutable version of one scenario's weights."""

    format: Literal[1] = 1
    scenario: Name
    version: Version
    template: TemplateRef
    abi_hash: Sha256
    dim: Annotated[int, Field(ge=1)]
    tasks: Annotated[list[TaskEntry], Field(min_length=1)]
    features: dict[str, Any]
    files: dict[FileName, FileEntry]
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}

    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]


class TensorEntry(_Part):
    """An input or output of the binary; a string in `shape` names a dynamic dimension."""

    name: str
    dtype: str
    shape: list[int | str]


class LayoutEntry(_Part):
    """Where one dense weight lies in the slab; `offset` in bytes."""

    name: str
    dtype: str
    shape: list[int]
    offset: Count


class BinaryManifest(_Part):
    """One template compiled for one target.

    program: what the fused op computes (smt.kernels.cpu.program), whose format is `kernel_abi`; packed_bytes: size of
    a slot of its arena.
    """

    format: Literal[2] = 2
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
