"""Released files: the scores are those of the release's own computation, and nothing is lost either way.

The reference is written anew from the published description, with plain transformers, peft and torchvision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeImage, RunCli
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import transforms
from transformers import CLIPConfig, CLIPModel

import benchmarks
import inference
import train
from gapl.config import VIT_L14, DetectorConfig, LoraSpec
from gapl.info import THRESHOLD
from inference import Detector
from models.adapt import add_lora_shapes
from models.weights.__main__ import main as weights
from models.weights.checkpoint import load_checkpoint, read_checkpoint, read_info, save_checkpoint
from models.weights.released import released_pixels
from models.weights.tensors import expected_shapes
from prototype import dream_prototype
from prototype.bank import PrototypeBank
from tests.test_calibration import FOUND as CALIBRATION

WIDTH, LAYERS, RANK, NUM_PROTOTYPES = 128, 3, 4, 8


class Release(nn.Module):
    """The released network: CLIP's vision half with LoRA on q, k, v, then the prototype head."""

    def __init__(self) -> None:
        super().__init__()
        vision = {"hidden_size": WIDTH, "intermediate_size": 192, "num_hidden_layers": LAYERS}
        vision |= {"num_attention_heads": WIDTH // 64, "image_size": 224, "patch_size": 32}
        text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16))
        lora = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, lora_dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj"]
        )
        self.feature_extractor = get_peft_model(clip, lora).vision_model
        self.cross_attention = nn.MultiheadAttention(128, 4, batch_first=True)
        self.foren_proj = nn.Linear(WIDTH, 128, bias=False)
        self.fc = nn.Linear(128, 1, bias=False)
        self.prototypes_PE = nn.functional.normalize(torch.randn(NUM_PROTOTYPES, 128), dim=1)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        logit_B: Tensor = self.fc(self.mixture(pixels_BCHW)).squeeze(1)
        return logit_B

    def mixture(self, pixels_BCHW: Tensor) -> Tensor:
        embedding_BE = self.foren_proj(self.feature_extractor(pixels_BCHW)["pooler_output"])
        query_B1E = nn.functional.normalize(embedding_BE, dim=1).unsqueeze(1)
        keys_BPE = self.prototypes_PE.expand(len(query_B1E), -1, -1)
        mixture_B1E: Tensor = self.cross_attention(query_B1E, keys_BPE, keys_BPE)[0]
        return mixture_B1E.squeeze(1)

    @torch.inference_mode()
    def score(self, path: Path) -> float:
        return float(self(released_view(path)).double().sigmoid())


