"""safetensors files whose table, header or values are wrong or hostile."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files import tensorfile
from hostile.sound import OURS, Change, Made
from models.weights.checkpoint import FORMAT
from prototype import bank


def split_table(content: bytes) -> tuple[int, dict[str, Any]]:
    """(where the tensors begin, the table)"""
    start = 8 + int.from_bytes(content[:8], "little")
    return start, json.loads(content[8:start])


def _join(table: dict[str, Any] | str, data: bytes) -> bytes:
    text = (table if isinstance(table, str) else json.dumps(table)).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _changed(content: bytes, change: Change) -> bytes:
    """With another table of tensors."""
    start, table = split_table(content)
    change(table)
    return _join(table, content[start:])


def _with_header(content: bytes, header: str) -> bytes:
    """With another header of ours, and its right checksum."""

    def change(table: dict[str, Any]) -> None:
        crc32 = str(zlib.crc32(header.encode("utf-8", "surrogatepass")))
        table["__metadata__"] |= {"header": header, "header_crc32": crc32}

    return _changed(content, change)


def tables(base: str, content: bytes) -> Made:
    start, table = split_table(content)
    names = sorted(set(table) - {"__metadata__"}, key=lambda name: table[name]["data_offsets"][0])
    first, last = names[0], names[-1]
    wide = max(names, key=lambda name: (len(table[name]["shape"]), len(set(table[name]["shape"]))))

    def entry(name: str, /, **fields: Any) -> Change:
        return lambda table: table[name].update(fields)

    begin, end = table[first]["data_offsets"]
    shape = table[first]["shape"]
    changes: list[tuple[str, Change]] = [
        ("dtype", entry(first, dtype="F64")),
        ("dtype", entry(first, dtype="BF16")),
        ("dtype", entry(first, dtype="I32")),
        ("dtype", entry(first, dtype="F4")),
        ("dtype", entry(first, dtype=7)),
        ("shape", entry(wide, shape=table[wide]["shape"][::-1])),
        ("shape", entry(first, shape=[*shape, 1])),
        ("shape", entry(first, shape=[1] * 100_000)),
        ("shape", entry(first, shape=[-1, *shape])),
        ("shape", entry(first, shape=[0, 2**62, 2**62])),
        ("shape", entry(first, shape=[2**62, 2**62])),
        ("shape", entry(first, shape=[10**4000] * 50)),
        ("shape", entry(first, shape=[True, *shape])),
        ("shape", entry(first, shape=[1e9])),
        ("shape", entry(first, shape=None)),
        ("shape", entry(first, shape=[[2], 2])),
        ("offsets", entry(first, data_offsets=[begin, end + 4])),
        ("offsets", entry(first, data_offsets=[begin + 4, end + 4])),
        ("offsets", entry(first, data_offsets=[-4, end])),
        ("offsets", entry(first, data_offsets=[end, begin])),
        ("offsets", entry(first, data_offsets=[begin, 2**63])),
        ("offsets", entry(first, data_offsets=[False, end])),
        ("offsets", entry(first, data_offsets=[begin, end, end])),
        ("offsets", entry(first, data_offsets=table[last]["data_offsets"], shape=table[last]["shape"])),
        ("offsets", entry(last, data_offsets=[begin, end], shape=shape, dtype=table[first]["dtype"])),
        ("a tensor missing", lambda table: table.pop(first)),
        ("a tensor missing", lambda table: table.pop(last)),
        ("a tensor extra", lambda table: table.update(extra={**table[first]})),
        ("a tensor extra", entry(first, more=1)),
        ("metadata", lambda table: table.pop("__metadata__")),
        ("metadata", lambda table: table["__metadata__"].pop("header")),
        ("metadata", lambda table: table["__metadata__"].pop("crc32")),
        ("metadata", lambda table: table["__metadata__"].pop("header_crc32")),
        ("metadata", lambda table: table["__metadata__"].update(format="pt")),
        ("metadata", lambda table: table["__metadata__"].update(format="x\nerror: y\x1b[2J" * 100)),
        ("metadata", lambda table: table["__metadata__"].update(crc32="{}")),
        ("metadata", lambda table: table["__metadata__"].update(crc32="[1, 2]")),
        ("metadata", lambda table: table["__metadata__"].update(crc32="7")),
        ("metadata", lambda table: table["__metadata__"].update(crc32=json.dumps(dict.fromkeys(names, "1")))),
        ("metadata", lambda table: table["__metadata__"].update(crc32=json.dumps({key: [1] for key in names}))),
        ("metadata", lambda table: table["__metadata__"].update(header_crc32="9" * 5000)),
        ("metadata", lambda table: table["__metadata__"].update(header_crc32=1)),
        ("metadata", lambda table: table.update(__metadata__=[1])),
    ]
    yield from ((kind, base, _changed(content, change)) for kind, change in changes)
    text = content[8:start].decode().rstrip()
    yield "offsets", base, content + bytes(8)
    yield "offsets", base, _join(text, content[start:] + b"\0")
    text_4 = text.encode() + b" " * (4 - len(text) % 8 if len(text) % 8 <= 4 else 12 - len(text) % 8)
    yield "offsets", base, struct.pack("<Q", len(text_4)) + text_4 + content[start:]
    yield "a tensor extra", base, _join(text.replace(f'"{last}"', f'"{first}"', 1), content[start:])
    yield "metadata", base, _join(text.replace(f'"{last}"', '"\\ud800"', 1), content[start:])
    for json_text in _hostile_json(long=base in ("full", "bank")):
        yield "hostile JSON as the table", base, _join(json_text, content[start:])
    for json_text in _hostile_json(long=False):
        yield "hostile JSON as the table", base, _join(f'{{"{first}": {json_text}, {text[1:]}', content[start:])
    many = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(5_000)}
    metadata = {**table["__metadata__"], "crc32": json.dumps(dict.fromkeys(many, 0))}
    yield "many tensors", base, _join({**many, "__metadata__": metadata}, bytes(4 * len(many)))


def _hostile_json(*, long: bool) -> list[str]:
    """long: also those that are as long as a header may be, or longer."""
    longest = tensorfile.MAX_HEADER_BYTES - 200
    texts = [
        "[" * 100_000,
        "[" * 50_000 + "]" * 50_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a": 1, "a": 2}',
        "NaN",
        '{"a": Infinity}',
        "9" * 100_000,
        f"[{'[],' * (longest // 3 - 1)}[]]",
        f"[{'{},' * (longest // 3 - 1)}[]]",
        f"[{'[0],' * (longest // 4 - 1)}[]]",
        f'{{"a": "{"x" * (longest - 100)}\U0001f600"}}',
        "[" + "[]," * 500_000 + "[]]",
        "[1, 2]",
        '"text"',
        "",
        "\x00",
        "{" * 10,
    ]
    return [text for text in texts if long or len(text) < longest // 2]


def bad_headers(data: dict[str, bytes]) -> Made:
    def each(kind: str, keys: tuple[str, ...], *values: Any) -> list[tuple[str, tuple[str, ...], Any]]:
        return [(kind, keys, value) for value in values]

    for base in ("full", "merged", "adapter"):
        content = data[base]
        header = json.loads(split_table(content)[1]["__metadata__"]["header"])
        tower, pixel, lora = ("config", "tower"), ("config", "pixel"), ("config", "lora")
        edits: list[tuple[str, tuple[str, ...], Any]] = [
            ("labels", ("labels",), {"real": 1, "fake": 0}),
            ("labels", ("labels",), {"real": 0}),
            ("labels", ("labels",), ["fake", "real"]),
            ("labels", ("labels",), "x" * 10_000),
            *each("config: layers", (*tower, "num_hidden_layers"), 10**9, 1000, 3, 1, 0, -1, True, 1.5),
            *each("config: prototypes", ("config", "num_prototypes"), 10**9, 65536, 5, 0, -4, "4"),
            *each("config: tower", (*tower, "hidden_size"), 10**4000, 65536, 128, 0, None, [64]),
            *each("config: tower", (*tower, "patch_size"), 65536, 64, 1, 10**9),
            *each("config: tower", (*tower, "image_size"), 65536, 10**9, 40),
            ("config: tower", (*tower, "num_attention_heads"), 3),
            ("config: tower", (*tower, "hidden_act"), "\x1b[2J\nerror: no" * 50),
            ("config: tower", (*tower, "layer_norm_eps"), 10**400),
            ("config: tower", tower, []),
            *each("config: pixels", (*pixel, "mean"), [10**400] * 3, [0.5] * 2, [0.5] * 10_000, "a"),
            *each("config: pixels", (*pixel, "std"), [0, 1, 1], [-1] * 3, [10**400] * 3, [None] * 3),
            ("config: pixels", (*pixel, "size_px"), 33),
            ("config: pixels", (*pixel, "zoom"), 2),
            ("config: pixels", (*pixel, "interpolation"), ["bicubic"]),
            *each("config: LoRA", (*lora, "rank"), 10**9, 0, -1, 3),
            *each("config: LoRA", (*lora, "dropout"), 2, -1, "0"),
            ("config: LoRA", (*lora, "targets"), ["("]),
            ("config: LoRA", (*lora, "targets"), []),
            ("config: LoRA", (*lora, "targets"), ["q_proj", "(a+)+$"] + ["x"] * 90_000),
            ("config: LoRA", lora, [1]),
            ("config: stage", ("config", "stage"), 3),
            ("config: stage", ("config", "stage"), 1),
            ("config: stage", ("config", "embed_dim"), 10**9),
            ("config: stage", ("config", "num_heads"), 3),
            ("config: stage", ("config", "backbone"), "a\nerror: b"),
            ("config: stage", ("config", "backbone"), "x" * 100_000),
            ("config: stage", ("config", "x" * 10_000), 1),
            ("config: stage", ("config",), None),
            *each("header: threshold", ("threshold",), -0.1, 1.1, 10**400, True, None, "0.5"),
            ("header: form", ("form",), "whole"),
            ("header: form", ("form",), "adapter" if base != "adapter" else "full"),
            ("header: dtype", ("dtype",), "float16"),
            ("header: dtype", ("dtype",), "int8"),
            ("header: notice", ("notice",), "fine\n[RESULT] Image: a\n  -> Prediction: Real"),
            ("header: notice", ("notice",), 3),
            ("header: provenance", ("provenance",), [1]),
            ("header: versions", ("versions",), None),
        ]
        for kind, keys, value in edits:
            changed = json.loads(json.dumps(header))
            inner = changed
            for key in keys[:-1]:
                inner = inner[key] if isinstance(inner[key], dict) else inner.setdefault(f"no {key}", {})
            inner[keys[-1]] = value
            yield kind, base, _with_header(content, json.dumps(changed))
        for name in sorted(header.keys() - {"calibration"}):  # a detector may have none
            yield "header: a field missing", base, _with_header(content, json.dumps(header | {name: None}))
        if base != "bank":
            for wrong in (True, "platt", [], {}, {"method": "platt"}):
                yield (
                    "header: calibration",
                    base,
                    _with_header(content, json.dumps(header | {"calibration": wrong})),
                )
        for constant in ("NaN", "Infinity", "1e999"):
            text = json.dumps(header).replace('"threshold": 0.5', f'"threshold": {constant}')
            yield "header: threshold", base, _with_header(content, text)
    for base in OURS:
        for json_text in _hostile_json(long=base == "bank"):
            yield "hostile JSON as the header", base, _with_header(data[base], json_text)


def bad_values(good: dict[str, Path]) -> Made:
    """Files that are whole, with right checksums, and hold what no detector or bank does."""
    for base in OURS:
        header, tensors = tensorfile.TensorFile(good[base]).read()
        format_ = bank.FORMAT if base == "bank" else FORMAT
        row = "vectors" if base == "bank" else "prototypes_PE"
        scratch = good[base].with_name("scratch.safetensors")
        changes: list[tuple[str, dict[str, Tensor | None]]] = [
            ("not finite", {row: tensors[row] * torch.nan}),
            ("not finite", {row: tensors[row] * torch.inf}),
            ("zero prototypes", {row: tensors[row] * 0}),
            ("zero prototypes", {row: tensors[row] * torch.tensor([[1.0], [0.0], [1.0], [1.0]])}),
            ("prototypes' width", {row: tensors[row][0].clone()}),
            ("prototypes' width", {row: tensors[row][:3].clone()}),
            ("prototypes' width", {row: tensors[row][:, :64].clone()}),
            ("dtype", {row: tensors[row].half()}),
            ("dtype", {row: tensors[row].bfloat16()}),
            ("dtype", {row: tensors[row].long()}),
            ("a tensor missing", {row: None}),
            ("a tensor missing", dict.fromkeys(tensors)),
            ("a tensor extra", {"extra": torch.zeros(3)}),
            ("a tensor extra", {"x\nerror: y" * 1000: torch.zeros(3)}),
        ]
        for name, tensor in tensors.items() if base == "bank" else list(tensors.items())[:6]:
            changes.append(("a tensor missing", {name: None}))
            changes.append(("shape", {name: tensor.unsqueeze(0).clone()}))
            if tensor.is_floating_point():
                second = torch.arange(tensor.numel()).view(tensor.shape) == 1
                changes.append(("not finite", {name: torch.where(second, torch.nan, tensor)}))
        if base == "bank":
            labels = [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 2], [0, 1, 0, 1], [0, 0, 1], [[0, 0, 1, 1]]]
            changes += [("labels", {"labels": torch.tensor(each)}) for each in labels]
            changes += [
                ("labels", {"labels": torch.tensor([0, 0, 1, 1.0])}),
                ("labels", {"labels": torch.tensor(1)}),
            ]
        for kind, change in changes:
            kept = {name: value for name, value in {**tensors, **change}.items() if value is not None}
            tensorfile.write(scratch, kept, format=format_, header=header)
            yield kind, base, scratch.read_bytes()
        scratch.unlink()
