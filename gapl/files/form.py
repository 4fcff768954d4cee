"""What JSON that was read should look like: whoever has edited a file is told which of its values is wrong.

A form is a function of a place, such as "tiles.side", and the value there. It raises ValueError, one line that
names the place, for a value that it does not take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gapl.schema import shown

Form = Callable[[str, Any], None]

MOST = 1e9  # of a number: what is larger was never measured


def text(at: str, value: Any) -> None:
    _expect(isinstance(value, str), at, value, "a text")


def truth(at: str, value: Any) -> None:
    _expect(isinstance(value, bool), at, value, "true or false")


def number(low: float = -MOST, high: float = MOST) -> Form:
    """Return the form of numbers in [low, high], which are finite."""
    return _number(int | float, f"a number from {low:g} to {high:g}", low, high)


def count(high: float = MOST) -> Form:
    """Return the form of whole numbers in [0, high]."""
    return _number(int, f"a whole number from 0 to {high:g}", 0, high)


def _number(kind: Any, expected: str, low: float, high: float) -> Form:
    def check(at: str, value: Any) -> None:
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        _expect(is_number and low <= value <= high, at, value, expected)

    return check


def one_of(*values: str) -> Form:
    def check(at: str, value: Any) -> None:
        _expect(isinstance(value, str) and value in values, at, value, f"one of {', '.join(map(repr, values))}")

    return check


def sha256(at: str, value: Any) -> None:
    is_right = isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{64}", value))
    _expect(is_right, at, value, "64 hexadecimal digits")


def or_null(form: Form) -> Form:
    def check(at: str, value: Any) -> None:
        if value is not None:
            form(at, value)

    return check


def listed(form: Form, *, least: int = 0) -> Form:
    """Return the form of lists of so many items or more, each of this form."""

    def check(at: str, value: Any) -> None:
        _expect(isinstance(value, list) and len(value) >= least, at, value, f"a list of {least} or more")
        for i, item in enumerate(value):
            form(f"{at}[{i}]", item)

    return check


def entries(*forms: Form) -> Form:
    """Return the form of lists with just these items."""

    def check(at: str, value: Any) -> None:
        _expect(isinstance(value, list) and len(value) == len(forms), at, value, f"a list of {len(forms)}")
        for i, (form, item) in enumerate(zip(forms, value, strict=True)):
            form(f"{at}[{i}]", item)

    return check


def named(form: Form) -> Form:
    """Return the form of objects with any names, one or more, and values of this form."""

    def check(at: str, value: Any) -> None:
        _expect(isinstance(value, dict) and bool(value), at, value, "an object with names")
        for name, item in value.items():
            form(f"{at}.{shown(name)}", item)

    return check


def fields(required: Mapping[str, Form], optional: Mapping[str, Form] = {}) -> Form:
    """Return the form of objects with these fields and no others."""
    known = {**required, **optional}

    def check(at: str, value: Any) -> None:
        _expect(isinstance(value, dict), at, value, f"an object with {', '.join(required)}")
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"{at}.{missing[0]} is missing")
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"{at} has an unknown field {shown(unknown[0])}")
        for name, item in value.items():
            known[name](f"{at}.{name}" if at else name, item)

    return check


def _expect(is_right: bool, at: str, value: Any, expected: str) -> None:
    if not is_right:
        raise ValueError(f"{at} cannot be {shown(value)}; expected {expected}")
