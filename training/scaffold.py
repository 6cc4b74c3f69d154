"""Writes a commented scenario YAML by looking at the data: `smt new-scenario`."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from smt.training.config import ConfigError, Problem
from smt.training.leaks import LEAK_AUC, single_input_aucs
from smt.training.profile import RARE, ColumnProfile, hash_size, labels_of, profile
from smt.training.reading import DataError, pieces
from smt.training.scenario import load_scenario
from smt.training.template import NAME_PATTERN, Template, load_template

QUANTILES = 32


def new_scenario(name: str, template_path: Path | str, data_path: Path | str, out: Path | str) -> Path:
    """Writes `out`: data, features by column type and cardinality, guessed labels, and what is left unused and why.

    Columns that alone predict a guessed label are left out as leaks.

    Args:
        data_path: a parquet file of training rows, or a folder with train*.parquet and valid*.parquet.

    Raises:
        ConfigError: the name or the template is wrong. DataError: no parquet data. FileExistsError: `out` exists.
    """
    out = Path(out)
    if not re.fullmatch(NAME_PATTERN, name):
        allowed = "1 to 64 lower-case letters, digits, - and _"
        raise ConfigError([Problem(str(out), 0, "scenario", repr(name), allowed)])
    if out.exists():
        raise FileExistsError(f"{out}: exists already; remove it or choose another name")
    template = load_template(template_path)
    train, valid = _splits(Path(data_path))
    try:
        columns, rows = profile(train[0])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{train[0]}: found {str(error).splitlines()[0]}; expected a parquet file") from error
    labels = labels_of(columns)
    taken = {label.name for label in labels}
    columns = _within_slots([column for column in columns if column.name not in taken], template)
    draft = _Draft(name, Path(template_path), template, train, valid, out, rows, labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = draft.text(columns)
    if labels and any(column.kind != "unused" for column in columns):
        text = draft.text(_without_leaks(columns, text, out))
    out.write_text(text)
    return out


def _splits(path: Path) -> tuple[list[Path], list[Path]]:
    """Files of the training and the validation split; the second is empty if none is found."""
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        train = [file for file in files if "train" in file.name] or [
            file for file in files if not re.search(r"val|test", file.name)
        ]
        valid = [file for file in files if re.search(r"val", file.name)]
        if not train:
            raise DataError(f"{path}: found no train*.parquet; expected the folder or the file of the training rows")
        return train, valid
    if not path.is_file():
        raise DataError(f"{path}: found no such file; expected a parquet file, or a folder with train*.parquet")
    if "train" in path.name:
        for word in ("valid", "validation", "val"):
            sibling = path.with_name(path.name.replace("train", word))
            if sibling.is_file():
                return [path], [sibling]
    return [path], []


def _within_slots(columns: Sequence[ColumnProfile], template: Template) -> list[ColumnProfile]:
    """Marks as unused what exceeds the template's slots."""
    free = {"dense": template.slots.dense, "categorical": template.slots.categorical}
    result = []
    for column in columns:
        slot = "dense" if column.kind == "dense" else "categorical"
        if column.kind != "unused" and not free[slot]:
            column = replace(column, kind="unused", reason=f"the template has no {slot} slot left")
        elif column.kind != "unused":
            free[slot] -= 1
        result.append(column)
    return result


def _without_leaks(columns: Sequence[ColumnProfile], text: str, out: Path) -> list[ColumnProfile]:
    # The draft is checked as a scenario of its own: its paths are relative to the folder of `out`.
    draft = out.with_name(f".{out.name}.draft")
    draft.write_text(text)
    try:
        scenario = load_scenario(draft)
        aucs, _ = single_input_aucs(scenario, sum(piece.rows for piece in pieces(scenario, "train")))
    finally:
        draft.unlink()
    leaks = {found.input: found for found in aucs if found.auc > LEAK_AUC}
    return [
        replace(
            column,
            kind="unused",
            reason=f"alone it predicts {leaks[column.name].task!r} with AUC {leaks[column.name].auc:.5f}: a label leak",
        )
        if column.name in leaks
        else column
        for column in columns
    ]