def released_view(path: Path) -> Tensor:
    """pixels_BCHW of one image."""
    view = transforms.Compose(
        [
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with Image.open(path) as image:
        pixels_CHW: Tensor = view(image.convert("RGB"))
    return pixels_CHW.unsqueeze(0)


@pytest.fixture(scope="module")
def release(images: list[Path]) -> Release:
    """Weights as large as a trained network's, and a classifier along what tells the images apart."""
    torch.manual_seed(0)
    network = Release().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5 if "norm" in name else 0.15)
        mixtures_NE = torch.cat([network.mixture(released_view(path)) for path in images])
        mean_E = mixtures_NE.mean(dim=0)
        across_NE = mixtures_NE - mixtures_NE @ mean_E.outer(mean_E) / mean_E.square().sum()
        direction_E = torch.linalg.svd(across_NE)[2][0]
        network.fc.weight.copy_(2 * direction_E / (mixtures_NE @ direction_E).std())
    return network


@pytest.fixture(scope="module")
def checkpoint(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the form of the released checkpoint.pt."""
    path = tmp_path_factory.mktemp("released") / "checkpoint.pt"
    torch.save({"model": release.state_dict(), "prototype": release.prototypes_PE}, path)
    return path


@pytest.fixture(scope="module")
def stage1(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the form of the released stage1.pt: a bare tensor."""
    path = tmp_path_factory.mktemp("stage1") / "stage1.pt"
    torch.save(release.foren_proj.weight.detach(), path)
    return path


@pytest.fixture(scope="module")
def prototypes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the form of the released pca_3type_num16.pt: orthonormal rows of a class, stored by columns."""
    path = tmp_path_factory.mktemp("prototypes") / "pca.pt"
    generator = torch.Generator().manual_seed(0)
    classes = [torch.linalg.qr(torch.randn(128, 8, generator=generator))[0].T for _ in range(2)]
    torch.save(torch.cat(classes).T.contiguous().T, path)
    return path


@pytest.fixture(scope="module")
def backbone(
    release: Release, tmp_path_factory: pytest.TempPathFactory, run_cli: RunCli, checkpoint: Path
) -> Path:
    """A transformers folder of the tower inside the checkpoint, as `convert --save-backbone` takes it out."""
    folder = tmp_path_factory.mktemp("backbone")
    options = ("--form", "adapter", "--save-backbone", folder / "tower")
    done = run_cli(weights, "convert", checkpoint, folder / "adapter.safetensors", *options)
    assert done.code == 0, done.err
    return folder / "tower"


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    """Of a range of levels that differs between sizes."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 40 + width * height % 217, shape, dtype=np.uint8)


IMAGES: dict[str, Callable[[], tuple[Image.Image, dict[str, Any]]]] = {
    "a.jpg": lambda: (Image.fromarray(noise(300, 260)), {"quality": 80}),
    "a.b.png": lambda: (Image.fromarray(noise(225, 1001)), {}),
    "rgba.png": lambda: (Image.fromarray(noise(240, 230, 4), "RGBA"), {}),
    "palette.png": lambda: (Image.fromarray(noise(230, 240)).quantize(16), {}),
    "palette.gif": lambda: (Image.fromarray(noise(230, 240)).quantize(16), {}),
    "grey.jpg": lambda: (Image.fromarray(noise(224, 224, 1)), {}),
    "grey_alpha.png": lambda: (Image.fromarray(noise(250, 224, 2), "LA"), {}),
    "one_bit.png": lambda: (Image.fromarray(noise(250, 224, 1)).convert("1"), {}),
    "grey16.png": lambda: (Image.fromarray(noise(250, 250, 1).astype(np.uint16) * 2), {}),
    "cmyk.jpg": lambda: (Image.fromarray(noise(260, 250, 4), "CMYK"), {}),
    "small.png": lambda: (Image.fromarray(noise(101, 64)), {}),
    "wide.jpg": lambda: (Image.fromarray(noise(501, 97)), {}),
    "dot.png": lambda: (Image.fromarray(noise(1, 1)), {}),
    "turned.jpg": lambda: (Image.fromarray(noise(280, 240)), {"exif": turned()}),
    "picture.webp": lambda: (Image.fromarray(noise(280, 240)), {}),
}


def turned() -> Image.Exif:
    """Orientation 6: what shows the image turned; the release looks at the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


# ---------------------------------------------------------------------------------------------------------
# The release's scores


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for name, make in IMAGES.items():
        image, options = make()
        image.save(folder / name, **options)
    return [folder / name for name in IMAGES]


def scores(path: Path, images: list[Path]) -> list[float]:
    detector = Detector.load(path, device="cpu")
    return [detector(image).score for image in images]


def test_scores_are_those_of_the_release(release: Release, checkpoint: Path, images: list[Path]) -> None:
    expected = [release.score(image) for image in images]
    assert np.std(expected) > 0.1
    assert max(expected) > 0.7
    assert min(expected) < 0.3
    found = scores(checkpoint, images)
    assert {path.name: abs(a - b) < 1e-5 for path, a, b in zip(images, found, expected, strict=True)} == {
        path.name: True for path in images
    }


BATCH = """
import sys
import numpy as np
from inference import Detector
path, *images = sys.argv[1:]
detector = Detector.load(path, device="cpu")
verdicts = detector(images)
assert np.allclose([verdict.score for verdict in verdicts], [detector(image).score for image in images], atol=1e-5)
"""


def test_a_batch_scores_like_its_images(checkpoint: Path, images: list[Path]) -> None:
    """With the kernels of MKL that do not depend on the processor: others may sum a batch in another order."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "MKL_CBWR": "COMPATIBLE"}
    subprocess.run([sys.executable, "-c", BATCH, checkpoint, *images], env=environment, check=True)


def renamed(state: dict[str, Tensor], change: Callable[[str], str]) -> dict[str, Tensor]:
    return {change(name): value for name, value in state.items()}


def trainers_own(release: Release) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(release.parameters(), lr=1e-4)
    release(torch.zeros(1, 3, 224, 224)).sum().backward()
    optimizer.step()
    release.zero_grad()
    saved = {"model": release.state_dict(), "propVec": release.prototypes_PE}
    return saved | {"optimizer": optimizer.state_dict(), "epoch": 3, "itr": 77, "scheduler": {"last_epoch": 3}}


SPELLINGS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "module.": lambda state: renamed(state, lambda name: f"module.{name}"),
    "_orig_mod.": lambda state: renamed(state, lambda name: f"module._orig_mod.{name}"),
    "vision_model.": lambda state: renamed(
        state, lambda name: name.replace("feature_extractor.", "feature_extractor.vision_model.")
    ),
    "position_ids": lambda state: (
        state | {"feature_extractor.embeddings.position_ids": torch.arange(50).expand(1, -1)}
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_the_keys_make_no_difference(
    release: Release, checkpoint: Path, spelling: str, images: list[Path], tmp_path: Path
) -> None:
    saved = {"model": SPELLINGS[spelling](release.state_dict()), "prototype": release.prototypes_PE}
    torch.save(saved, tmp_path / "other.pt")
    assert scores(tmp_path / "other.pt", images[:3]) == scores(checkpoint, images[:3])


def test_checkpoint_of_the_released_trainer(
    release: Release, images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`propVec` for `prototype`, and what resuming would need: left out, and said so."""
    caplog.set_level("INFO", "models")
    trained = Release()
    trained.load_state_dict(release.state_dict())
    torch.save(trainers_own(trained), tmp_path / "checkpoint_3.pt")
    found = scores(tmp_path / "checkpoint_3.pt", images[:3])
    trained.eval()
    trained.prototypes_PE = torch.load(tmp_path / "checkpoint_3.pt", weights_only=True)["propVec"]
    assert found == pytest.approx([trained.score(image) for image in images[:3]], abs=1e-5)
    assert "checkpoint of the released trainer" in caplog.text
    assert "epoch, itr, optimizer, scheduler" in caplog.text


def test_no_network_and_no_backbone_is_asked_for(checkpoint: Path, images: list[Path], no_network: None) -> None:
    assert len(scores(checkpoint, images[:1])) == 1


def test_form_of_the_released_file() -> None:
    """541 tensors beside the prototypes, 305,736,320 parameters, 2,556,544 of them trained (published)."""
    config = DetectorConfig(2, "", VIT_L14, released_pixels(224), num_prototypes=64, lora=LoraSpec())
    shapes = expected_shapes(config, "full")
    assert len(shapes) == 541 + 1
    counts = {name: shape.numel() for name, shape in shapes.items() if name != "prototypes_PE"}
    assert sum(counts.values()) == 305_736_320
    trained = {name for name in counts if not name.startswith("tower.") or ".lora_" in name}
    assert sum(counts[name] for name in trained) == 2_556_544
    assert shapes["tower.encoder.layers.23.self_attn.v_proj.lora_B.default.weight"] == (1024, 16)
    assert add_lora_shapes({"x.q_proj.weight": torch.Size((4, 6))}, LoraSpec(rank=2))[
        "x.q_proj." + "lora_A.default.weight"
    ] == (2, 6)


# ---------------------------------------------------------------------------------------------------------
# There and back


def released_bits(path: Path) -> dict[str, Tensor]:
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"model", "prototype"}
    tensors: dict[str, Tensor] = saved["model"] | {"prototype": saved["prototype"]}
    return tensors


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("form", ["full", "adapter"])
def test_there_and_back_is_equal_to_the_bit(
    checkpoint: Path, backbone: Path, form: str, tmp_path: Path, run_cli: RunCli
) -> None:
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pt"
    options = ("--backbone", backbone) if form == "adapter" else ()
    there = run_cli(weights, "convert", checkpoint, ours, "--form", form, *options)
    assert there.code == 0, there.err
    again = run_cli(weights, "convert", ours, back, "--form", "released")
    assert again.code == 0, again.err
    assert list(released_bits(back)) == list(released_bits(checkpoint))
    assert same_bits(released_bits(back), released_bits(checkpoint))
    assert f"{checkpoint.stat().st_size / 1e6:,.1f} MB" in there.out
    assert f"({form})" in there.out


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05), ("float16", 0.01)])
def test_merged_scores(
    checkpoint: Path, images: list[Path], dtype: str, tolerance: float, tmp_path: Path, run_cli: RunCli
) -> None:
    out = tmp_path / "merged.safetensors"
    done = run_cli(weights, "convert", checkpoint, out, "--form", "merged", "--dtype", dtype)
    assert done.code == 0, done.err
    assert scores(out, images) == pytest.approx(scores(checkpoint, images), abs=tolerance)
    if dtype != "float32":
        assert out.stat().st_size < 0.6 * checkpoint.stat().st_size


def test_adapter_holds_what_was_trained(backbone: Path, checkpoint: Path, images: list[Path]) -> None:
    adapter = backbone.parent / "adapter.safetensors"
    tensors = load_file(adapter)
    assert all(".lora_" in name for name in tensors if name.startswith("tower."))
    assert adapter.stat().st_size < 4 * sum(tensor.numel() for tensor in tensors.values()) + 20_000
    assert scores(adapter, images) == scores(checkpoint, images)


def test_adapter_of_another_backbone_is_refused(
    checkpoint: Path, backbone: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in backbone.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    from safetensors.torch import save_file

    tensors = load_file(other / "model.safetensors")
    tensors["post_layernorm.bias"][5] += 1e-3
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    out = tmp_path / "adapter.safetensors"
    for name, message in (
        (str(other), "'post_layernorm.bias' differs"),
        (str(tmp_path / "nowhere"), "no such folder"),
        ("tiny", "differs"),
    ):
        done = run_cli(weights, "convert", checkpoint, out, "--form", "adapter", "--backbone", name)
        assert message in done.only_error()
        assert not out.exists()
    assert "--save-backbone" in run_cli(weights, "convert", checkpoint, out, "--form", "adapter").only_error()


def test_what_the_released_form_cannot_hold_is_named(
    checkpoint: Path, tmp_path: Path, run_cli: RunCli, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load_checkpoint(checkpoint, merge=False)
    save_checkpoint(
        tmp_path / "full.safetensors", replace(whole, form="full", threshold=0.4, notice="a demonstration")
    )
    done = run_cli(weights, "convert", tmp_path / "full.safetensors", tmp_path / "back.pt", "--form", "released")
    assert done.code == 0
    assert "does not hold the threshold 0.4, the notice 'a demonstration'" in caplog.text
    caplog.clear()
    calibrated = replace(whole, form="full", calibration=CALIBRATION, threshold=THRESHOLD)
    save_checkpoint(tmp_path / "calibrated.safetensors", calibrated)
    names = (tmp_path / "calibrated.safetensors", tmp_path / "calibrated.pt")
    assert run_cli(weights, "convert", *names, "--form", "released").code == 0
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning == "the released form does not hold the calibration, so that scores differ"


def test_merged_file_cannot_be_unmerged(checkpoint: Path, tmp_path: Path, run_cli: RunCli) -> None:
    merged = tmp_path / "merged.safetensors"
    assert run_cli(weights, "convert", checkpoint, merged, "--form", "merged").code == 0
    for form in ("released", "full", "adapter"):
        done = run_cli(weights, "convert", merged, tmp_path / "out", "--form", form)
        assert "merged and cannot be taken out again" in done.only_error()


def test_what_is_there_is_kept(checkpoint: Path, tmp_path: Path, run_cli: RunCli) -> None:
    out = tmp_path / "full.safetensors"
    out.write_text("mine")
    done = run_cli(weights, "convert", checkpoint, out, "--form", "full")
    assert "--overwrite" in done.only_error()
    assert out.read_text() == "mine"
    assert run_cli(weights, "convert", checkpoint, out, "--form", "full", "--overwrite").code == 0


def test_detector_that_the_release_would_score_otherwise_is_not_given_its_form(
    tiny_run: Any, tmp_path: Path, run_cli: RunCli
) -> None:
    done = run_cli(weights, "convert", tiny_run.stage1, tmp_path / "out.pt", "--form", "released")
    assert "stage, merged LoRA" in done.only_error() or "no CLIP vision tower" in done.only_error()
    assert not (tmp_path / "out.pt").exists()


# ---------------------------------------------------------------------------------------------------------
# What a file says of itself


def inspected(run_cli: RunCli, path: Path) -> dict[str, Any]:
    done = run_cli(weights, "inspect", path, "--json")
    assert done.code == 0, done.err
    facts: dict[str, Any] = json.loads(done.out)
    return facts


def test_inspect_tells_architecture_counts_pixels_and_prototypes(checkpoint: Path, run_cli: RunCli) -> None:
    facts = inspected(run_cli, checkpoint)
    assert facts["form"] == "released"
    assert facts["tower"]["hidden_size"] == WIDTH
    assert facts["tower"]["num_hidden_layers"] == LAYERS
    assert facts["tower"]["patch_size"] == 32
    assert facts["LoRA"] == {
        "rank": RANK,
        "alpha": 2 * RANK,
        "dropout": 0.1,
        "targets": ["q_proj", "k_proj", "v_proj"],
        "num_layers": 0,
    }
    assert facts["pixels"]["mean"] == [0.485, 0.456, 0.406]
    assert facts["pixels"]["resize_px"] is None
    assert facts["parameters"]["LoRA"] == LAYERS * 3 * 2 * RANK * WIDTH
    assert facts["parameters"]["head"] == WIDTH * 128 + 4 * 128 * 128 + 4 * 128 + 128
    assert (facts["prototypes"]["real"], facts["prototypes"]["fake"]) == (4, 4)
    assert facts["prototypes"]["orthonormal"] == {"real": False, "fake": False}
    assert facts["bytes"] == checkpoint.stat().st_size
    text = run_cli(weights, "inspect", checkpoint).out
    assert facts["sha256"] in text
    assert "patch_size 32" in text


def test_inspect_tells_prototypes_and_projections(stage1: Path, prototypes: Path, run_cli: RunCli) -> None:
    facts = inspected(run_cli, prototypes)
    assert (facts["prototypes"]["real"], facts["prototypes"]["fake"]) == (8, 8)
    assert facts["prototypes"]["orthonormal"] == {"real": True, "fake": True}
    facts = inspected(run_cli, stage1)
    assert (facts["form"], facts["parameters"]) == ("projection", {"head": WIDTH * 128})


def test_provenance_survives_conversion(checkpoint: Path, tmp_path: Path, run_cli: RunCli) -> None:
    full, merged = tmp_path / "full.safetensors", tmp_path / "merged.safetensors"
    assert run_cli(weights, "convert", checkpoint, full, "--form", "full").code == 0
    assert run_cli(weights, "convert", full, merged, "--form", "merged").code == 0
    provenance = inspected(run_cli, merged)["provenance"]
    assert provenance["source"] == "released checkpoint"
    assert provenance["converted"]["sha256"] == inspected(run_cli, checkpoint)["sha256"]


# ---------------------------------------------------------------------------------------------------------
# Strictness


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda saved: saved["model"].pop("fc.weight"), "tensor 'classifier.weight' is missing"),
    "missing in the tower": (
        lambda saved: saved["model"].pop("feature_extractor.encoder.layers.1.mlp.fc2.bias"),
        "'tower.encoder.layers.1.mlp.fc2.bias' is missing",
    ),
    "a layer": (
        lambda saved: [saved["model"].pop(name) for name in list(saved["model"]) if ".layers.1." in name],
        "a layer of its vision tower is missing",
    ),
    "extra": (
        lambda saved: saved["model"].update({"fc.bias": torch.zeros(1)}),
        "'classifier.bias' is not part of",
    ),
    "unknown": (lambda saved: saved["model"].update({"head.w": torch.zeros(1)}), "'head.w' is not part of a GAPL"),
    "misshaped": (
        lambda saved: saved["model"].update({"foren_proj.weight": torch.zeros(128, 64)}),
        r"'project.weight' has shape \(128, 64\), expected \(128, 128\)",
    ),
    "positions": (
        lambda saved: saved["model"].update(
            {"feature_extractor.embeddings.position_ids": torch.arange(50).flip(0).expand(1, -1)}
        ),
        r"position_ids' is not 0, 1, 2",
    ),
    "twice": (
        lambda saved: saved["model"].update({"module.fc.weight": torch.zeros(1, 128)}),
        "two tensors stand for 'fc.weight'",
    ),
    "no prototypes": (lambda saved: saved.pop("prototype"), "its prototypes are missing"),
    "both prototypes": (lambda saved: saved.update(propVec=saved["prototype"]), "its prototypes are missing"),
    "odd prototypes": (lambda saved: saved.update(prototype=torch.ones(7, 128)), "expected an even number"),
    "narrow prototypes": (lambda saved: saved.update(prototype=torch.ones(8, 64)), "'prototypes_PE' has shape"),
    "zero prototype": (lambda saved: saved["prototype"][3].zero_(), "a prototype is zero"),
    "labels": (lambda saved: saved.update(class_to_idx={"fake": 0, "real": 1}), "labels are real 0, fake 1"),
    "half": (
        lambda saved: saved["model"].update({"fc.weight": torch.zeros(1, 128).half()}),
        "'fc.weight' is of type torch.float16; expected torch.float32",
    ),
    "not finite": (lambda saved: saved["model"]["fc.weight"].fill_(torch.nan), "not finite numbers"),
    "no model": (lambda saved: saved.update(model=3), "expected `model`, a dictionary of tensors"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_is_named(checkpoint: Path, change: str, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    make, message = CHANGES[change]
    make(saved)
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert str(tmp_path / "checkpoint.pt") in str(caught.value)


def test_labels_the_right_way_round_are_accepted(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True) | {"class_to_idx": {"0_real": 0, "1_fake": 1}}
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert read_info(tmp_path / "checkpoint.pt").form == "released"


def test_values_whose_sum_overflows_are_finite(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    saved["model"]["fc.weight"].fill_(3e38)
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert read_info(tmp_path / "checkpoint.pt").form == "released"


def test_score_that_is_no_number_is_an_error(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    saved["model"]["foren_proj.weight"].fill_(3e38)
    torch.save(saved, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="score is not a number"):
        scores(tmp_path / "checkpoint.pt", images[:1])


@pytest.mark.parametrize("kind", ["stage1", "prototypes"])
def test_files_without_a_verdict_say_what_they_are_for(
    kind: str, request: pytest.FixtureRequest, run_cli: RunCli, images: list[Path]
) -> None:
    path = request.getfixturevalue(kind)
    error = run_cli(inference.main, "--model_path", path, "--image_path", images[0]).only_error()
    assert "train.py --init" in error if kind == "stage1" else "train.py --prototypes" in error


# ---------------------------------------------------------------------------------------------------------
# Going on from there


@pytest.fixture(scope="module")
def train_root(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    root = tmp_path_factory.mktemp("images_of_stage2")
    for number, kind in enumerate(("0_real", "1_fake")):
        for i in range(8):
            make_image(
                root / "train" / kind / f"{i}.png",
                seed=100 * number + i,
                size=(230, 228),
                levels=256 - 150 * number,
            )
    return root


QUICK = ("--num-workers", 0, "--batch-size", 4, "--max-steps", 3, "--precision", "fp32")


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_fast_track_from_the_released_files(
    stage1: Path,
    prototypes: Path,
    backbone: Path,
    train_root: Path,
    as_dictionary: bool,
    tmp_path: Path,
    run_cli: RunCli,
) -> None:
    """Stage 2 by the release's preset, from stage1.pt and the prototypes as they are."""
    if as_dictionary:  # as the released trainer saves it
        weight_ED = torch.load(stage1, weights_only=True)
        stage1 = tmp_path / "stage1.pt"
        torch.save({"model": {"foren_proj.weight": weight_ED}, "propVec": None, "epoch": 1}, stage1)
    options = ("--preset", "release", "--init", stage1, "--prototypes", prototypes, "--backbone", backbone)
    common = ("--stage", 2, "--data-root", train_root, "--out", tmp_path / "run")
    dry = run_cli(train.main, *common, *options, "--dry-run")
    assert dry.code == 0, dry.err
    done = run_cli(train.main, *common, *options, *QUICK)
    assert done.code == 0, done.err
    trained = load_checkpoint(tmp_path / "run/detector.safetensors", merge=False)
    assert torch.equal(trained.detector.prototypes_PE, torch.load(prototypes, weights_only=True))
    assert trained.config.pixel == released_pixels(224)
    started = torch.load(stage1, weights_only=True)
    started = started["model"]["foren_proj.weight"] if as_dictionary else started
    assert 0 < (trained.detector.project.weight - started).abs().max() < 1e-3
    assert trained.provenance["prototypes"]["num_real"] == 8


def test_training_goes_on_from_the_released_checkpoint(
    checkpoint: Path, train_root: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    options = ("--preset", "release", "--init", checkpoint)
    common = ("--stage", 2, "--data-root", train_root, "--out", tmp_path / "run", "--form", "full", "--lr", 1e-5)
    done = run_cli(train.main, *common, *options, *QUICK)
    assert done.code == 0, done.err
    before = read_checkpoint(checkpoint).tensors
    after = read_checkpoint(tmp_path / "run/detector.safetensors").tensors
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(not name.startswith("tower.") or ".lora_" in name for name in changed)
    assert max((before[name] - after[name]).abs().max() for name in changed) < 1e-4
    done = run_cli(train.main, *common, *options, *QUICK, "--overwrite", "--lora-rank", 16)
    assert "--lora-rank 16: " in done.only_error()


def test_prototypes_from_the_released_projection(
    stage1: Path, backbone: Path, train_root: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    out = tmp_path / "bank.safetensors"
    options = ("--stage1", stage1, "--backbone", backbone, "--method", "pca", "--num", 8, "--out", out)
    data = ("--data", train_root / "train", "--num-workers", 0)
    done = run_cli(dream_prototype.main, *options, *data)
    assert done.code == 0, done.err
    assert PrototypeBank.load(out).vectors_PE.shape == (8, 128)
    done = run_cli(dream_prototype.main, *options, "--same-data", "--overwrite")
    assert "(data.paths, data.root, data.mix, recipe.seed); instead pass --data" in done.only_error()


def test_wrong_backbone_for_the_projection_is_named(
    stage1: Path, train_root: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    options = ("--stage1", stage1, "--backbone", "tiny", "--out", tmp_path / "bank.safetensors")
    done = run_cli(dream_prototype.main, *options, "--data", train_root / "train")
    assert "a projection of 128 numbers, but features of tiny have 32" in done.only_error()


def test_benchmark_of_the_released_checkpoint(
    release: Release, checkpoint: Path, tiny_root: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    import pandas as pd

    options = ("--data-root", tiny_root, "--benchmarks", "ForenSynths", "--num-workers", 0, "--out", tmp_path)
    done = run_cli(benchmarks.main, "--model_path", checkpoint, *options)
    assert done.code == 0, done.err
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert len(table) == 9
    for row in table.itertuples():
        assert row.score == pytest.approx(release.score(Path(str(row.uri))), abs=1e-5)
