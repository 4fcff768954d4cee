"""LoRA in training: peft's names and numbers, every gradient, dropout, short types, checkpointing, processes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gapl.config import LoraSpec, TowerSpec
from models.adapt import add_lora
from models.casting import cast_frozen_linears
from models.lora import LoraLinear, project
from models.tower import VisionTower

PROJECT = Path(__file__).resolve().parent.parent
QKV = ("q_proj", "k_proj", "v_proj")


def make_tower(
    targets: tuple[str, ...] = QKV, *, dropout: float = 0.0, hidden_act: str = "quick_gelu"
) -> VisionTower:
    """With LoRA whose B is not zero; in training."""
    torch.manual_seed(0)
    tower = VisionTower(TowerSpec(64, 128, 3, 2, image_size=16, patch_size=8, hidden_act=hidden_act))
    add_lora(tower, LoraSpec(rank=4, alpha=12, dropout=dropout, targets=targets))
    for name, tensor in tower.state_dict().items():
        if "norm" not in name:
            tensor.normal_(0, 0.15)
    return tower.train()


def with_peft(tower: VisionTower, targets: tuple[str, ...], *, dropout: float = 0.0) -> VisionTower:
    """The reference: the same weights, LoRA by peft."""
    plain = VisionTower(tower.spec).requires_grad_(False)
    config = LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, target_modules=list(targets))
    inject_adapter_in_model(config, plain)
    assert list(plain.state_dict()) == list(tower.state_dict())
    plain.load_state_dict(tower.state_dict())
    return plain.train()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def gradients(tower: nn.Module, pixels_BCHW: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Of everything that trains, and the feature; random numbers start from the seed."""
    tower.zero_grad()
    torch.manual_seed(seed)
    feature_BD = tower(pixels_BCHW)
    weights_BD = torch.linspace(-1, 1, feature_BD.numel(), dtype=torch.float64).view(feature_BD.shape)
    (feature_BD.double() * weights_BD).sum().backward()
    found = {name: p.grad.double().clone() for name, p in tower.named_parameters() if p.grad is not None}
    return found | {"feature": feature_BD.detach().double()}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest one, relative to the largest number of its tensor."""
    assert set(found) == set(expected)
    return max(float((found[name] - expected[name]).abs().max() / expected[name].abs().max()) for name in expected)


# ---------------------------------------------------------------------------------------------------------
# peft is the reference


@pytest.mark.parametrize("targets", [QKV, ("v_proj",), ("q_proj", "out_proj", "fc1"), ("fc2",)])
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_outputs_and_gradients_are_those_of_peft(
    targets: tuple[str, ...], hidden_act: str, pixels: Tensor
) -> None:
    ours = make_tower(targets, hidden_act=hidden_act)
    peft = with_peft(ours, targets)
    found, expected = gradients(ours, pixels), gradients(peft, pixels)
    assert len(expected) == 1 + 2 * 3 * len(targets)
    assert difference(found, expected) < 2e-5
    found, expected = gradients(ours.double(), pixels.double()), gradients(peft.double(), pixels.double())
    assert difference(found, expected) < 1e-12


@torch.inference_mode()
def test_verdicts_are_those_of_peft_to_the_bit(pixels: Tensor) -> None:
    ours = make_tower(dropout=0.1).eval()
    assert torch.equal(ours(pixels), with_peft(ours, QKV).eval()(pixels))


def test_new_updates_start_as_peft_starts_them() -> None:
    layer = LoraLinear(nn.Linear(400, 300), LoraSpec(rank=8))
    _, _, A_RI, B_OR = layer.tensors
    assert not B_OR.any()
    peft = nn.Sequential(nn.Linear(400, 300))
    inject_adapter_in_model(LoraConfig(r=8, target_modules=["0"]), peft)
    expected_RI = peft.state_dict()["0.lora_A.default.weight"]
    for value in (A_RI, expected_RI):  # uniform in +-1/sqrt(400)
        assert 0.0495 < value.abs().max() <= 0.05
        assert abs(value.std() - 0.05 / 3**0.5) < 1e-3
    assert A_RI.dtype == expected_RI.dtype == torch.float32


def test_training_needs_no_peft(monkeypatch: pytest.MonkeyPatch, pixels: Tensor) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # its import fails
    assert len(gradients(make_tower(dropout=0.1), pixels)) == 19


# ---------------------------------------------------------------------------------------------------------
# Dropout


def make_dropout(dropout: float, num_layers: int = 1) -> list[LoraLinear]:
    """Layers that compute 2 dropout(x) and nothing else."""
    layers = [
        LoraLinear(nn.Linear(64, 64), LoraSpec(rank=64, alpha=128, dropout=dropout)) for _ in range(num_layers)
    ]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.zero_()
            for update in (layer.lora_A, layer.lora_B):
                update["default"].weight.copy_(torch.eye(64))
    return layers


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_keeps_some_numbers_and_the_mean(dropout: float) -> None:
    torch.manual_seed(0)
    x = torch.rand(4000, 64) + 1
    (y,) = project(x, make_dropout(dropout))
    kept = y != 0
    assert torch.allclose(y[kept], 2 * x[kept] / (1 - dropout), rtol=1e-4)
    sigma = (dropout * (1 - dropout) / kept.numel()) ** 0.5
    assert abs(kept.double().mean() - (1 - dropout)) < 4 * sigma
    per_column = kept.double().mean(dim=0)
    assert (per_column - (1 - dropout)).abs().max() < 4.5 * sigma * 8


def test_each_layer_drops_its_own_numbers() -> None:
    torch.manual_seed(0)
    query, key, value = (y != 0 for y in project(torch.ones(2, 2000, 64), make_dropout(0.5, 3)))
    for one, other in ((query, key), (key, value), (query, value)):
        assert abs((one == other).double().mean() - 0.5) < 0.01
    assert query.shape == (2, 2000, 64)


def test_dropout_follows_torchs_generator() -> None:
    layers, x = make_dropout(0.5), torch.ones(7, 3, 64)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = project(x, layers)[0], project(x, layers)[0]
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(project(x, layers)[0], first)
    assert torch.equal(project(x, layers)[0], second)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_are_those_of_the_numbers_kept(dropout: float) -> None:
    """Against differences of outputs."""
    torch.manual_seed(0)
    layers = [LoraLinear(nn.Linear(5, 4), LoraSpec(rank=2, alpha=3, dropout=dropout)).double() for _ in range(2)]
    inputs = [torch.randn(2, 3, 5, dtype=torch.float64)]
    inputs += [torch.randn_like(tensor) for layer in layers for tensor in layer.tensors[2:]]
    names = ("lora_A.default.weight", "lora_B.default.weight")

    def outputs(x: Tensor, *updates: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        pair = nn.ModuleList(layers)
        named = {f"{i}.{name}": updates[2 * i + j] for i in range(2) for j, name in enumerate(names)}
        return tuple(torch.func.functional_call(_Together(pair), {f"pair.{k}": v for k, v in named.items()}, (x,)))

    assert torch.autograd.gradcheck(outputs, [value.requires_grad_() for value in inputs])


class _Together(nn.Module):
    def __init__(self, pair: nn.ModuleList) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(project(x, list(self.pair)))  # type: ignore[arg-type]


def test_no_dropout_in_evaluation(pixels: Tensor) -> None:
    tower = make_tower(dropout=0.5)
    assert difference(gradients(tower, pixels), gradients(tower, pixels, seed=1)) > 0.01
    tower.eval()
    assert difference(gradients(tower, pixels), gradients(tower, pixels, seed=1)) == 0


# ---------------------------------------------------------------------------------------------------------
# Short types, checkpointing, processes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored_short", [False, True])
def test_short_types_err_no_more_than_with_peft(dtype: torch.dtype, stored_short: bool, pixels: Tensor) -> None:
    tower = make_tower()
    exact, reference = gradients(tower, pixels), with_peft(tower, QKV)
    if stored_short:
        cast_frozen_linears(tower, dtype)
    with torch.autocast("cpu", dtype=dtype):
        found, of_peft = gradients(tower, pixels), gradients(reference, pixels)
    assert {p.grad.dtype for p in tower.parameters() if p.grad is not None} == {torch.float32}
    errors, expected = total_error(found, exact), total_error(of_peft, exact)
    assert 0 < errors < 2 * expected  # on average they are the same


@pytest.mark.parametrize("stored_short", [False, True])
def test_short_types_drop_the_same_numbers(stored_short: bool, pixels: Tensor) -> None:
    tower = make_tower(dropout=0.4)
    exact, other = gradients(tower, pixels), gradients(tower, pixels, seed=1)
    if stored_short:
        cast_frozen_linears(tower, torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(tower, pixels)
    assert total_error(found, exact) < 0.05 < 0.2 < total_error(other, exact)


def total_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Root mean square over tensors of their relative errors."""
    errors = [float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact]
    return float(torch.tensor(errors).square().mean().sqrt())


