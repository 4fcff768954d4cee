"""Files of torch.save whose content is wrong, would run code, or would take memory or time."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hostile.sound import EMBED_DIM, Made


def _saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def saved_by_torch(good: dict[str, Path]) -> Made:
    for base, rows in (("official", "prototype"), ("trainer", "propVec")):
        read = torch.load(good[base], weights_only=True)
        model, rows_PE = read["model"], read[rows]
        first = next(iter(model))
        lora = "feature_extractor.encoder.layers.0.self_attn.q_proj.lora_A.default.weight"
        pieces: list[tuple[str, dict[str, Any]]] = [
            ("labels", {"class_to_idx": {"fake": 0, "real": 1}}),
            ("labels", {"label2id": {"Real": "1", "Fake": "0"}}),
            ("labels", {"id2label": {0: "fake", 1: "real"}}),
            ("labels", {"classes": ["fake", "real"]}),
            ("labels", {"labels": {"real": [[]]}}),
            ("labels", {"idx_to_class": {0: "real", 1: "real"}}),
            ("zero prototypes", {rows: rows_PE * 0}),
            ("prototypes' width", {rows: rows_PE[:, :64].clone()}),
            ("prototypes' width", {rows: rows_PE[:3].clone()}),
            ("prototypes' width", {rows: rows_PE[0].clone()}),
            ("prototypes' width", {rows: torch.tensor(1.0)}),
            ("prototypes' width", {rows: None}),
            ("prototypes' width", {rows: [1.0, 2.0]}),
            ("not finite", {rows: rows_PE * torch.nan}),
            ("dtype", {rows: rows_PE.double()}),
            ("dtype", {rows: rows_PE.long()}),
            ("a tensor extra", {"prototype": rows_PE, "propVec": rows_PE}),
            ("no model", {"model": None}),
            ("no model", {"model": rows_PE}),
            ("no model", {"model": {}}),
            ("no model", {"model": {"fc.weight": 3}}),
        ]
        models: list[tuple[str, dict[Any, Any]]] = [
            ("a tensor extra", {"fc.bias": torch.zeros(1)}),
            ("a tensor extra", {"x\nerror: y" * 1000: torch.zeros(1)}),
            ("a tensor extra", {7: torch.zeros(1)}),
            ("a tensor extra", {"module.fc.weight": torch.zeros(1, EMBED_DIM)}),
            ("a tensor extra", {"feature_extractor.encoder.layers.9999.mlp.fc1.bias": torch.zeros(1)}),
            ("shape", {lora: torch.tensor(1.0)}),
            ("shape", {lora: torch.zeros(64, 2)}),
            ("shape", {"foren_proj.weight": torch.tensor(1.0)}),
            ("shape", {"foren_proj.weight": torch.zeros(0, 64)}),
            ("shape", {"foren_proj.weight": torch.zeros(64, EMBED_DIM)}),
            ("shape", {"feature_extractor.embeddings.class_embedding": torch.zeros(64, 1)}),
            ("shape", {"feature_extractor.embeddings.class_embedding": torch.zeros(65)}),
            ("shape", {"feature_extractor.embeddings.patch_embedding.weight": torch.zeros(64, 3, 8)}),
            ("shape", {"feature_extractor.embeddings.position_embedding.weight": torch.zeros(0, 64)}),
            ("shape", {"feature_extractor.embeddings.position_embedding.weight": torch.zeros(16, 64)}),
            ("not finite", {first: torch.full_like(model[first], torch.inf)}),
            ("dtype", {first: model[first].half()}),
            ("dtype", {first: model[first].to(torch.complex64)}),
            ("dtype", {first: torch.zeros(3).to_sparse()}),
            *(("a tensor missing", {name: None}) for name in list(model)[:10]),
        ]
        models = [
            (kind, {n: v for n, v in {**model, **change}.items() if v is not None}) for kind, change in models
        ]
        for kind, piece in (*pieces, *((kind, {"model": state}) for kind, state in models)):
            yield kind, base, _saved({**read, **piece})
        yield "not torch's zip", base, _saved(read, _use_new_zipfile_serialization=False)
        yield "not torch's zip", base, _saved(read, pickle_protocol=4)
    no_matrices = torch.ones(3), torch.ones(()), torch.zeros(0, 5), torch.ones(1, 2, 3)
    for value in (None, 3, "text", [], {}, (), [torch.ones(2, 2)], {"a": 1}, *no_matrices):
        yield "another thing", "stage1", _saved(value)
        yield "another thing", "prototypes", _saved(value)
    rows_PE = torch.load(good["prototypes"], weights_only=True)
    for kind, value in (
        ("not finite", rows_PE * torch.nan),
        ("zero prototypes", rows_PE * 0),
        ("zero prototypes", rows_PE * torch.tensor([[1.0], [0.0], [1.0], [1.0]])),
        ("prototypes' width", rows_PE[:3].clone()),
        ("prototypes' width", rows_PE.T.contiguous()),
        ("dtype", rows_PE.half()),
        ("dtype", rows_PE.double()),
    ):
        yield kind, "prototypes", _saved(value)
    for kind, value in (
        ("not finite", torch.full((EMBED_DIM, 32), torch.nan)),
        ("shape", torch.ones(32, EMBED_DIM)),
        ("dtype", torch.ones(EMBED_DIM, 32).long()),
        ("dtype", torch.ones(EMBED_DIM, 32).half()),
    ):
        yield kind, "stage1", _saved(value)


# ---------------------------------------------------------------------------------------------------------
# Pickles


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _number(value: int) -> bytes:
    packed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(packed)]) + packed


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _storage(key: str = "0", numel: int = EMBED_DIM * 32, kind: str = "FloatStorage") -> bytes:
    names = _text(key), _text("cpu")
    return tuple_of(_text("storage"), f"ctorch\n{kind}\n".encode(), *names, _number(numel)) + b"Q"


HOOKS = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def _tensor(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    storage: bytes = b"",
    hooks: bytes = HOOKS,
) -> bytes:
    sides = tuple_of(*map(_number, shape)), tuple_of(*map(_number, strides))
    return REBUILD + tuple_of(storage or _storage(), _number(offset), *sides, b"\x89", hooks) + b"R"


def archive_of(records: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def crafted(
    pickled: bytes, records: Mapping[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED
) -> bytes:
    """A file of torch.save's form with that pickle, and one storage that would fit a projection."""
    storage = torch.ones(EMBED_DIM * 32).numpy().tobytes()
    content = {"data.pkl": b"\x80\x02" + pickled + b".", "byteorder": b"little", "data/0": storage}
    content |= {"version": b"3\n", **(records or {})}
    return archive_of({f"archive/{name}": value for name, value in content.items()}, method=method)