class _Draft:
    """The YAML as text."""

    def __init__(
        self,
        name: str,
        template_path: Path,
        template: Template,
        train: list[Path],
        valid: list[Path],
        out: Path,
        rows: int,
        labels: Sequence[ColumnProfile],
    ) -> None:
        self.name = name
        self.template_path = template_path
        self.template = template
        self.train = train
        self.valid = valid
        self.folder = out.parent
        self.rows = rows
        self.labels = labels

    def text(self, columns: Sequence[ColumnProfile]) -> str:
        return "\n".join([*self._head(), *self._features(columns), *self._tasks(), *self._unused(columns)]) + "\n"

    def _relative(self, path: Path) -> str:
        return _quoted(Path(os.path.relpath(path.resolve(), self.folder.resolve())).as_posix())

    def _paths(self, files: Sequence[Path]) -> str:
        texts = [self._relative(file) for file in files]
        return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"

    def _head(self) -> list[str]:
        valid = self._paths(self.valid or self.train)
        if not self.valid:
            valid += "   # CHANGE: no rows for validation were found"
        return [
            f"# Written by `smt new-scenario` from {self.rows} rows of {self.train[0].name}; yours to change.",
            "# `smt validate` checks it against the data. Paths are relative to this file; ${NAME} is an environment",
            "# variable, and a pattern such as part-*.parquet stands for all files it matches.",
            f"scenario: {self.name}",
            f"template: {self._relative(self.template_path)}",
            "description: ''",
            "data:",
            f"  train: {self._paths(self.train)}",
            f"  valid: {valid}",
            "  # filter: country == 'NL' and age >= 18    # train and validate on these rows only",
        ]

    def _features(self, columns: Sequence[ColumnProfile]) -> list[str]:
        slots = self.template.slots
        dense = [column for column in columns if column.kind == "dense"]
        tables = [column for column in columns if column.kind in ("vocabulary", "hash")]
        buckets = dense[: slots.categorical - len(tables)]
        used = len(tables) + len(buckets)
        lines = [
            f"# Uses {len(dense)} of {slots.dense} dense slots and {used} of {slots.categorical} categorical slots.",
            "# Numbers: dense: [log, normalise, {clip: [0, 100]}]. Categories: encode: vocabulary | {hash: 100000} |",
            "# {bucketise: {quantiles: 20}}. A column that requests may leave out: required: false. What a missing",
            "# value stands for: default: 0 (else it is 0 after the steps, or a table row of its own).",
            "features:",
        ]
        empty = len(lines)
        for log in (False, True):
            group = [column for column in dense if column.log is log]
            steps = "[log, normalise]" if log else "[normalise]"
            if group:
                lines += self._entry(group, f"dense: {steps}", "number")
        if buckets:
            lines.append("  # The same numbers in buckets of about equally many rows.")
            encode = f"encode: {{bucketise: {{quantiles: {QUANTILES}}}}}"
            lines += self._entry(buckets, encode, "number", "{input}_bucket")
        for setting, members in groupby(sorted(tables, key=_encoding), key=_encoding):
            kind, encode, extra = setting
            lines += self._entry(list(members), f"encode: {encode}{extra}", kind)
        if len(lines) == empty:
            lines.append("  []   # FILL IN: no column of the data has a usable type")
        return lines

    def _entry(self, columns: Sequence[ColumnProfile], setting: str, kind: str, name: str = "") -> list[str]:
        notes = [f"{column.name} {column.distinct}" for column in columns]
        lines = _wrapped(f"distinct values: {', '.join(notes)}", "  # ")
        inputs = f"  - inputs: [{', '.join(_quoted(column.name) for column in columns)}]"
        lines += _wrapped(inputs.strip(), "  ", "      ")
        if name:
            lines.append(f'    name: "{name}"')
        return [*lines, f"    type: {kind}", *(f"    {part}" for part in setting.split("; "))]

    def _tasks(self) -> list[str]:
        lines = [
            f"# One head of the template per task, in order; it has {self.template.tasks}. A row without a label",
            "# does not train that task. label: an expression over columns, as in `rating > 3`; weight: in the loss.",
            "tasks:",
        ]
        if not self.labels:
            lines.append("  # No column holds only 0 and 1: FILL IN the label.")
            lines.append("  - {name: task, label: FILL_IN == 1, weight: 1.0}")
        for index, label in enumerate(self.labels):
            task = (
                re.sub(r"[^a-z0-9_-]", "_", re.sub(r"^label_|_label$", "", label.name.lower()))[:64] or f"task_{index}"
            )
            column = label.name if label.name.isidentifier() else f"col({json.dumps(label.name)})"
            condition = column if label.arrow_type == "bool" else f"{column} == 1"  # a truth value is a label as it is
            text = f"- {{name: {task}, label: {_quoted(condition)}, weight: 1.0}}"
            lines.append(
                f"  {text}" if index < self.template.tasks else f"  # {text}   # the template has no head left"
            )
        return lines

    def _unused(self, columns: Sequence[ColumnProfile]) -> list[str]:
        unused = [column for column in columns if column.kind == "unused"]
        if not unused:
            return ["# Every column is used."]
        return ["# Not used:", *(f"#   {column.name} ({column.arrow_type}): {column.reason}" for column in unused)]


def _encoding(column: ColumnProfile) -> tuple[str, str, str]:
    if column.kind == "hash":
        encode = f"{{hash: {hash_size(column.distinct)}}}"
    else:
        encode = "{vocabulary: {min_count: 5}}" if column.distinct > RARE else "vocabulary"
    extra = f"; multi_valued: true; max_length: {column.max_length}" if column.multi_valued else ""
    return column.type, encode, extra


_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./=<> -]*")
_WORDS = {"null", "true", "false", "~"}


def _quoted(text: str) -> str:
    """As a YAML scalar: bare if that is safe, else in double quotes, whose escapes are JSON's."""
    bare = _PLAIN.fullmatch(text) and text.strip() == text and text.lower() not in _WORDS and " #" not in text
    return text if bare else json.dumps(text, ensure_ascii=False)


def _wrapped(text: str, first: str, rest: str = "", width: int = 118) -> list[str]:
    """Breaks after commas."""
    lines: list[str] = []
    line = first
    for part in re.split(r"(?<=, )", text):
        if len(line) + len(part) > width and line.strip():
            lines.append(line.rstrip())
            line = rest or first
        line += part
    return [*lines, line.rstrip()]
