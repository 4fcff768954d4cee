"""Files of weights from anywhere: each is read as what was written, or refused in one line, and runs no code."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished
from safetensors.torch import save_file
from torch import Tensor

from gapl.calibration import Calibration
from gapl.config import DetectorConfig, LoraSpec, TowerSpec
from gapl.lora import is_lora
from gapl.names import DETECTOR_FILE, TINY
from models.detector import build_detector
from models.tower import VisionTower
from models.weights.backbone import fingerprint
from models.weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, store_calibration
from models.weights.released import released_pixels, to_released
from prototype.bank import PrototypeBank

PROJECT = Path(__file__).resolve().parent.parent
IMAGE = PROJECT / "assets" / "test_image.jpg"
MAX_LINE = 400
FLIPS = 100  # a file
PICKLED = ("released.pt", "stage1.pt", "prototypes.pt")
TOWER = TowerSpec(64, 64, 2, 1, image_size=32, patch_size=8)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small sound files, with random weights: three of torch.save, and three of ours."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("good")
    tower = VisionTower(TOWER)
    config = DetectorConfig(2, "", TOWER, released_pixels(32), num_prototypes=4, lora=LoraSpec(rank=2, alpha=4))
    print_of_tower = fingerprint(tower.state_dict())
    detector = build_detector(config, tower).eval()
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if not name.startswith("tower.") or is_lora(name):
                tensor.normal_(0, 0.3)
    torch.save(to_released(config, detector.state_dict()), folder / "released.pt")
    torch.save(torch.randn(128, 32), folder / "stage1.pt")
    rows_PE = torch.linalg.qr(torch.randn(128, 4))[0].T.contiguous()
    torch.save(rows_PE, folder / "prototypes.pt")
    for form in ("full", "merged"):
        checkpoint = Checkpoint(detector=detector, config=config, backbone_fingerprint=print_of_tower, form=form)
        save_checkpoint(folder / f"{form}.safetensors", checkpoint)
    PrototypeBank(rows_PE, torch.tensor([0, 0, 1, 1])).save(folder / "bank.safetensors")
    return {path.name: path for path in folder.iterdir()}


def load(kind: str, path: Path) -> dict[str, Tensor]:
    """Read a file as one of the sound files called `kind` is read: all its tensors."""
    if kind in ("bank.safetensors", "prototypes.pt"):
        return {"vectors": PrototypeBank.load(path).vectors_PE}
    is_stage1 = kind == "stage1.pt"
    loaded = load_checkpoint(
        path, allow_tiny=True, allow_projection=is_stage1, backbone=TINY if is_stage1 else None
    )
    state = loaded.detector.state_dict()
    return {"project.weight": state["project.weight"]} if is_stage1 else state


def refused(kind: str, path: Path, match: str | None = None) -> None:
    """Check that the file is refused in one line that names it."""
    with pytest.raises(ValueError, match=match) as caught:
        load(kind, path)
    line = str(caught.value)
    assert str(path) in line
    assert line.isprintable()
    assert len(line) < MAX_LINE


KINDS = (*PICKLED, "full.safetensors", "merged.safetensors", "bank.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_file_is_read(kind: str, good: dict[str, Path]) -> None:
    tensors = load(kind, good[kind])
    assert tensors
    assert all(tensor.isfinite().all() for tensor in tensors.values())


# ---------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused(kind: str, good: dict[str, Path], tmp_path: Path) -> None:
    content = good[kind].read_bytes()
    for size in (0, 1, 4, 9, len(content) // 3, len(content) // 2, len(content) - 30, len(content) - 1):
        path = tmp_path / kind
        path.unlink(missing_ok=True)
        path.write_bytes(content[:size])
        refused(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_or_changes_nothing(kind: str, good: dict[str, Path], tmp_path: Path) -> None:
    """Of a zip archive, some bytes mean nothing: times, versions, padding."""
    rng, content, expected = random.Random(0), good[kind].read_bytes(), load(kind, good[kind])
    num_refused = 0
    for number in range(FLIPS):
        place = rng.randrange(len(content))
        path = tmp_path / f"{number}-{kind}"  # a file that is mapped must not be written over
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            found = load(kind, path)
        except ValueError:
            num_refused += 1
            continue
        assert found.keys() == expected.keys()
        assert all(found[name].numpy().tobytes() == expected[name].numpy().tobytes() for name in found)
    assert num_refused > FLIPS / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_of_a_tensor_is_named(kind: str, good: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(good[kind].read_bytes())
    marker = next(iter(load(kind, good[kind]).values())).numpy().tobytes()[:12]
    if kind == "merged.safetensors":
        marker = bytes(content[-40:-28])
    elif kind.startswith("released"):
        marker = torch.load(good[kind], weights_only=True)["prototype"].numpy().tobytes()[:12]
    content[content.index(marker) + 5] ^= 1
    (tmp_path / kind).write_bytes(content)
    refused(kind, tmp_path / kind, match="damaged: the checksum of ")


# ---------------------------------------------------------------------------------------------------------
# Pickles


@dataclass(frozen=True)
class Runs:
    """An object whose pickle creates a file when it is obeyed."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def saved(data: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(data, stream, **options)
    return stream.getvalue()