SOUND = _tensor((EMBED_DIM, 32), (32, 1))


@dataclass(frozen=True)
class _Runs:
    """Its pickle creates the marker when it is obeyed."""

    marker: str

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.marker!r}, 'w').close()",)


def running_code(good: dict[str, Path], marker: Path) -> Made:
    runs = _Runs(str(marker))
    source = _text(runs.__reduce__()[1][0])
    for protocol in range(6):
        yield "code: a bare pickle", "official", pickle.dumps(runs, protocol)
        yield "code: a bare pickle", "bank", pickle.dumps({"model": runs}, protocol)
        dumped = pickle.dumps(runs, protocol)
        yield "code: in the zip", "stage1", crafted(dumped[2 if protocol > 1 else 0 : -1])
        yield "code: in the zip", "prototypes", archive_of({"archive/data.pkl": dumped, "archive/version": b"3\n"})
    instructions = {
        "GLOBAL": b"cbuiltins\nexec\n" + source + b"\x85R",
        "GLOBAL of Python 2": b"c__builtin__\nexec\n" + source + b"\x85R",
        "STACK_GLOBAL": _text("builtins") + _text("exec") + b"\x93" + source + b"\x85R",
        "INST": b"(" + source + b"ibuiltins\nexec\n",
        "OBJ": b"(cbuiltins\nexec\n" + source + b"o",
        "NEWOBJ": b"cbuiltins\nexec\n" + source + b"\x85\x81",
        "NEWOBJ_EX": b"cbuiltins\nexec\n" + source + b"\x85}\x92",
        "EXT1": b"\x82\x01" + source + b"\x85R",
        "EXT4": b"\x84\x01\0\0\0" + source + b"\x85R",
        "PERSID": b"Pstorage\n",
        "BUILD": HOOKS + b"}" + _text("__reduce__") + source + b"sb",
        "BUILD of a tensor": SOUND
        + tuple_of(_storage(), _number(0), tuple_of(_number(10**9)), tuple_of(_number(1)))
        + b"b",
        "call of a storage": b"ctorch\nFloatStorage\n" + _number(10**9) + b"\x85R",
        "call of text": source + b")R",
        "call of a tensor": SOUND + b")R",
        "hooks": _tensor((EMBED_DIM, 32), (32, 1), hooks=b"}" + _text("a") + source + b"s"),
    }
    for name, pickled in instructions.items():
        yield f"code: by {name}", "stage1", crafted(pickled)
        yield f"code: by {name}", "stage1", crafted(b"}" + _text("model") + pickled + b"s")
    for name in (
        *("os system", "posix system", "subprocess Popen", "builtins eval", "builtins getattr", "torch load"),
        *("torch.storage _load_from_bytes", "torch.hub load", "functools partial", "operator attrgetter"),
        *("numpy.core.multiarray _reconstruct", "torch._utils _rebuild_qtensor", "torch Size", "torch.jit load"),
        *("torch._utils _rebuild_sparse_tensor", "torch FloatTensor", "torch.nn.parameter Parameter"),
        *("torch._tensor _rebuild_from_type_v2", "collections Counter", "x\x1b[2J error:", "\u00e9 \ud7ff", "a"),
    ):
        asked = b"c" + "\n".join(name.split(" ", 1)).encode() + b"\n"
        yield "code: by name", "stage1", crafted(asked + source + b"\x85R")
    for base in ("official", "trainer"):
        read = torch.load(good[base], weights_only=True)
        for nested in (
            {"optimizer": runs},
            {"optimizer": {"state": {0: {"exp_avg": runs}}}},
            {"scheduler": [1, (2, runs)]},
            {"model": {**read["model"], "fc.weight": runs}},
            {"class_to_idx": {"real": runs}},
            {"args": type("Namespace", (), {"__reduce__": lambda _: (exec, ("1",))})()},
        ):
            yield "code: nested", base, _saved({**read, **nested})
            yield "code: nested", base, _saved({**read, **nested}, pickle_protocol=4)
    yield "code: torch's old form", "official", _saved({"model": runs}, _use_new_zipfile_serialization=False)
    script = {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"import os\n"}
    yield "code: TorchScript", "stage1", crafted(SOUND, script)


