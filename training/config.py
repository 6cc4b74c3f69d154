"""YAML with line numbers, and pydantic errors turned into `file:line: field: found X; allowed: Y`.

Every mistake of a file is reported at once. The syntax is that of YAML 1.2's core schema: `no` and `off` are
text (YAML 1.1 reads them as false, which breaks country codes), and `1e-3` is a number.
"""

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from smt.training.schema import allowed_at, keys_at

Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)

# A file with more values than this is one that expands aliases of aliases, not a configuration.
MAX_NODES = 100_000


class StrictModel(BaseModel):
    """Base of our configuration models: unknown keys are errors, values keep their YAML type and cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration file. `line` counts from 1; 0 when the file could not be read.

    `data` is the data file that shows it, if one does: the same mistake shown by several is one mistake.
    """

    file: str
    line: int
    field: str
    found: str
    allowed: str
    data: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        found = f"{self.found} (data: {self.data})" if self.data else self.found
        return f"{where}{self.field + ': ' if self.field else ''}found {found}; allowed: {self.allowed}"


class ConfigError(ValueError):
    """A configuration file has mistakes; the message has one line for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def mistake(found: str, allowed: str) -> PydanticCustomError:
    """The error that a pydantic validator raises: both halves of the message, in our words."""
    return PydanticCustomError("mistake", "{found}; {allowed}", {"found": found, "allowed": allowed})


def shown(value: object, limit: int = 60) -> str:
    """A value as it is quoted in an error: short, and in YAML's words rather than Python's."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        keys = ", ".join(str(key) for key in list(value)[:6])
        return f"a mapping with {keys}" + (", ..." if len(value) > 6 else "") if value else "an empty mapping"
    if isinstance(value, list):
        text = "[" + ", ".join(shown(item, 20) for item in value[:4]) + (", ...]" if len(value) > 4 else "]")
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(word: object, choices: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing when no choice is near."""
    near = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def dotted(location: Location) -> str:
    """('features', 2, 'inputs') -> 'features[2].inputs'."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass
class YamlDocument:
    """A parsed YAML file: its data as dicts, lists and scalars, and where each value stands."""

    path: Path
    data: Any
    sha256: str
    lines: dict[Location, int]
    problems: list[Problem] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """Line of the value, or of the nearest enclosing one that is there."""
        while location not in self.lines and location:
            location = location[:-1]
        return self.lines.get(location, 1)

    def problem(self, location: Location, found: str, allowed: str, data: Path | None = None) -> Problem:
        return Problem(str(self.path), self.line(location), dotted(location), found, allowed, str(data or ""))

    def fail(self, location: Location, found: str, allowed: str) -> ConfigError:
        """A `ConfigError` about one value."""
        return ConfigError([self.problem(location, found, allowed)])


class _Loader(yaml.SafeLoader):
    """Composes nodes; scalars are resolved as YAML 1.2's core schema says."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


_TAGS: dict[type[yaml.Node], set[str]] = {
    yaml.ScalarNode: {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str")},
    yaml.SequenceNode: {"tag:yaml.org,2002:seq"},
    yaml.MappingNode: {"tag:yaml.org,2002:map"},
}


def _scalar(tag: str, text: str) -> Any:
    match tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


class _Builder:
    """Turns nodes into data, collecting lines, duplicate keys and what else is not allowed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Location, int] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()

    def _complain(self, node: yaml.Node, at: Location, found: str, allowed: str) -> None:
        self.problems.append(Problem(str(self.path), node.start_mark.line + 1, dotted(at), found, allowed))

    def build(self, node: yaml.Node, at: Location) -> Any:
        self.lines.setdefault(at, node.start_mark.line + 1)
        if len(self.lines) > MAX_NODES:
            raise ConfigError([Problem(str(self.path), 1, "", f"more than {MAX_NODES} values", "a smaller file")])
        if node.tag not in _TAGS[type(node)]:
            self._complain(node, at, f"the tag {node.tag}", "plain values without tags")
            return None
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(node.tag, node.value)
            except ValueError:
                self._complain(node, at, f"{node.value!r} tagged {node.tag}", "plain values without tags")
                return None
        if id(node) in self._open:
            self._complain(node, at, "an alias inside the value it stands for", "aliases of earlier values")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*at, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, at)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, at: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                self._complain(key_node, at, "a key that is a list or a mapping", "keys that are words")
                continue
            if key in data:
                found = f"the key a second time (first in line {first[key]})"
                self._complain(key_node, (*at, key), found, "each key once")
                continue
            first[key] = line
            self.lines[(*at, key)] = line
            data[key] = self.build(value_node, (*at, key))
        return data


