"""What the pickle of a torch.save file asks for, followed opcode by opcode and never obeyed.

A pickle is a program. Only the one that torch.save writes is let through: containers of numbers, text and plain
tensors, each tensor within a storage that is a record of the archive, of that record's length. So neither code
is run nor more memory taken than the file has bytes: no tensor repeats its few bytes by a stride of 0, and
nothing that is called copies what it is given.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_OPCODES = 150_000  # a detector's pickle has 17,000, with its optimizer's state 74,000
MAX_TENSORS = 4  # of a record; a parameter is two
MAX_SIDES = 8
PROTOCOL = 2  # torch.save's
DICTIONARY = "collections OrderedDict"
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
STORAGE_BYTES = {"Float": 4, "Double": 8, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2}
STORAGE_BYTES |= {"Byte": 1, "Char": 1, "Bool": 1}
STORAGES = {f"torch {name}Storage": size for name, size in STORAGE_BYTES.items()}
NAMES = {DICTIONARY, TENSOR, PARAMETER, *STORAGES}
VALUES = ("BINUNICODE", "BININT1", "BININT", "BININT2", "LONG1", "BINFLOAT")
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True, slots=True)
class _Name:
    """What a GLOBAL opcode asks for."""

    text: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The numbers of a record."""

    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Found to lie within its storage."""


def check_pickle(pickled: bytes, record_bytes: Mapping[str, int]) -> None:
    """Raises ValueError, one line, for any pickle but one of torch.save. record_bytes: storage's key -> size."""
    try:
        _follow(pickled, record_bytes)
    except (LookupError, OverflowError, MemoryError) as error:
        raise ValueError("damaged: its pickle cannot be read") from error


def _follow(pickled: bytes, record_bytes: Mapping[str, int]) -> None:
    """The stack machine of torch's own reader. Lists and dictionaries are followed without what is put in them."""
    stack: list[Any] = []
    below: list[list[Any]] = []  # stacks that wait, one for every open MARK
    memo: dict[int, Any] = {}
    num_tensors = 0
    for opcode, argument in _opcodes(pickled):
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case name if name in VALUES:
                stack.append(argument)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "SETITEMS" | "APPENDS" as name:
                items, stack = stack, below.pop()
                _put(name, items, stack)
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                _put("TUPLE", _pop(stack, int(name[-1])), stack)
            case "SETITEM" | "APPEND" as name:
                _put(f"{name}S", _pop(stack, 2 if name == "SETITEM" else 1), stack)
            case "GLOBAL":
                if argument not in NAMES:
                    name = repr(argument.replace(" ", "."))
                    raise ValueError(f"its pickle asks for {name}, which is no tensor: it could run code")
                stack.append(_Name(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop(), record_bytes))
            case "REDUCE":
                function, arguments = _pop(stack, 2)
                made = _called(function, arguments)
                num_tensors += isinstance(made, _Tensor)
                if num_tensors > MAX_TENSORS * len(record_bytes):
                    raise ValueError(
                        f"its pickle asks for {num_tensors:,} tensors of {len(record_bytes):,} records"
                    )
                stack.append(made)
            case "BUILD":
                instance, state = _pop(stack, 2)
                if not isinstance(instance, dict) or not isinstance(state, dict) or set(state) != {"_metadata"}:
                    raise ValueError("its pickle builds an object that torch.save never writes")
                stack.append(instance)
            case "PROTO":
                if argument != PROTOCOL:
                    raise ValueError(f"its pickle is of protocol {argument}; torch.save's is {PROTOCOL}")
            case "STOP":
                if len(stack) != 1 or below:
                    raise LookupError
            case name:
                raise ValueError(f"its pickle has {name}, which torch.save never writes: it could run code")


def _opcodes(pickled: bytes) -> Iterator[tuple[str, Any]]:
    """(name, argument) of each."""
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if number == MAX_OPCODES:
                raise ValueError(f"it has more than {MAX_OPCODES:,} opcodes, which no detector's has")
            yield opcode.name, argument
    except ValueError as error:
        raise ValueError(f"damaged: its pickle cannot be read ({error})") from error


def _pop(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise LookupError
    items = stack[-count:]
    del stack[-count:]
    return items


def _put(name: str, items: list[Any], stack: list[Any]) -> None:
    """TUPLE, or APPENDS or SETITEMS to what is on the stack. Keys are remembered, other items are not."""
    match name, stack[-1] if stack else None:
        case "TUPLE", _:
            stack.append(tuple(items))
        case "APPENDS", list():
            pass
        case "SETITEMS", dict(found) if len(items) % 2 == 0:
            if not all(isinstance(key, str | int | float) for key in items[::2]):
                raise ValueError("its pickle has a dictionary whose keys are neither text nor numbers")
            found |= dict.fromkeys(items[::2])
        case _:
            raise LookupError


def _storage(identity: Any, record_bytes: Mapping[str, int]) -> _Storage:
    match identity:
        case ("storage", _Name(kind), str(key), str(), int(numel)) if kind in STORAGES:
            pass
        case _:
            raise ValueError("its pickle asks for a storage in a way that torch.save never does")
    if record_bytes.get(key) != numel * STORAGES[kind]:
        found = f"a record of {record_bytes[key]:,}" if key in record_bytes else "no such record"
        raise ValueError(f"damaged: storage {key!r} is of {numel * STORAGES[kind]:,} bytes, but there is {found}")
    return _Storage(numel)


def _called(function: Any, arguments: Any) -> Any:
    """What a call gives, if it is one that torch.save writes."""
    match function, arguments:
        case (_Name(name), ()) if name == DICTIONARY:
            return {}
        case (
            _Name(name),
            (_Storage(numel), int(offset), tuple(shape), tuple(strides), bool(), dict(hooks)),
        ) if name == TENSOR and not hooks and len(shape) == len(strides) <= MAX_SIDES:
            _check_extent(numel, offset, shape, strides)
            return _Tensor()
        case (_Name(name), (_Tensor(), bool(), dict(hooks))) if name == PARAMETER and not hooks:
            return _Tensor()
    raise ValueError("its pickle makes a call that torch.save never writes: it could run code")


def _check_extent(numel: int, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> None:
    """Every number of the tensor is in its storage, and it has no more of them than the storage."""
    if not all(type(side) is int and 0 <= side <= numel for side in (offset, *shape)):
        raise ValueError("damaged: a tensor that is larger than its bytes")
    if not all(type(stride) is int and stride >= 0 for stride in strides):
        raise ValueError("damaged: a tensor whose strides are not whole numbers from 0")
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > numel or (math.prod(shape) and last >= numel):
        raise ValueError("damaged: a tensor that is larger than its bytes")
