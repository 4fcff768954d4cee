"""Detector files: what is saved comes back to the bit, what does not fit is named, nothing is half written."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gapl.config import DetectorConfig, LoraSpec
from gapl.lora import merge_lora
from gapl.names import DETECTOR_FILE, FORMS, TINY
from gapl.pixels import PixelSpec
from models import tensorfile
from models.detector import build_detector
from models.weights import checkpoint as checkpoint_module
from models.weights.backbone import Backbone, architecture, fingerprint, load_backbone
from models.weights.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint
from models.weights.tensors import expected_shapes
from prototype.bank import PrototypeBank

PIXEL = PixelSpec(size_px=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), small_image="resize")


def make_checkpoint(stage: int, *, seed: int = 0) -> Checkpoint:
    """A detector whose every trained weight is random, LoRA's too."""
    tower = load_backbone(TINY).tower
    print_of_tower = fingerprint(tower.state_dict())
    config = DetectorConfig(stage, TINY, architecture(TINY), PIXEL)
    if stage == 2:
        config = replace(config, num_prototypes=6, lora=LoraSpec(rank=2, alpha=3, dropout=0.2))
    detector = build_detector(config, tower).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if not name.startswith("tower.") or ".lora_" in name:
                tensor.normal_(0, 0.3, generator=generator)
    provenance = {"recipe": {"lr": 1e-4}, "data": {"paths": ["a", "b"]}}
    return Checkpoint(
        detector=detector,
        config=config,
        backbone_fingerprint=print_of_tower,
        threshold=0.4,
        notice="a notice",
        provenance=provenance,
    )


def logits(checkpoint: Checkpoint) -> Tensor:
    pixels_BCHW = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logit_B: Tensor = checkpoint.detector.eval()(pixels_BCHW).logit_B
    return logit_B