def load_yaml(path: Path) -> YamlDocument:
    """Reads a YAML file whose top level is a mapping.

    Duplicate keys and other mistakes that leave something to check are put into `problems`, for `validate`
    to report together with its own.

    Raises:
        ConfigError: the file cannot be read, is not UTF-8, is not YAML, or does not hold a mapping.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"an unreadable file ({error.strerror})"
        raise ConfigError([Problem(str(path), 0, "", found, "the path of a YAML file")]) from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError([Problem(str(path), line, "", f"the byte {raw[error.start]:#04x}", "UTF-8 text")]) from error
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        reasons = [str(getattr(error, key, None) or "") for key in ("context", "problem")]
        found = " ".join(filter(None, reasons)) or str(error).splitlines()[0]
        where = f" at column {mark.column + 1}" if mark else ""
        raise ConfigError(
            [Problem(str(path), mark.line + 1 if mark else 1, "", f"a syntax error{where}: {found}", "YAML")]
        ) from error
    except RecursionError as error:
        raise ConfigError([Problem(str(path), 1, "", "values nested too deeply", "a flatter file")]) from error
    if len(nodes) != 1 or not isinstance(nodes[0], yaml.MappingNode):
        found = "an empty file" if not nodes else f"{len(nodes)} documents" if len(nodes) > 1 else "no mapping"
        raise ConfigError([Problem(str(path), 1, "", found, "one mapping of `key: value` lines")])
    builder = _Builder(path)
    data = builder.build(nodes[0], ())
    return YamlDocument(path, data, hashlib.sha256(raw).hexdigest(), builder.lines, builder.problems)


def validate(document: YamlDocument, model: type[M]) -> M:
    """Checks the document against a pydantic model.

    Raises:
        ConfigError: all mistakes, in the order of the file.
    """
    problems = list(document.problems)
    try:
        # strict also for models that are not ours: YAML has typed values, so "64" for 64 is a mistake.
        value = model.model_validate(document.data, strict=True)
    except ValidationError as error:
        problems += [_problem(document, model, dict(item)) for item in error.errors()]
        value = None
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    assert value is not None
    return value


def _problem(document: YamlDocument, model: type[BaseModel], error: dict[str, Any]) -> Problem:
    location, allowed = allowed_at(model, document.data, error["loc"])
    context = error.get("ctx", {})
    if error["type"] == "mistake":
        return document.problem(location, context["found"], context["allowed"])
    if error["type"] == "missing":
        return document.problem(location, "nothing", f"{allowed} (required)")
    if error["type"] == "extra_forbidden":
        keys = keys_at(model, document.data, error["loc"][:-1])
        return document.problem(location, f"an unknown key{did_you_mean(location[-1], keys)}", ", ".join(keys))
    found = shown(error["input"])
    if error["type"] == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        found, allowed = shown(context["tag"]) + did_you_mean(context["tag"], tags), ", ".join(tags)
        return document.problem((*location, _bare(context["discriminator"])), found, allowed)
    if error["type"] == "union_tag_not_found":
        return document.problem((*location, _bare(context["discriminator"])), "nothing", f"{allowed} (required)")
    if error["type"] == "literal_error":
        found += did_you_mean(error["input"], allowed.split(", "))
    return document.problem(location, found, allowed)


def _bare(name: str) -> str:
    return name.strip("'")
