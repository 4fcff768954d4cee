"""Files of weights that are damaged or hostile, made anew from small sound ones, the same for the same seed.

A `Case` says what kind of damage its file has, and which sound file it was made of: `load` reads both alike.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from files import tensorfile
from models.backbone import TINY, fingerprint, load_backbone
from models.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint
from models.config import DetectorConfig, LoraSpec, PixelSpec, TowerSpec
from models.detector import build_detector
from models.official import release_pixels, to_official
from models.tower import VisionTower
from prototype import bank
from prototype.bank import PrototypeBank

IMAGE = Path(__file__).resolve().parent.parent / "assets" / "test_image.jpg"
SPEC = TowerSpec(64, 64, 2, 1, image_size=32, patch_size=8)
LORA = LoraSpec(rank=2, alpha=4)
EMBED_DIM, NUM_PROTOTYPES = 128, 4
SUFFIXES = {"official": ".pt", "trainer": ".pt", "stage1": ".pt", "prototypes": ".pt"}
ZIPS, OURS = tuple(SUFFIXES), ("full", "merged", "adapter", "bank")

Change = Callable[[dict[str, Any]], object]
Made = Iterator[tuple[str, str, bytes]]  # kind, base, content


@dataclass(frozen=True)
class Case:
    """A hostile file: the kind of its damage, the sound file it was made of, and where it is."""

    kind: str
    base: str
    path: Path


def load(base: str, path: Path) -> dict[str, Tensor]:
    """All tensors of what a file made of the sound one called `base` is read as."""
    if base in ("bank", "prototypes"):
        read = PrototypeBank.load(path)
        return {"vectors": read.vectors_PE, "labels": read.labels_P}
    projection = base == "stage1"
    found = load_checkpoint(
        path, allow_tiny=True, allow_projection=projection, backbone=TINY if projection else None
    )
    return {
        name: tensor for name, tensor in found.detector.state_dict().items() if not projection or "proj" in name
    }


def good_files(folder: Path) -> dict[str, Path]:
    """Sound files of every form, each with random weights."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {base: folder / f"{base}{SUFFIXES.get(base, '.safetensors')}" for base in (*ZIPS, *OURS)}
    half_PE = torch.linalg.qr(torch.randn(EMBED_DIM, NUM_PROTOTYPES))[0].T.contiguous()
    released = _checkpoint("", SPEC, release_pixels(SPEC.image_size), VisionTower(SPEC))
    theirs = to_official(released.config, released.detector.state_dict())
    torch.save(theirs, paths["official"])
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}},
        "param_groups": [{"lr": 0.1}],
    }
    resumed = {"optimizer": optimizer, "epoch": 3, "scheduler": {"last_epoch": 3, "betas": (0.9, 0.999)}}
    torch.save({"model": theirs["model"], "propVec": theirs["prototype"], **resumed}, paths["trainer"])
    torch.save(torch.randn(EMBED_DIM, 32), paths["stage1"])
    torch.save(half_PE, paths["prototypes"])
    save_checkpoint(paths["full"], replace(released, form="full"))
    save_checkpoint(paths["merged"], replace(released, form="merged"), dtype="bfloat16")
    tiny = load_backbone(TINY)
    save_checkpoint(paths["adapter"], _checkpoint(TINY, tiny.tower.spec, tiny.pixel, tiny.tower))
    labels_P = torch.arange(2).repeat_interleave(NUM_PROTOTYPES // 2)
    PrototypeBank(half_PE, labels_P, {"method": "kmeans", "seed": 0}).save(paths["bank"])
    return paths


def _checkpoint(name: str, spec: TowerSpec, pixel: PixelSpec, tower: VisionTower) -> Checkpoint:
    found = fingerprint(tower.state_dict())
    config = DetectorConfig(2, name, spec, pixel, num_prototypes=NUM_PROTOTYPES, lora=LORA)
    detector = build_detector(config, tower)
    with torch.no_grad():
        for key, tensor in detector.state_dict().items():
            if not key.startswith("tower.") or ".lora_" in key:
                tensor.normal_(0, 0.3)
    return Checkpoint(detector.eval(), config, found)


def hostile_files(good: dict[str, Path], folder: Path, marker: Path, *, seed: int = 0) -> Iterator[Case]:
    """Every hostile file in turn, in `folder`; each is removed when the next is asked for.

    marker: what the code in some of them would create, if it were run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    data = {base: path.read_bytes() for base, path in good.items()}
    for makers in (
        _truncated(data, rng),
        _flipped(data, rng),
        _strangers(data, rng),
        *(_tables(base, data[base]) for base in OURS),
        _headers(data),
        _values(good),
        _saved_by_torch(good),
        _code(good, marker),
        _pickle_bombs(),
        _archives(data),
    ):
        for number, (kind, base, content) in enumerate(makers):
            path = folder / f"{base}-{kind.replace(' ', '-')}-{number}{good[base].suffix}"
            path.write_bytes(content)
            yield Case(kind, base, path)
            path.unlink()
    yield from _no_files(folder)


def flipped_anywhere(good: dict[str, Path], folder: Path, count: int, *, seed: int = 0) -> Iterator[Case]:
    """Every sound file with one bit turned at a place chosen among all of its bits, `count` times a form."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for base, path in good.items():
        content = path.read_bytes()
        damaged = folder / path.name
        for _ in range(count):
            damaged.unlink(missing_ok=True)  # a file that is mapped must not be written over
            damaged.write_bytes(_flip(content, rng.randrange(len(content)), rng))
            yield Case("a bit anywhere", base, damaged)


# ---------------------------------------------------------------------------------------------------------
# Damage


def _flip(content: bytes, place: int, rng: random.Random) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def _truncated(data: dict[str, bytes], rng: random.Random) -> Made:
    for base, content in data.items():
        cuts = {
            0,
            1,
            4,
            7,
            8,
            9,
            len(content) - 1,
            len(content) - 22,
            len(content) - 98,
            rng.randrange(len(content)),
        }
        if base in ZIPS:
            places = _places(content)
            some = rng.sample(places, min(len(places), 5))
            cuts |= {place for each in some for place in (each.header, each.start, each.end)}
            cuts |= {_list_start(content), _list_start(content) + 46}
        else:
            start, table = _split(content)
            ends = [start + entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
            cuts |= {start - 1, start, start // 2, *rng.sample(ends, min(len(ends), 5))} - {len(content)}
        yield from (("truncated", base, content[:cut]) for cut in sorted(cuts))


def _flipped(data: dict[str, bytes], rng: random.Random) -> Made:
    """Single bits, where every one of them counts."""
    for base, content in data.items():
        for name, places in (_zip_regions if base in ZIPS else _table_regions)(content).items():
            for place in rng.sample(places, min(len(places), 8)):
                yield f"a bit of the {name}", base, _flip(content, place, rng)


def _table_regions(content: bytes) -> dict[str, Sequence[int]]:
    start, _ = _split(content)
    text_end = len(content[:start].rstrip())
    return {"length": range(8), "header": range(8, text_end), "data": range(start, len(content))}


def _zip_regions(content: bytes) -> dict[str, Sequence[int]]:
    """Not in it: times, versions and padding, which nobody reads."""
    every, entries = _places(content), _entries(content)
    return {
        "data": [place for each in every for place in range(each.start, each.end)],
        "pickle": range(every[0].start, every[0].end),
        "local headers": [each.header + i for each in every for i in range(14, 26)],
        "local names": [each.header + 30 + i for each in every for i in range(each.name)],
        "descriptors": [each.end + i for each in every for i in range(16)],
        "list of records": [entry + i for entry in entries for i in (*range(16, 28), *range(42, 46))],
        "list of names": [entry + 46 + i for entry in entries for i in range(8)],
    }


def _strangers(data: dict[str, bytes], rng: random.Random) -> Made:
    others = {
        "empty": b"",
        "a text": b"<html><title>404</title></html>\n" * 40,
        "an image": IMAGE.read_bytes(),
        "noise": rng.randbytes(5000),
        "zeros": bytes(5000),
        "line feeds": b"\n" * 5000,
        "another zip": _zip({"a.txt": b"a"}),
    }
    for kind, content in others.items():
        for base in data:
            yield f"no weights: {kind}", base, content
    for base, content in data.items():
        for number in (2**63, 2**64 - 1, 2**31, 100_000_001, len(content), 1, 0) if base in OURS else ():
            yield "header's length", base, struct.pack("<Q", number) + content[8:]
    for base, other in (("official", "bank"), ("full", "bank"), ("bank", "full"), ("prototypes", "official")):
        yield "another kind of ours", base, data[other]


def _no_files(folder: Path) -> Iterator[Case]:
    for base in ("official", "bank"):
        path = folder / f"{base}-place"
        yield Case("no file", base, path)
        path.mkdir()
        yield Case("a folder", base, path)
        path.rmdir()
        os.mkfifo(path)
        yield Case("a FIFO", base, path)
        path.unlink()
        path.symlink_to(path)
        yield Case("a symlink loop", base, path)
        path.unlink()
        path.symlink_to("/dev/zero")
        yield Case("a device", base, path)
        path.unlink()


# ---------------------------------------------------------------------------------------------------------
# Our own format


def _split(content: bytes) -> tuple[int, dict[str, Any]]:
    """(where the tensors begin, the table)"""
    start = 8 + int.from_bytes(content[:8], "little")
    return start, json.loads(content[8:start])


def _join(table: dict[str, Any] | str, data: bytes) -> bytes:
    text = (table if isinstance(table, str) else json.dumps(table)).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _changed(content: bytes, change: Change) -> bytes:
    """With another table of tensors."""
    start, table = _split(content)
    change(table)
    return _join(table, content[start:])


def _with_header(content: bytes, header: str) -> bytes:
    """With another header of ours, and its right checksum."""

    def change(table: dict[str, Any]) -> None:
        crc32 = str(zlib.crc32(header.encode("utf-8", "surrogatepass")))
        table["__metadata__"] |= {"header": header, "header_crc32": crc32}

    return _changed(content, change)


def _tables(base: str, content: bytes) -> Made:
    start, table = _split(content)
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


def _headers(data: dict[str, bytes]) -> Made:
    def each(kind: str, keys: tuple[str, ...], *values: Any) -> list[tuple[str, tuple[str, ...], Any]]:
        return [(kind, keys, value) for value in values]

    for base in ("full", "merged", "adapter"):
        content = data[base]
        header = json.loads(_split(content)[1]["__metadata__"]["header"])
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
        for name in header:
            yield "header: a field missing", base, _with_header(content, json.dumps(header | {name: None}))
        for constant in ("NaN", "Infinity", "1e999"):
            text = json.dumps(header).replace('"threshold": 0.5', f'"threshold": {constant}')
            yield "header: threshold", base, _with_header(content, text)
    for base in OURS:
        for json_text in _hostile_json(long=base == "bank"):
            yield "hostile JSON as the header", base, _with_header(data[base], json_text)


def _values(good: dict[str, Path]) -> Made:
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


# ---------------------------------------------------------------------------------------------------------
# The authors' forms, written by torch


def _saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def _saved_by_torch(good: dict[str, Path]) -> Made:
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


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _storage(key: str = "0", numel: int = EMBED_DIM * 32, kind: str = "FloatStorage") -> bytes:
    names = _text(key), _text("cpu")
    return _tuple(_text("storage"), f"ctorch\n{kind}\n".encode(), *names, _number(numel)) + b"Q"


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
    sides = _tuple(*map(_number, shape)), _tuple(*map(_number, strides))
    return REBUILD + _tuple(storage or _storage(), _number(offset), *sides, b"\x89", hooks) + b"R"


def _zip(records: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
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
    return _zip({f"archive/{name}": value for name, value in content.items()}, method=method)


SOUND = _tensor((EMBED_DIM, 32), (32, 1))


@dataclass(frozen=True)
class _Runs:
    """Its pickle creates the marker when it is obeyed."""

    marker: str

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({self.marker!r}, 'w').close()",)


def _code(good: dict[str, Path], marker: Path) -> Made:
    runs = _Runs(str(marker))
    source = _text(runs.__reduce__()[1][0])
    for protocol in range(6):
        yield "code: a bare pickle", "official", pickle.dumps(runs, protocol)
        yield "code: a bare pickle", "bank", pickle.dumps({"model": runs}, protocol)
        dumped = pickle.dumps(runs, protocol)
        yield "code: in the zip", "stage1", crafted(dumped[2 if protocol > 1 else 0 : -1])
        yield "code: in the zip", "prototypes", _zip({"archive/data.pkl": dumped, "archive/version": b"3\n"})
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
        + _tuple(_storage(), _number(0), _tuple(_number(10**9)), _tuple(_number(1)))
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


def _pickle_bombs() -> Made:
    number = _number(EMBED_DIM * 32)
    matrix = (EMBED_DIM, 32), (32, 1)
    doubling = b")q\x00" + b"h\x00\x86q\x00" * 60
    pair = _tuple(_text("a"), _number(1))
    keys = b"".join(_text(str(i)) + b"N" for i in range(20_000))
    again = REBUILD + b"q\x00" + SOUND[len(REBUILD) : -1] + b"q\x01R" + b"h\x00h\x01R" * 48_000

    def sides(shape: bytes, strides: bytes) -> bytes:
        return REBUILD + _tuple(_storage(), _number(0), _tuple(shape), _tuple(strides), b"\x89", HOOKS) + b"R"

    def asked(*identity: bytes) -> bytes:
        return _tuple(_text("storage"), *identity, _text("cpu"), number) + b"Q"

    bombs = {
        "bytearray": b"c__builtin__\nbytearray\n" + _number(10**12) + b"\x85R",
        "million dictionaries": b"}" * 1_000_000,
        "many dictionaries": b"(" + b"}" * 145_000 + b"t",
        "many lists": _tuple(b"]" * 145_000),
        "many tensors": _tuple(again),
        "many marks": b"(" * 145_000,
        "many numbers": _tuple(*(b"M" + struct.pack("<H", 300 + i % 60_000) for i in range(145_000))),
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


# ---------------------------------------------------------------------------------------------------------
# Archives


@dataclass(frozen=True)
class _Place:
    """Of a record: its local header, the bytes of its name, and its own bytes."""

    header: int
    name: int
    start: int
    end: int


def _places(content: bytes) -> list[_Place]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        places = []
        for info in archive.infolist():
            name, extra = struct.unpack_from("<2H", content, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            places.append(_Place(info.header_offset, name, start, start + info.file_size))
        return places


def _list_start(content: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.start_dir


def _entries(content: bytes) -> list[int]:
    """Where each record's entry in the list begins."""
    entries, position = [], _list_start(content)
    while content[position : position + 4] == b"PK\x01\x02":
        entries.append(position)
        position += 46 + sum(struct.unpack_from("<3H", content, position + 28))
    return entries


def _archives(data: dict[str, bytes]) -> Made:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield "zip: compressed", "stage1", crafted(SOUND, method=method)
        bomb = bytes(16 << 20)
        yield "zip: compressed", "stage1", crafted(SOUND, {"data/1": bomb}, method=method)
    other = {"code.pkl": b"N.", "sub/data.pkl": b"\x80\x02N."}
    for name in ("data/0", "data.pkl", "version"):
        twice = crafted(SOUND, {name[:-1] + "_": b"\x80\x02N."})
        yield "zip: two of a name", "stage1", twice.replace(name[:-1].encode() + b"_", name.encode())
    sound = crafted(SOUND)
    version = sound[sound.index(b"PK\x03\x04", sound.index(b"archive/data/0")) : _list_start(sound)]
    inside = bytearray(crafted(SOUND, {"data/0": version + bytes(4 * EMBED_DIM * 32 - len(version))}))
    struct.pack_into("<I", inside, _entries(bytes(inside))[3] + 42, inside.index(version))
    yield "zip: overlapping", "stage1", bytes(inside)
    yield "zip: two folders", "stage1", _zip({"a/data.pkl": b"\x80\x02N.", "b/data.pkl": b"\x80\x02N."})
    yield "zip: no folder", "stage1", _zip({"data.pkl": b"\x80\x02N."})
    yield "zip: no pickle", "stage1", _zip({"archive/version": b"3\n", **other})
    yield "zip: no records", "stage1", b"PK\x03\x04" + bytes(200) + b"PK\x05\x06" + bytes(18)
    for base in ZIPS:
        content = data[base]
        entries, places = _entries(content), _places(content)
        last = len(entries) - 2

        def edited(place: int, layout: str, *values: int, content: bytes = content) -> bytes:
            changed = bytearray(content)
            struct.pack_into(layout, changed, place, *values)
            return bytes(changed)

        entry = entries[last]
        size = places[last].end - places[last].start
        yield "zip: overlapping", base, edited(entry + 42, "<I", places[0].header)
        yield "zip: overlapping", base, edited(entries[1] + 42, "<I", places[2].header)
        yield "zip: too long", base, edited(entry + 20, "<2I", size + 1, size + 1)
        yield "zip: too long", base, edited(entry + 20, "<2I", size + 4096, size + 4096)
        yield "zip: too long", base, edited(entry + 20, "<2I", 2**31, 2**31)
        yield "zip: too long", base, edited(entry + 20, "<2I", size, 2**31)
        yield "zip: too long", base, edited(entry + 20, "<2I", 2**32 - 1, 2**32 - 1)
        yield "zip: too short", base, edited(entry + 20, "<2I", max(size - 4, 0), max(size - 4, 0))
        yield "zip: compressed", base, edited(entry + 10, "<H", 8)
        yield "zip: compressed", base, edited(entry + 10, "<H", 99)
        yield "zip: encrypted", base, edited(entry + 8, "<H", 0x809)
        yield "zip: encrypted", base, edited(places[0].header + 6, "<H", 0x809)
        pickle_name = content[places[0].header + 30 :][: places[0].name]
        yield "zip: another name", base, content.replace(pickle_name, pickle_name[:-1] + b"\0")
        yield "zip: another name", base, content.replace(pickle_name, b"/" + pickle_name[1:], 1)
        yield "zip: end", base, content + b"\0"
        yield "zip: end", base, content + content[-22:]
        yield "zip: end", base, content + content
        yield "zip: end", base, edited(len(content) - 2, "<H", 5) + b"abcde"
        yield "zip: end", base, edited(len(content) - 2, "<H", min(len(content), 65_535)) + content[-65_535:]
        yield "zip: end", base, edited(len(content) - 34, "<Q", len(content) - 99)
        yield "zip: end", base, edited(len(content) - 58, "<2Q", 2**62, 2**62)
        yield "zip: end", base, edited(len(content) - 58, "<2Q", 46, _list_start(content))
        yield "zip: start", base, b"PK\x03\x04" + content
        yield "zip: start", base, content[:4] + bytes(60) + content[4:]
    start = b"PK\x03\x04" + bytes(60)
    for count in (20_000, 40_000):
        listed = (b"PK\x01\x02" + bytes(42)) * count
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), len(start), 0)
        yield "zip: many records", "stage1", start + bytes(100) + listed + end
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), len(start) + 100, 0)
        yield "zip: many records", "stage1", start + bytes(100) + listed + end
    records = {f"data/{i}": b"" for i in range(1, 4950)}
    again = REBUILD + b"q\x00" + SOUND[len(REBUILD) : -1] + b"q\x01R" + b"h\x00h\x01R" * 19_000
    yield "zip: many records", "stage1", crafted(_tuple(again), records)
    yield "zip: many records", "stage1", crafted(SOUND, {f"data/{i}": b"" for i in range(1, 5100)})
