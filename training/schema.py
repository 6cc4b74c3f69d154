"""What a pydantic model allows at a location of the data, in words: the second half of our error messages."""

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Location = tuple[str | int, ...]

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false"),
}


def allowed_at(model: type[BaseModel], data: Any, location: Sequence[str | int]) -> tuple[Location, str]:
    """The location with pydantic's union tags removed, and what the model allows there."""
    path, annotation, metadata, description = _walk(model, data, location)
    return path, description or describe(annotation, metadata)


def keys_at(model: type[BaseModel], data: Any, location: Sequence[str | int]) -> list[str]:
    """The keys of the mapping that the model allows at the location."""
    _, annotation, _, _ = _walk(model, data, location)
    return _keys(annotation) if _is_model(annotation) else []


def describe(annotation: Any, metadata: Sequence[Any] = (), plural: bool = False) -> str:
    """A type in words: 'an integer from 1 to 16', 'a list of numbers', 'sum, mean', 'a mapping with a, b'."""
    annotation, extra = _strip(annotation)
    metadata = [*metadata, *extra]
    if get_origin(annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    members = _members(annotation)
    if members:
        return " or ".join(dict.fromkeys(describe(member, plural=plural) for member in members))
    if get_origin(annotation) in (list, tuple, Sequence):
        least = next((m.min_length for m in metadata if isinstance(m, annotated_types.MinLen)), 0)
        most = next((m.max_length for m in metadata if isinstance(m, annotated_types.MaxLen)), None)
        count = f"{least} to {most} " if most is not None else f"{least} or more " if least else ""
        return f"{'lists' if plural else 'a list'} of {count}{describe(get_args(annotation)[0], plural=True)}"
    if _is_model(annotation):
        return f"{'mappings' if plural else 'a mapping'} with {', '.join(_keys(annotation))}"
    if get_origin(annotation) is dict or annotation is dict:
        return "mappings" if plural else "a mapping"
    word = _WORDS.get(annotation, ("a value", "values"))[plural]
    return word + _range(metadata)


def _range(metadata: Sequence[Any]) -> str:
    bounds = {"ge": None, "gt": None, "le": None, "lt": None, "multiple_of": None, "pattern": None}
    for item in metadata:
        for name in bounds:
            value = getattr(item, name, None)
            bounds[name] = value if value is not None else bounds[name]
    text = ""
    if bounds["ge"] is not None and bounds["le"] is not None:
        text += f" from {bounds['ge']} to {bounds['le']}"
    else:
        parts = [("at least", "ge"), ("greater than", "gt"), ("at most", "le"), ("less than", "lt")]
        stated = [f"{words} {bounds[name]}" for words, name in parts if bounds[name] is not None]
        text += " " + " and ".join(stated) if stated else ""
    if bounds["multiple_of"] is not None:
        text += f", a multiple of {bounds['multiple_of']}"
    return text + (f" of the form {bounds['pattern']}" if bounds["pattern"] else "")


def _walk(model: type[BaseModel], data: Any, location: Sequence[str | int]) -> tuple[Location, Any, list[Any], str]:
    """Follows a pydantic error location through types and data at once; tags of unions are in neither."""
    annotation: Any = model
    metadata: list[Any] = []
    description = ""
    path: Location = ()
    for part in location:
        annotation, extra = _strip(annotation)
        metadata += extra
        members = _members(annotation)
        if members:
            tagged = [member for member in members if _has_tag(member, part)]
            if tagged:
                annotation = tagged[0]
                continue
            annotation = members[0]
        if _is_model(annotation):
            field = _field(annotation, str(part))
            annotation, metadata, description = (
                (field.annotation, list(field.metadata), field.description or "") if field else (Any, [], "")
            )
        elif get_origin(annotation) in (list, tuple, Sequence) and isinstance(part, int):
            annotation, metadata = get_args(annotation)[0], []
        else:
            annotation, metadata, description = Any, [], ""
        path = (*path, part)
    annotation, extra = _strip(annotation)
    return path, annotation, metadata + extra, description


def _strip(annotation: Any) -> tuple[Any, list[Any]]:
    """Removes Annotated and `| None`."""
    metadata: list[Any] = []
    while True:
        if get_origin(annotation) is Annotated:
            base, *extra = get_args(annotation)
            for item in extra:
                metadata += item.metadata if isinstance(item, FieldInfo) else [item]
            annotation = base
            continue
        if get_origin(annotation) in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            if len(members) == 1:
                annotation = members[0]
                continue
        return annotation, metadata


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [_strip(member)[0] for member in get_args(annotation) if member is not type(None)]
    return []


def _has_tag(annotation: Any, tag: str | int) -> bool:
    return _is_model(annotation) and any(
        get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
        for field in annotation.model_fields.values()
    )


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    for name, field in model.model_fields.items():
        if key == (field.alias or name):
            return field
    return None
