"""The two models: what they compute, by hand; how many parameters they have; what trains; LoRA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gapl.config import DetectorConfig, LoraSpec
from gapl.lora import merge_lora
from gapl.names import DEFAULT, TINY
from gapl.pixels import PixelSpec
from models.casting import cast_frozen_linears, frozen_linears_in
from models.detector import PrototypeDetector, Stage1Detector, TowerHead, build_detector, count_parameters
from models.lora import LoraLinear
from models.weights.backbone import architecture, load_backbone

PIXEL = PixelSpec(size_px=32)


def config(stage: int, *, num_prototypes: int = 6, lora: LoraSpec | None = None) -> DetectorConfig:
    return DetectorConfig(stage, TINY, architecture(TINY), PIXEL, num_prototypes=num_prototypes, lora=lora)


def randomise(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_(0, 0.3, generator=generator)


@pytest.fixture
def stage1() -> Stage1Detector:
    detector = build_detector(config(1), load_backbone(TINY).tower).eval()
    assert isinstance(detector, Stage1Detector)
    return detector


@pytest.fixture
def stage2() -> PrototypeDetector:
    """With LoRA; head, prototypes and biases are random."""
    detector = build_detector(config(2, lora=LoraSpec()), load_backbone(TINY).tower).eval()
    assert isinstance(detector, PrototypeDetector)
    for seed, part in enumerate((detector.project, detector.attention, detector.classifier)):
        randomise(part, seed)
    vectors_PE = torch.randn(6, 128, generator=torch.Generator().manual_seed(9))
    detector.prototypes_PE.copy_(nn.functional.normalize(vectors_PE, dim=1))
    return detector


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def lora_layers(detector: TowerHead) -> list[LoraLinear]:
    return [module for module in detector.modules() if isinstance(module, LoraLinear)]


def set_updates(detector: TowerHead) -> None:
    """LoRA that does something: B is no longer zero."""
    for seed, layer in enumerate(lora_layers(detector)):
        randomise(layer.lora_B, seed)


# ---------------------------------------------------------------------------------------------------------
# By hand


def array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def embed_by_hand(detector: TowerHead, feature_BD: Tensor) -> NDArray[np.float64]:
    projected_BE = array(feature_BD) @ array(detector.project.weight).T
    return projected_BE / np.sqrt((projected_BE**2).sum(axis=1, keepdims=True))


def test_stage1_logit(stage1: Stage1Detector, pixels: Tensor) -> None:
    output = stage1(pixels)
    embedding_BE = embed_by_hand(stage1, stage1.tower(pixels))
    assert np.abs(array(output.embedding_BE) - embedding_BE).max() < 1e-5
    assert np.abs(array(output.logit_B) - embedding_BE @ array(stage1.classifier.weight)[0]).max() < 1e-5
    assert output.logit_B.shape == (5,)
    assert output.attention_BP is None


def test_prototype_attention(stage2: PrototypeDetector) -> None:
    feature_BD = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    output = stage2.head(feature_BD)
    attention = stage2.attention
    query_W, key_W, value_W = np.split(array(attention.in_proj_weight), 3)
    query_b, key_b, value_b = np.split(array(attention.in_proj_bias), 3)
    prototypes_PE = array(stage2.prototypes_PE)

    queries_BE = embed_by_hand(stage2, feature_BD) @ query_W.T + query_b
    keys_PE = prototypes_PE @ key_W.T + key_b
    values_PE = prototypes_PE @ value_W.T + value_b
    mixed, weights = [], []
    for head in np.split(np.arange(128), 4):
        similarity_BP = queries_BE[:, head] @ keys_PE[:, head].T / np.sqrt(32)
        weight_BP = np.exp(similarity_BP)
        weight_BP /= weight_BP.sum(axis=1, keepdims=True)
        weights.append(weight_BP)
        mixed.append(weight_BP @ values_PE[:, head])
    mixture_BE = np.hstack(mixed) @ array(attention.out_proj.weight).T + array(attention.out_proj.bias)
    logit_B = mixture_BE @ array(stage2.classifier.weight)[0]

    assert logit_B.std() > 0.01
    assert np.abs(array(output.logit_B) - logit_B).max() < 1e-5
    assert output.attention_BP is not None
    assert np.abs(array(output.attention_BP) - np.mean(weights, axis=0)).max() < 1e-5
    assert output.attention_BP.shape == (5, 6)
    assert np.abs(np.mean(weights, axis=0) - 1 / 6).max() > 1e-3


def test_embedding_has_unit_length(stage1: Stage1Detector, stage2: PrototypeDetector, pixels: Tensor) -> None:
    for detector in (stage1, stage2):
        assert (detector(pixels).embedding_BE.norm(dim=1) - 1).abs().max() < 1e-5


def test_verdict_of_an_image_does_not_depend_on_the_others(stage2: PrototypeDetector, pixels: Tensor) -> None:
    together_B = stage2(pixels).logit_B
    alone_B = torch.cat([stage2(pixels[i : i + 1]).logit_B for i in range(5)])
    assert (together_B - alone_B).abs().max() < 1e-5


def test_head_stays_in_float32_under_autocast(stage1: Stage1Detector, stage2: PrototypeDetector) -> None:
    feature_BD = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    for detector in (stage1, stage2):
        plain = detector.head(feature_BD)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = detector.head(feature_BD)
        assert torch.equal(autocast.logit_B, plain.logit_B)
        assert torch.equal(autocast.embedding_BE, plain.embedding_BE)


# ---------------------------------------------------------------------------------------------------------
# What there is and what trains


def test_parameters_of_the_published_model() -> None:
    published = DetectorConfig(2, DEFAULT, architecture(DEFAULT), PixelSpec(), num_prototypes=64, lora=LoraSpec())
    detector = build_detector(published)
    assert count_parameters(detector) == (305_736_320, 2_556_544)
    assert isinstance(detector, PrototypeDetector)
    trained = {
        "tower": count_parameters(detector.tower)[1],
        "project": count_parameters(detector.project)[1],
        "attention": count_parameters(detector.attention)[1],
        "classifier": count_parameters(detector.classifier)[1],
    }
    assert trained == {"tower": 2_359_296, "project": 131_072, "attention": 66_048, "classifier": 128}
    assert detector.prototypes_PE.shape == (64, 128)


def trainable(detector: TowerHead) -> set[str]:
    return {name for name, parameter in detector.named_parameters() if parameter.requires_grad}


def test_what_trains(stage1: Stage1Detector, stage2: PrototypeDetector) -> None:
    assert trainable(stage1) == {"project.weight", "classifier.weight"}
    updates = {name for name in trainable(stage2) if name.startswith("tower.")}
    assert updates == {
        f"tower.encoder.layers.{layer}.self_attn.{part}_proj.lora_{matrix}.default.weight"
        for layer in range(2)
        for part in "qkv"
        for matrix in "AB"
    }
    assert trainable(stage2) - updates == {
        "project.weight",
        "attention.in_proj_weight",
        "attention.in_proj_bias",
        "attention.out_proj.weight",
        "attention.out_proj.bias",
        "classifier.weight",
    }


def test_gradients_reach_all_that_trains(stage2: PrototypeDetector, pixels: Tensor) -> None:
    set_updates(stage2)
    stage2(pixels).logit_B.sum().backward()
    without = {name for name, p in stage2.named_parameters() if p.grad is None or not p.grad.any()}
    assert not without & trainable(stage2)
    assert {name for name, p in stage2.named_parameters() if p.grad is not None} == trainable(stage2)


def test_prototypes_are_a_buffer(stage2: PrototypeDetector) -> None:
    assert "prototypes_PE" in stage2.state_dict()
    assert "prototypes_PE" not in dict(stage2.named_parameters())
    assert stage2.double().prototypes_PE.dtype == torch.float64
    assert stage2.to("meta").prototypes_PE.device.type == "meta"


def test_prototypes_are_the_detectors_own_copy() -> None:
    given_PE = torch.eye(128)[:4]
    detector = PrototypeDetector(load_backbone(TINY).tower, given_PE)
    given_PE.zero_()
    assert torch.equal(detector.prototypes_PE, torch.eye(128)[:4])


# ---------------------------------------------------------------------------------------------------------
# LoRA


@torch.inference_mode()
def test_fresh_lora_changes_nothing(pixels: Tensor) -> None:
    plain = load_backbone(TINY).tower(pixels)
    adapted = build_detector(config(2, lora=LoraSpec(rank=4)), load_backbone(TINY).tower)
    assert len(lora_layers(adapted)) == 6
    for training in (False, True):
        adapted.train(training)
        assert torch.equal(adapted.feature(pixels), plain)


@torch.inference_mode()
def test_merged_lora_gives_the_same_logits(stage2: PrototypeDetector, pixels: Tensor) -> None:
    before_B = stage2(pixels).logit_B
    set_updates(stage2)
    unmerged_B = stage2(pixels).logit_B
    assert (unmerged_B - before_B).abs().max() > 1e-3
    merged = build_detector(config(2), load_backbone(TINY).tower).eval()
    merged.load_state_dict(merge_lora(stage2.state_dict(), LoraSpec()), strict=True)
    assert (merged(pixels).logit_B - unmerged_B).abs().max() < 1e-5
    assert not lora_layers(merged)


def test_lora_of_the_first_layers_leaves_the_others_as_they_are(pixels: Tensor) -> None:
    detector = build_detector(config(2, lora=LoraSpec(num_layers=1)), load_backbone(TINY).tower).eval()
    updated = {name for name, module in detector.named_modules() if isinstance(module, LoraLinear)}
    assert updated == {f"tower.encoder.layers.0.self_attn.{target}" for target in LoraSpec().targets}
    set_updates(detector)
    plain = build_detector(config(2), load_backbone(TINY).tower).eval()
    state = detector.state_dict()
    plain.load_state_dict(merge_lora(state, LoraSpec(num_layers=1)))
    torch.testing.assert_close(plain(pixels).logit_B, detector(pixels).logit_B, atol=1e-5, rtol=0)


def test_update_is_scaled_by_alpha_over_rank(stage2: PrototypeDetector) -> None:
    set_updates(stage2)
    before = {name: tensor.clone() for name, tensor in stage2.state_dict().items()}
    projection = stage2.tower.encoder.layers[0].self_attn.q_proj
    update = projection.lora_B["default"].weight @ projection.lora_A["default"].weight * (32 / 16)
    expected = projection.base_layer.weight + update
    name = "tower.encoder.layers.0.self_attn.q_proj.weight"
    assert (merge_lora(stage2.state_dict(), LoraSpec())[name] - expected).abs().max() < 1e-6
    assert all(torch.equal(tensor, before[name]) for name, tensor in stage2.state_dict().items())


def test_lora_can_be_merged_without_a_copy_of_the_weights(stage2: PrototypeDetector) -> None:
    set_updates(stage2)
    apart = merge_lora(stage2.state_dict(), LoraSpec())
    places = {tensor.data_ptr() for tensor in stage2.state_dict().values()}
    merged = merge_lora(stage2.state_dict(), LoraSpec(), in_place=True)
    assert {tensor.data_ptr() for tensor in merged.values()} <= places
    assert all(torch.equal(merged[name], tensor) for name, tensor in apart.items())


def test_lora_drops_out_in_training_only(stage2: PrototypeDetector, pixels: Tensor) -> None:
    set_updates(stage2)
    torch.manual_seed(0)
    with torch.inference_mode():
        assert torch.equal(stage2(pixels).logit_B, stage2(pixels).logit_B)
        stage2.train()
        assert not torch.equal(stage2(pixels).logit_B, stage2(pixels).logit_B)


@pytest.mark.parametrize("target", ["in_proj", "proj", "layer_norm1", "mlp"])
def test_lora_without_a_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=f"LoRA targets {target}: they must name linear layers of the tower"):
        build_detector(config(2, lora=LoraSpec(targets=(target,))), load_backbone(TINY).tower)


def test_only_frozen_linears_are_cast(stage2: PrototypeDetector) -> None:
    before = {name: (id(tensor), tensor.clone()) for name, tensor in stage2.named_parameters()}
    with frozen_linears_in(stage2.tower, torch.bfloat16):
        short = {name for name, p in stage2.named_parameters() if p.dtype == torch.bfloat16}
    for name, parameter in stage2.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
    cast_frozen_linears(stage2.tower, torch.bfloat16)
    assert short == {name for name, p in stage2.named_parameters() if p.dtype == torch.bfloat16}
    assert "tower.encoder.layers.0.mlp.fc1.weight" in short
    assert "tower.encoder.layers.0.self_attn.q_proj.base_layer.weight" in short
    assert not short & trainable(stage2)
    assert not [name for name in short if "norm" in name or "embedding" in name]
