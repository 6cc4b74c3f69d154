"""The answers that a run got, each of them: to compare them with what they had to be.

run(Plan(..., answers=folder))
for answer in read_answers(folder):
    answer.stream, answer.payload, answer.message
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from smt.serving.loadgen.plan import LoadgenError

_HEAD = struct.Struct("<III")


class Answer(NamedTuple):
    """One answer OK. stream: number among the streams of all sources, in the plan's order. payload: number among the
    stream's. message: as the server sent it, to be parsed."""

    stream: int
    payload: int
    message: bytes


def read_answers(folder: Path) -> Iterator[Answer]:
    """Every answer of the run that wrote this folder, in no order. Raises LoadgenError for a file cut short."""
    for path in sorted(folder.glob("answers-*.bin")):
        with path.open("rb") as file:
            while head := file.read(_HEAD.size):
                stream, payload, size = _HEAD.unpack(head.ljust(_HEAD.size, b"\xff"))
                message = file.read(size)
                if len(head) < _HEAD.size or len(message) < size:
                    raise LoadgenError(f"{path}: ends within a record; the run that wrote it was cut short")
                yield Answer(stream, payload, message)