def test_short_types_keep_small_updates() -> None:
    """Added to the weights, they would be rounded away."""
    torch.manual_seed(0)
    layer = LoraLinear(nn.Linear(64, 64), LoraSpec(dropout=0.0))
    with torch.no_grad():
        layer.base_layer.bias.zero_()
        layer.base_layer.weight.fill_(1)
        layer.lora_B["default"].weight.normal_(0, 1e-4)
    x = torch.tensor([1.0, -1.0]).repeat(10, 32)  # what the frozen weight makes of it is 0
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_checkpointing_gives_the_same_gradients(hidden_act: str, pixels: Tensor) -> None:
    tower = make_tower(dropout=0.5, hidden_act=hidden_act)
    expected = gradients(tower, pixels)
    random_after = torch.rand(3)
    with tower.training_options(activation_checkpointing=True):
        assert difference(gradients(tower, pixels), expected) < 1e-6
    assert torch.equal(torch.rand(3), random_after)


def test_checkpointing_keeps_less(pixels: Tensor) -> None:
    tower = make_tower(dropout=0.5)
    kept = []
    for checkpointing in (False, True):
        sizes: list[int] = []
        with (
            tower.training_options(activation_checkpointing=checkpointing),
            torch.autograd.graph.saved_tensors_hooks(
                lambda x, sizes=sizes: (sizes.append(x.nbytes), x)[1], lambda x: x
            ),
        ):
            tower(pixels)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_mlp_gives_the_same_whether_it_trains_or_not() -> None:
    torch.manual_seed(0)
    mlp = make_tower().encoder.layers[0].mlp.double()
    trained = copy.deepcopy(mlp).requires_grad_(True)
    x = torch.randn(2, 7, 64, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    (found,) = torch.autograd.grad((mlp(x) * weights).sum(), x)
    (expected,) = torch.autograd.grad((trained(x) * weights).sum(), x)
    assert torch.allclose(mlp(x), trained(x), rtol=1e-12, atol=1e-12)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        mlp(x)
    assert sum(tensor.shape == (14, 128) for tensor in kept) == 1


def test_processes_that_train_together(tmp_path: Path, pixels: Tensor) -> None:
    tower = make_tower(dropout=0.2)
    expected = gradients(tower, pixels)
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for checkpointing in (False, True):
            with tower.training_options(activation_checkpointing=checkpointing):
                found = gradients(DistributedDataParallel(tower), pixels)
            found = {name.removeprefix("module."): value for name, value in found.items()}
            assert difference(found, expected) < 1e-6
    finally:
        distributed.destroy_process_group()


FAULTS = """
import resource, sys, torch
from training.processes import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):  # the first ones find their places
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are left as they are")
def test_freed_memory_is_kept() -> None:
    """A tensor of 64 MB is 16,384 pages, which need not be made anew."""
    found = [
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, cwd=PROJECT
            ).stdout
        )
        for how in ("keep", "leave")
    ]
    assert found[0] < 100
    assert found[1] > 1000