def archive_of(records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def records_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def legacy_tar(pickled: bytes) -> bytes:
    """A file of the first versions of torch."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(pickled)
            archive.addfile(entry, io.BytesIO(pickled))
    return stream.getvalue()


NEVER_READ = "without torch.save's zip archive, which could run code and is never read"
ASKS_FOR_CODE = "its pickle asks for 'exec', which is no tensor: it could run code, and was not run"
RUNNING: dict[str, tuple[Callable[[Runs], bytes], str]] = {
    "bare": (lambda runs: pickle.dumps({"model": runs}), NEVER_READ),
    "bare, protocol 0": (lambda runs: pickle.dumps({"model": runs}, 0), "damaged, or no safetensors file"),
    "torch's first form": (lambda runs: saved({"model": runs}, _use_new_zipfile_serialization=False), NEVER_READ),
    "a tar archive": (lambda runs: legacy_tar(pickle.dumps(runs)), "damaged, or no safetensors file"),
    "in the zip": (lambda runs: saved(runs), ASKS_FOR_CODE),
    "nested": (lambda runs: saved({"model": {}, "optimizer": {"state": {0: [1, (2, runs)]}}}), ASKS_FOR_CODE),
    "of protocol 4": (lambda runs: saved({"model": runs}, pickle_protocol=4), "has more than tensors"),
    "TorchScript": (
        lambda runs: archive_of({"a/data.pkl": pickle.dumps(runs), "a/constants.pkl": b"\x80\x02)."}),
        "torch.load refuses it",
    ),
}


@pytest.mark.parametrize("way", RUNNING)
def test_a_pickle_that_would_run_code_is_refused_and_not_run(way: str, tmp_path: Path) -> None:
    make, message = RUNNING[way]
    marker, path = tmp_path / "marker", tmp_path / "detector.pt"
    content = make(Runs(marker))
    pickle.loads(pickle.dumps(Runs(marker)))  # it would run code
    marker.unlink()
    path.write_bytes(content)
    refused("released.pt", path, match=message)
    refused("prototypes.pt", path, match=message)
    assert not marker.exists()


def test_an_archive_that_torch_never_writes_is_refused(good: dict[str, Path], tmp_path: Path) -> None:
    records = records_of(good["stage1.pt"].read_bytes())
    folder = next(iter(records)).partition("/")[0]
    twice = archive_of(records | {f"{folder}/data/1": b"abcd"}).replace(b"/data/1", b"/data/0")
    large = {**records, f"{folder}/data.pkl": bytes(2**20 + 1)}
    hostile = {
        "two records of its zip archive have one name": twice,
        "is compressed, which torch.save never does": archive_of(records, zipfile.ZIP_DEFLATED),
        "its pickle has 1,048,577 bytes; a detector's is below 1,048,576": archive_of(large),
        "a zip archive, but not one of torch.save": archive_of({"a.txt": b"a"}),
    }
    for number, (message, content) in enumerate(hostile.items()):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        refused("stage1.pt", path, match=message)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(1).expand(10**6, 10**6), "is larger than its bytes"),  # 4 TB
        (torch.eye(32).to_sparse(), "is sparse"),
        (torch.ones(32, 32).double(), "is of type torch.float64; expected torch.float32"),
        (torch.ones(32), "stage 1's projection and prototypes have two sides"),
    ],
    ids=["stride 0", "sparse", "double", "vector"],
)
def test_a_tensor_that_is_no_plain_matrix_is_refused(tensor: Tensor, message: str, tmp_path: Path) -> None:
    path = tmp_path / "stage1.pt"
    torch.save(tensor, path)
    refused("stage1.pt", path, match=message)


def test_protocol_warnings_of_torch_are_not_shown(
    good: dict[str, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "other.pt").write_bytes(saved(torch.load(good["stage1.pt"]), pickle_protocol=4))
    refused("stage1.pt", tmp_path / "other.pt")
    assert not recwarn.list


# ---------------------------------------------------------------------------------------------------------
# safetensors, and no weights at all


def test_a_safetensors_file_of_others_is_refused(good: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "others.safetensors"
    metadata: dict[str, dict[str, str] | None] = {
        "a safetensors file of the format 'of others'": None,
        "a safetensors file of the format 'gapl-prototypes-1'": {"format": "gapl-prototypes-1"},
        "without the header and the checksums": {"format": "gapl-detector-1"},
        "the checksum of the header": {
            "format": "gapl-detector-1",
            "header": "{}",
            "header_crc32": "1",
            "crc32": "{}",
        },
    }
    for message, given in metadata.items():
        path.unlink(missing_ok=True)
        save_file({"a": torch.zeros(3)}, path, given)
        refused("full.safetensors", path, match=message)
    refused("bank.safetensors", good["full.safetensors"], match="of the format 'gapl-detector-1'")


@pytest.mark.parametrize("kind", ["released.pt", "bank.safetensors"])
def test_what_holds_no_weights_is_refused(kind: str, tmp_path: Path) -> None:
    contents = {
        "text": b"<html><title>404</title></html>\n" * 40,
        "zeros": bytes(5000),
        "image": IMAGE.read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        refused(kind, tmp_path / name, match="damaged, or no safetensors file")
    refused(kind, tmp_path / "nowhere", match="no such file; expected ")
    refused(kind, tmp_path, match="a folder; expected ")
    os.mkfifo(tmp_path / "fifo")
    refused(kind, tmp_path / "fifo", match="not a regular file; expected ")


def test_a_name_of_any_length_and_characters_makes_one_short_line(good: dict[str, Path], tmp_path: Path) -> None:
    data = torch.load(good["released.pt"], weights_only=True)
    data["model"]["x\nerror: y\x1b[2J" * 1000] = torch.zeros(1)
    torch.save(data, tmp_path / "released.pt")
    refused("released.pt", tmp_path / "released.pt", match="is not part of a GAPL detector|expected a detector")


def test_a_released_file_cannot_hold_a_calibration(good: dict[str, Path], tmp_path: Path) -> None:
    calibration = Calibration(
        "temperature", 1.0, 0.0, {"balanced": 0.5}, 0.4, 0.6, 0.05, 10, 10, 0.1, 0.1, "0" * 64
    )
    with pytest.raises(ValueError, match="cannot hold a calibration; convert it"):
        store_calibration(good["released.pt"], calibration, out=tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_the_command_line_refuses_in_one_line(good: dict[str, Path], tmp_path: Path) -> None:
    """Nothing else is written: no traceback, no warning of torch, no second line."""
    path = tmp_path / "detector.pt"
    path.write_bytes(saved({"model": Runs(tmp_path / "marker")}))
    command = [sys.executable, PROJECT / "inference.py", "--model_path", path, "--image_path", IMAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    error = Finished(done.returncode, done.stdout, done.stderr).only_error()
    assert error == f"error: {path}: {ASKS_FOR_CODE}; expected {DETECTOR_FILE}"
    assert not (tmp_path / "marker").exists()