def merged(checkpoint: Checkpoint) -> Checkpoint:
    """The same network without LoRA, in memory."""
    config = replace(checkpoint.config, lora=None)
    detector = build_detector(config, load_backbone(TINY).tower)
    detector.load_state_dict(merge_lora(checkpoint.detector.state_dict(), checkpoint.config.lora or LoraSpec()))
    return replace(checkpoint, detector=detector, config=config)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A stage-2 detector file in the form `adapter`."""
    path = tmp_path / "detector.safetensors"
    save_checkpoint(path, make_checkpoint(2))
    return path


def load(path: Path, *, merge: bool = False) -> Checkpoint:
    return load_checkpoint(path, merge=merge, allow_tiny=True)


def rewrite(
    path: Path,
    *,
    tensors: Callable[[dict[str, Tensor]], Any] = len,
    header: Callable[[dict[str, Any]], Any] = len,
) -> None:
    """Changes a detector file: the functions alter the dictionaries that they are given."""
    found_header, found_tensors = tensorfile.read(path, format=FORMAT)
    tensors(found_tensors)
    header(found_header)
    tensorfile.write(path, found_tensors, format=FORMAT, header=found_header)


# ---------------------------------------------------------------------------------------------------------
# There and back


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", [1, 2])
def test_logits_come_back_to_the_bit(stage: int, form: str, tmp_path: Path) -> None:
    original = replace(make_checkpoint(stage), form=form)
    save_checkpoint(tmp_path / "new folder" / "detector.safetensors", original)
    loaded = load(tmp_path / "new folder" / "detector.safetensors")
    expected_B = logits(merged(original) if form == "merged" else original)
    assert expected_B.std() > 1e-4
    assert torch.equal(logits(loaded), expected_B)
    assert loaded.config == (replace(original.config, lora=None) if form == "merged" else original.config)
    assert not loaded.detector.training


@pytest.mark.parametrize("form", FORMS)
def test_file_describes_itself(form: str, tmp_path: Path) -> None:
    original = replace(make_checkpoint(2), form=form)
    save_checkpoint(tmp_path / "detector.safetensors", original)
    loaded = load(tmp_path / "detector.safetensors")
    for name in ("backbone_fingerprint", "threshold", "notice", "provenance", "form"):
        assert getattr(loaded, name) == getattr(original, name)
    assert {"python", "torch", "transformers"} <= set(loaded.versions)
    assert loaded.config.pixel == PIXEL


def test_merging_agrees_with_the_adapter(saved: Path) -> None:
    unmerged_B = logits(load(saved))
    assert (logits(load(saved, merge=True)) - unmerged_B).abs().max() < 1e-5
    merged = replace(load(saved), form="merged")
    save_checkpoint(saved, merged)
    assert (logits(load(saved)) - unmerged_B).abs().max() < 1e-5


def test_full_file_holds_every_tensor_to_the_bit(tmp_path: Path) -> None:
    """LoRA stays apart from the weights that it updates, so that training can go on."""
    original = replace(make_checkpoint(2), form="full")
    save_checkpoint(tmp_path / "full.safetensors", original)
    found, expected = load(tmp_path / "full.safetensors").detector.state_dict(), original.detector.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_merged_tower_in_a_short_type_is_half_as_large_and_close(dtype: str, tmp_path: Path) -> None:
    original = replace(make_checkpoint(2), form="merged")
    long, short, again = (tmp_path / f"{name}.safetensors" for name in ("long", "short", "again"))
    save_checkpoint(long, original)
    save_checkpoint(short, original, dtype=dtype)
    tensors = tensorfile.read(short, format=FORMAT)[1]
    of_tower = {name for name in tensors if name.startswith("tower.")}
    assert {name for name, tensor in tensors.items() if tensor.dtype == getattr(torch, dtype)} == of_tower
    saved_bytes = 2 * sum(tensors[name].numel() for name in of_tower)
    assert abs(long.stat().st_size - short.stat().st_size - saved_bytes) < 100
    loaded = load(short)
    assert {tensor.dtype for tensor in loaded.detector.state_dict().values()} == {torch.float32}
    difference_B = (logits(loaded) - logits(original)).abs()
    assert 0 < difference_B.max() < 0.05 * logits(original).abs().max()
    save_checkpoint(again, loaded, dtype=dtype)
    again_tensors = tensorfile.read(again, format=FORMAT)[1]
    assert all(torch.equal(again_tensors[name], tensor) for name, tensor in tensors.items())


def test_weight_beyond_float16_is_refused_and_fits_bfloat16(tmp_path: Path) -> None:
    large, path = replace(make_checkpoint(1), form="merged"), tmp_path / "merged.safetensors"
    large.detector.tower.post_layernorm.bias.data[3] = 70_000
    with pytest.raises(ValueError, match=r"tensor 'tower\.post_layernorm\.bias' has values that are not finite"):
        save_checkpoint(path, large, dtype="float16")
    assert not list(tmp_path.iterdir())
    save_checkpoint(path, large, dtype="bfloat16")
    assert load(path).detector.tower.post_layernorm.bias[3] == pytest.approx(70_000, rel=0.01)


@pytest.mark.parametrize(("form", "dtype"), [("adapter", "bfloat16"), ("full", "float16"), ("merged", "float64")])
def test_only_a_merged_tower_can_be_short(form: str, dtype: str, tmp_path: Path) -> None:
    message = f"a {form} file cannot be of type {dtype}; only a merged one can be float32, bfloat16, float16"
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "detector.safetensors", replace(make_checkpoint(1), form=form), dtype=dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["full", "merged"])
def test_full_and_merged_files_need_no_backbone(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "detector.safetensors"
    save_checkpoint(path, replace(make_checkpoint(2), form=form))
    monkeypatch.setattr(checkpoint_module, "load_backbone", lambda name: pytest.fail(f"{name} was loaded"))
    assert load(path).form == form


def test_adapter_is_small_and_without_the_tower(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        sizes = {name: file.get_tensor(name).numel() for name in file.keys()}  # noqa: SIM118, not a dict
    of_tower = [name for name in sizes if name.startswith("tower.")]
    assert len(of_tower) == 12
    assert all(".lora_" in name for name in of_tower)
    assert "prototypes_PE" in sizes
    assert saved.stat().st_size < 4 * sum(sizes.values()) + 20_000


@pytest.mark.parametrize("form", ["adapter", "full"])
def test_merged_detector_can_only_be_saved_as_merged(saved: Path, form: str) -> None:
    """Its updates would be lost."""
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="only be saved as merged"):
        save_checkpoint(saved, replace(load(saved, merge=True), form=form))
    assert saved.read_bytes() == before


def test_adapter_of_a_tower_without_a_name_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(1)
    checkpoint.config = replace(checkpoint.config, backbone="")
    with pytest.raises(ValueError, match="this detector names none; save it as full or merged"):
        save_checkpoint(tmp_path / "detector.safetensors", checkpoint)
    save_checkpoint(tmp_path / "detector.safetensors", replace(checkpoint, form="full"))
    assert torch.equal(logits(load(tmp_path / "detector.safetensors")), logits(checkpoint))


def test_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown form 'whole'; choose from adapter, full, merged"):
        save_checkpoint(tmp_path / "detector.safetensors", replace(make_checkpoint(1), form="whole"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layers", [(), (1, 2)])
@pytest.mark.parametrize("targets", [(), ("q_proj", "k_proj", "v_proj"), ("out_proj", "fc1")])
def test_expected_shapes_are_those_of_the_modules(targets: tuple[str, ...], layers: tuple[int, ...]) -> None:
    lora = LoraSpec(rank=2, targets=targets, num_layers=1) if targets else None
    config = DetectorConfig(2, TINY, architecture(TINY), PIXEL, num_prototypes=6, lora=lora, feature_layers=layers)
    built = build_detector(config).state_dict()
    assert expected_shapes(config, "full") == {name: tensor.shape for name, tensor in built.items()}


# ---------------------------------------------------------------------------------------------------------
# What does not fit


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.pop(name)


def with_(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.update({name: value})


UPDATE = "tower.encoder.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("project.weight"), "tensor 'project.weight' is missing"),
        (without(UPDATE), f"tensor '{UPDATE}' is missing"),
        (with_("extra", torch.zeros(1)), "tensor 'extra' is not part of this detector"),
        (with_("classifier.weight", torch.zeros(1, 64)), r"'classifier.weight' has shape \(1, 64\), .*\(1, 128\)"),
        (
            with_("prototypes_PE", torch.zeros(5, 128)),
            r"'prototypes_PE' has shape \(5, 128\), expected \(6, 128\)",
        ),
        (lambda found: found.clear(), r"is missing \(and \d+ more\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(saved, tensors=change)
    with pytest.raises(ValueError, match=f"{message}; expected {DETECTOR_FILE}$") as caught:
        load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("form", ["full", "merged"])
def test_file_with_its_tower_is_read_as_strictly(form: str, tmp_path: Path) -> None:
    path = tmp_path / "detector.safetensors"
    save_checkpoint(path, replace(make_checkpoint(2), form=form))
    name = "tower.encoder.layers.1.mlp.fc1.bias"
    rewrite(path, tensors=without(name))
    with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
        load(path)


def test_adapter_of_other_backbone_weights_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = copy.deepcopy(load_backbone(TINY).tower)
    with torch.no_grad():
        tower.post_layernorm.bias[3] += 0.1
    monkeypatch.setattr(checkpoint_module, "load_backbone", lambda name: Backbone(name, tower, PIXEL))
    with pytest.raises(ValueError, match="belongs to other weights of tiny"):
        load(saved)


def test_tiny_is_refused_unless_allowed(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"detector\.safetensors: trained on the random `tiny` tower"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_("colour", 1), "unknown field 'colour' in DetectorConfig"),
        (without("stage"), "field 'stage' of DetectorConfig is missing"),
        (without("pixel"), "field 'pixel' of DetectorConfig is missing"),
        (lambda config: config["pixel"].update(zoom=2), "unknown field 'zoom' in PixelSpec"),
        (lambda config: config["pixel"].update(small_image="drop"), "pad or resize, not 'drop'"),
        (lambda config: config["lora"].update(bias=True), "unknown field 'bias' in LoraSpec"),
        (with_("feature_layers", [2, 1]), r"ascending numbers from 1 to 2, not \(2, 1\)"),
        (with_("feature_layers", [1, 3]), r"ascending numbers from 1 to 2, not \(1, 3\)"),
        (with_("feature_layers", [1, "2"]), r"feature_layers\[1\] cannot be '2'"),
        (with_("feature_layers", 2), "feature_layers is a list, not 2"),
    ],
)
def test_config_that_does_not_fit_is_named(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(saved, header=lambda header: change(header["config"]))
    with pytest.raises(ValueError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_("labels", {"real": 1, "fake": 0}), "its labels are .*; a detector's are "),
        (with_("threshold", 1.5), r"its threshold is 1\.5; a score is between 0 and 1"),
        (with_("dtype", "bfloat16"), "is of type torch.float32; expected torch.bfloat16"),
        (with_("form", "full"), "is missing"),
        (with_("form", "whole"), "unknown form 'whole'; choose from adapter, full, merged"),
        (with_("form", "released"), "its form is 'released'; expected adapter, full, merged"),
        (with_("dtype", "float8"), "its tower is of type 'float8'; expected float32"),
        (with_("notice", "two\nlines"), "its notice is not one printable line"),
        (with_("colour", 1), "unknown field 'colour' in DetectorInfo"),
        (without("backbone_fingerprint"), "field 'backbone_fingerprint' of DetectorInfo is missing"),
        (without("notice"), "field 'notice' of DetectorInfo is missing"),
        (without("threshold"), "field 'threshold' of DetectorInfo is missing"),
        (with_("versions", [1]), "versions is an object with names"),
        (without("labels"), "its labels are None"),
    ],
)
def test_header_that_does_not_fit_is_named(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(saved, header=change)
    with pytest.raises(ValueError, match=message):
        load(saved)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "eight bytes": lambda path: path.write_bytes(path.read_bytes()[:8]),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "text": lambda path: path.write_text("<html>404</html>"),
    "pickle": lambda path: torch.save({"model": {"fc.weight": torch.zeros(1, 128)}}, path),
    "other tensors": lambda path: save_file({"a": torch.zeros(2)}, path),
    "bank": lambda path: PrototypeBank(torch.eye(4), torch.tensor([0, 0, 1, 1])).save(path),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_file_that_is_no_detector_is_refused_in_one_line(saved: Path, damage: str) -> None:
    DAMAGE[damage](saved)
    with pytest.raises(ValueError, match="a detector") as caught:
        load(saved)
    assert str(saved) in str(caught.value)
    assert "train.py" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------
# Whole or not at all


@pytest.mark.parametrize(
    ("interruption", "expected"),
    [
        (OSError("No space left on device"), OSError),
        (SafetensorError("I/O error: no space"), OSError),
        (RuntimeError("bug"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_interrupted_write_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException, expected: type[BaseException]
) -> None:
    before = saved.read_bytes()

    def interrupted(_tensors: object, path: Path, _metadata: object) -> None:
        Path(path).write_bytes(before[:100])
        raise interruption

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(expected):
        save_checkpoint(saved, make_checkpoint(2, seed=1))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_new_file_replaces_the_old_one(saved: Path) -> None:
    save_checkpoint(saved, make_checkpoint(2, seed=1))
    assert torch.equal(logits(load(saved)), logits(make_checkpoint(2, seed=1)))
    assert list(saved.parent.iterdir()) == [saved]


def test_place_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        save_checkpoint(tmp_path / "file" / "detector.safetensors", make_checkpoint(1))
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        save_checkpoint(tmp_path / "folder", make_checkpoint(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the administrator")
def test_read_only_folder_is_an_oserror(saved: Path) -> None:
    before = saved.read_bytes()
    saved.parent.chmod(0o500)
    try:
        with pytest.raises(OSError, match=r"detector\.safetensors"):
            save_checkpoint(saved, make_checkpoint(2, seed=1))
    finally:
        saved.parent.chmod(0o700)
    assert saved.read_bytes() == before
