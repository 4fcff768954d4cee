"""Build frozen dataclasses from the JSON or YAML of untrusted files."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

MAX_SIZE = 1 << 16  # of anything that is counted in a model's shape; more is a mistake or an attack
MAX_COUNT = 1 << 53  # of any whole number: above it a float is no longer exact
MAX_NAME = 1000  # characters


def build_spec(cls: Any, data: Any, *, where: str = "") -> Any:
    """Build the dataclass `cls` from the object that `dataclasses.asdict` made of it.

    Nested dataclasses, tuples, mappings and optional fields are built by their annotations. Whole numbers are
    accepted as floats; true and false are not numbers. `where` begins every message, such as a file's path.

    Raises ValueError that names a missing, unknown or mistyped field, and whatever `cls` itself refuses.
    """
    prefix = where and f"{where}: "
    if not isinstance(data, Mapping):
        raise ValueError(f"{prefix}{cls.__name__} is an object with fields, not {type(data).__name__}")
    known = {field.name: field for field in fields(cls) if field.init}
    if unknown := sorted(map(str, set(data) - set(known))):
        raise ValueError(f"{prefix}unknown field {unknown[0]!r} in {cls.__name__}; expected {', '.join(known)}")
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}field {name!r} of {cls.__name__} is missing")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(f"{prefix}{cls.__name__}: {name}", data[name], hints[name]) for name in data})


def _convert(where: str, value: Any, hint: Any) -> Any:
    """Return the value as its annotation wants it. Raises ValueError when it is of another type."""
    origin, alternatives = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return build_spec(hint, value, where=where)
    if origin is types.UnionType:
        wanted, nothing = alternatives
        assert nothing is type(None), hint
        return None if value is None else _convert(where, value, wanted)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} is a list, not {shown(value)}")
        if alternatives[-1] is Ellipsis:
            return tuple(_convert(f"{where}[{i}]", item, alternatives[0]) for i, item in enumerate(value))
        if len(value) != len(alternatives):
            raise ValueError(f"{where} has {len(alternatives)} entries, not {len(value)}")
        return tuple(_convert(where, item, each) for item, each in zip(value, alternatives, strict=True))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} is an object with names, not {shown(value)}")
        return {key: _convert(f"{where}.{key}", item, alternatives[1]) for key, item in value.items()}
    if not _is_a(value, hint):
        raise ValueError(f"{where} cannot be {shown(value)}; expected {getattr(hint, '__name__', hint)}")
    return float(value) if hint is float else value


def _is_a(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, int) and abs(value) > MAX_COUNT:
        return False
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint)


def shown(value: Any) -> str:
    """Return the value as a message quotes it: what an untrusted file holds may be long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_name(text: str) -> bool:
    """Return whether a text can be shown: it may come from an untrusted file."""
    return len(text) <= MAX_NAME and text.isprintable()


def check_positive(spec: Any, *names: str) -> None:
    """Raise ValueError unless these fields are above 0 and at most MAX_SIZE, or None."""
    for name in names:
        value = getattr(spec, name)
        if value is not None and not 0 < value <= MAX_SIZE:
            raise ValueError(f"{name} is above 0 and at most {MAX_SIZE}, not {value}")


def check_choice(name: str, value: str, *choices: str) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")