def pickle_bombs() -> Made:
    number = _number(EMBED_DIM * 32)
    matrix = (EMBED_DIM, 32), (32, 1)
    doubling = b")q\x00" + b"h\x00\x86q\x00" * 60
    pair = tuple_of(_text("a"), _number(1))
    keys = b"".join(_text(str(i)) + b"N" for i in range(20_000))
    again = REBUILD + b"q\x00" + SOUND[len(REBUILD) : -1] + b"q\x01R" + b"h\x00h\x01R" * 48_000

    def sides(shape: bytes, strides: bytes) -> bytes:
        return (
            REBUILD + tuple_of(_storage(), _number(0), tuple_of(shape), tuple_of(strides), b"\x89", HOOKS) + b"R"
        )

    def asked(*identity: bytes) -> bytes:
        return tuple_of(_text("storage"), *identity, _text("cpu"), number) + b"Q"

    bombs = {
        "bytearray": b"c__builtin__\nbytearray\n" + _number(10**12) + b"\x85R",
        "million dictionaries": b"}" * 1_000_000,
        "many dictionaries": b"(" + b"}" * 145_000 + b"t",
        "many lists": tuple_of(b"]" * 145_000),
        "many tensors": tuple_of(again),
        "many marks": b"(" * 145_000,
        "many numbers": tuple_of(*(b"M" + struct.pack("<H", 300 + i % 60_000) for i in range(145_000))),
        "many memos": b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(145_000)),
        "two megabytes": b"N0" * 1_000_000,
        "nested tuples": b")" + b"\x85" * 145_000,
        "nested tuple as a key": b"})" + b"\x85" * 145_000 + b"Ns",
        "nested lists": b"]" * 60_000 + b"a" * 59_999,
        "doubling tuple as a key": b"}" + doubling + b"Ns",
        "doubling tuple as labels": b"}" + _text("class_to_idx") + b"}" + _text("real") + doubling + b"ss",
        "copies by OrderedDict": b"](" + pair * 9_000 + b"eq\x00" + (HOOKS[:-2] + b"h\x00\x85R") * 9_000,
        "copies by BUILD": b"}(" + keys + b"uq\x00" + (HOOKS + b"h\x00b") * 9_000,
        "stride 0": _tensor((10**6, 10**6), (0, 0)),
        "stride 0 of one side": _tensor((EMBED_DIM, 10**7), (32, 0)),
        "overlapping strides": _tensor((4096, 4096), (0, 1)),
        "negative strides": _tensor((EMBED_DIM, 32), (-32, 1)),
        "negative offset": _tensor(*matrix, offset=-1),
        "offset": _tensor(*matrix, offset=1),
        "giant offset": _tensor(*matrix, offset=2**62),
        "giant strides": _tensor((EMBED_DIM, 32), (2**62, 2**62)),
        "giant shape": _tensor((2**62, 2**62), (1, 1)),
        "empty giant": _tensor((0, 2**62, 2**62), (1, 1, 1)),
        "many sides": _tensor((1,) * 10_000, (1,) * 10_000),
        "text as a side": sides(_text("a"), _number(1)),
        "tuple as a side": sides(b")", number),
        "storage of 10**12": _tensor(*matrix, storage=_storage(numel=10**12)),
        "storage of -1": _tensor(*matrix, storage=_storage(numel=-1)),
        "storage too short": _tensor((EMBED_DIM, 31), (31, 1), storage=_storage(numel=EMBED_DIM * 31)),
        "storage of another type": _tensor(*matrix, storage=_storage(kind="DoubleStorage")),
        "storage of a strange type": _tensor(*matrix, storage=_storage(kind="QInt8Storage")),
        "storage that is not there": _tensor(*matrix, storage=_storage(key="1")),
        "storage up the tree": _tensor(*matrix, storage=_storage(key="../version", numel=2)),
        "storage by a number": _number(3) + b"Q",
        "storage by a deep key": asked(b"ctorch\nFloatStorage\n", b")" + b"\x85" * 100_000),
        "storage without a type": asked(_text("FloatStorage"), _text("0")),
        "text longer than the file": b"X" + struct.pack("<I", 2**32 - 1) + b"a",
        "text of 2**62": b"\x8d" + struct.pack("<Q", 2**62) + b"a",
        "bytes of 2**62": b"\x8e" + struct.pack("<Q", 2**62) + b"a",
        "a long number": b"\x8b" + struct.pack("<i", 500_000) + bytes(500_000),
        "a long decimal": b"L" + b"9" * 500_000 + b"L\n",
        "frame": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        "text that is none": b"X\x02\0\0\0\xff\xfe",
        "unknown opcode": b"\xff",
        "no stop": b"(((",
        "nothing": b"",
        "empty stack": b"0000",
        "append to nothing": b"N(Ne",
        "odd items": b"}(Nu",
        "memo of nothing": b"h\x07",
        "protocol 5": b"\x80\x05" + SOUND,
        "code after the tensor": SOUND + b"0cos\nsystem\n" + _text("true") + b"\x85R",
        "a set": b"\x8f",
    }
    for name, pickled in bombs.items():
        yield f"pickle: {name}", "stage1", crafted(pickled)
    for name in ("stride 0", "many dictionaries", "doubling tuple as labels", "nested lists"):
        yield f"pickle: {name}", "official", crafted(b"}" + _text("model") + bombs[name] + b"s")
