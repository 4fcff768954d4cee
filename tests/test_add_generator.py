"""prototype/add_generator.py: a detector that learns a new generator, and its rehearsal memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.detector import PrototypeDetector
from models.weights.checkpoint import Checkpoint, load_checkpoint, read_info
from prototype import add_generator, make_rehearsal
from prototype.addition import draw_judged, find_suspects
from prototype.before_after import Judge, compare
from prototype.refit import Head, Refitting, refit, tensors_of
from prototype.rehearsal import Rehearsal, Seen, find_directions, head_of, parts_of, see
from tests.conftest import MakeImage, RunCli
from tests.test_explainer_file import corpus  # noqa: F401 - a fixture
from tests.test_gapl import LORA, make_detector
from tests.test_several_views import ALL, config_with

NUM = 400  # images of the memory, the second half of which training held out
GIVEN = ("--num-workers", 0, "--precision", "fp32")


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    return make_detector(path, replace(config_with(ALL), lora=LORA))


@pytest.fixture(scope="module")
def checkpoint(detector_file: Path) -> Checkpoint:
    """The detector, as sure of its verdicts as a trained one is, and with a threshold of .5."""
    checkpoint = load_checkpoint(detector_file, allow_tiny=True)
    detector = checkpoint.detector.requires_grad_(False)
    logit_N = detector.head(features(NUM, checkpoint.config.feature_width, seed=0)).logit_B
    weight_1E = detector.classifier.weight.mul_(4 / logit_N.std())
    middle = (4 / logit_N.std()) * logit_N.median()
    detector.attention.out_proj.bias.sub_(middle * weight_1E[0] / weight_1E.square().sum())
    return checkpoint


def features(num: int, width: int, *, seed: int) -> Tensor:
    """Return features_ND that hardly vary along the last quarter of each part's coordinates."""
    scale_D = torch.ones(width)
    scale_D[::4] = 0.05
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed)) * scale_D


@pytest.fixture(scope="module")
def memory(checkpoint: Checkpoint) -> Rehearsal:
    """A memory of random features; an image is a fake where the detector says so, but for one in ten."""
    detector = checkpoint.detector
    features_ND = features(NUM, checkpoint.config.feature_width, seed=0)
    directions_KD = tuple(find_directions(part, seed=0, num=64) for part in parts_of(detector, features_ND))
    logit_N = detector.head(features_ND).logit_B.detach()
    fake_N = (logit_N > logit_N.median()) ^ (torch.arange(NUM) % 10 == 0)
    names = tuple(f"{'gan' if fake else 'shop'}_{i % 3}" for i, fake in enumerate(fake_N.tolist()))
    return Rehearsal(
        directions_KD, seen_of(detector, features_ND, directions_KD, labels_N=fake_N.long(), names=names,
        held_out_N=torch.arange(NUM) >= NUM // 2), head_of(detector.project.weight),
    )  # fmt: skip


def seen_of(
    detector: PrototypeDetector,
    features_ND: Tensor,
    directions_KD: tuple[Tensor, ...],
    *,
    labels_N: Tensor,
    names: tuple[str, ...],
    held_out_N: Tensor | None = None,
) -> Seen:
    num = len(features_ND)
    held_out_N = torch.zeros(num, dtype=torch.bool) if held_out_N is None else held_out_N
    hashes_N = torch.randint(1 << 60, (num,), generator=torch.Generator().manual_seed(num))
    parts = see(detector, features_ND, directions_KD)
    return Seen(parts, labels_N, held_out_N, hashes_N, names, ("",) * num)


def ones(memory: Rehearsal) -> list[Tensor]:
    return [torch.ones(len(each_KD)) for each_KD in memory.directions_KD]


@pytest.fixture(scope="module")
def new(checkpoint: Checkpoint, memory: Rehearsal) -> Callable[[int, int], tuple[Tensor, Seen]]:
    """Return features and what is seen of images of a generator that differs where others hardly vary."""
    width, detector = checkpoint.config.feature_width, checkpoint.detector

    def make(num: int, seed: int) -> tuple[Tensor, Seen]:
        features_ND = features(num, width, seed=seed)
        features_ND[:, ::4] += (
            0.2 * torch.sign(torch.randn(width, generator=torch.Generator().manual_seed(7)))[::4]
        )
        labels_N = torch.ones(num, dtype=torch.long)
        return features_ND, seen_of(
            detector, features_ND, memory.directions_KD, labels_N=labels_N, names=("new",) * num
        )

    return make


# ---------------------------------------------------------------------------------------------------------
# The refit


def test_what_a_memory_keeps_gives_the_logits_of_the_new_detector(
    checkpoint: Checkpoint, memory: Rehearsal, new: Callable[[int, int], tuple[Tensor, Seen]]
) -> None:
    """The memory is exact: the head on what it keeps, and the refitted detector on features, say the same."""
    features_ND, seen = new(30, 1)
    head = refit(checkpoint.detector, memory.training, seen, num_real=3, how=Refitting(steps=20))
    tensors = tensors_of(head, checkpoint.detector, memory.directions_KD)
    config = replace(checkpoint.config, num_prototypes=len(head.prototypes_PE), lora=None)
    from models.detector import build_detector

    detector = build_detector(config, checkpoint.detector.tower)
    detector.load_state_dict({**detector.state_dict(), **tensors})
    detector.eval()
    moved = seen.moved(head.updates())
    for by_whole in (False, True):
        features = detector.without_crops(features_ND) if by_whole else features_ND
        expected = detector.head(features).logit_B.detach().numpy()
        assert head.logits(seen, by_whole=by_whole) == pytest.approx(expected, abs=1e-4)
        unchanged = Head(detector, head.prototypes_PE, num_real=head.num_real, units=ones(memory))
        assert unchanged.logits(moved, by_whole=by_whole) == pytest.approx(expected, abs=1e-4)
    before = checkpoint.detector.head(features_ND).logit_B.detach().numpy()
    assert np.abs(head.logits(seen) - before).max() > 0.1


def test_a_new_generator_is_learnt_and_others_are_kept(
    checkpoint: Checkpoint, memory: Rehearsal, new: Callable[[int, int], tuple[Tensor, Seen]]
) -> None:
    _, fitted = new(40, 1)
    _, judged = new(60, 2)
    head = refit(checkpoint.detector, memory.training, fitted, num_real=3, how=Refitting())
    base = Head(checkpoint.detector, checkpoint.detector.prototypes_PE, num_real=3, units=ones(memory))

    def judge_of(each: Head) -> Callable[[Seen], Judge]:
        return lambda seen: Judge(each.logits(seen), None, 0.5)

    changes = compare(memory.held_out, judged, before=judge_of(base), after=judge_of(head))
    (row,) = (row for row in changes.rows if row.group == "new")
    assert (row.name, row.label, row.images) == ("new", "fake", 60)
    assert row.after > row.before + 0.2
    assert row.low <= row.after <= row.high
    before, after = changes.overall["AUROC"]
    assert after > before - 0.05
    assert changes.loss == pytest.approx(max(one - other for one, other in changes.overall.values()))
    assert 0 < changes.flips < 0.2
    assert f"{row.after:.2f}" in changes.text()
    assert json.loads(json.dumps(changes.facts()))["loss"] == changes.loss


def test_prototypes_of_both_classes_stay_in_order(checkpoint: Checkpoint, memory: Rehearsal) -> None:
    """Real ones come first, as explanations expect."""
    old_PE = checkpoint.detector.prototypes_PE
    width = checkpoint.config.feature_width
    labels_N = torch.tensor([0] * 20 + [1] * 30)
    fitted = seen_of(
        checkpoint.detector, features(50, width, seed=5), memory.directions_KD, labels_N=labels_N,
        names=("shop",) * 20 + ("new",) * 30,
    )  # fmt: skip
    head = refit(checkpoint.detector, memory.training, fitted, num_real=3, how=Refitting(steps=1))
    assert head.num_real == 3 + 2
    assert torch.equal(head.prototypes_PE[:3], old_PE[:3])
    assert torch.equal(head.prototypes_PE[5 : 5 + len(old_PE) - 3], old_PE[3:])
    assert len(head.prototypes_PE) == len(old_PE) + 5
    none = refit(checkpoint.detector, memory.training, fitted, num_real=3, how=Refitting(steps=1, prototypes=0))
    assert torch.equal(none.prototypes_PE, old_PE)


def test_images_with_a_wrong_label_are_named(
    checkpoint: Checkpoint, memory: Rehearsal, new: Callable[[int, int], tuple[Tensor, Seen]]
) -> None:
    _, fakes = new(60, 1)
    width = checkpoint.config.feature_width
    logit_N = checkpoint.detector.head(features(400, width, seed=9)).logit_B
    surely_real = features(400, width, seed=9)[logit_N.argsort()[:4]]
    wrong = seen_of(
        checkpoint.detector, surely_real, memory.directions_KD, labels_N=torch.ones(4, dtype=torch.long),
        names=("new",) * 4,
    )  # fmt: skip
    uncalibrated = replace(checkpoint, calibration=None, threshold=0.5)
    suspects_N = find_suspects(uncalibrated, memory.training, fakes + wrong, how=Refitting())
    assert suspects_N[60:].all()
    assert suspects_N[:60].mean() < 0.2


def test_judged_images_are_drawn_of_each_class() -> None:
    labels_N = torch.tensor([0] * 9 + [1] * 30)
    judged_N = draw_judged(labels_N, 1 / 3, seed=0)
    assert (int(judged_N[:9].sum()), int(judged_N[9:].sum())) == (3, 10)
    assert torch.equal(judged_N, draw_judged(labels_N, 1 / 3, seed=0))
    with pytest.raises(ValueError, match="5 new fake images can be used; at least 6 are needed"):
        draw_judged(torch.ones(5, dtype=torch.long), 1 / 3, seed=0)


# ---------------------------------------------------------------------------------------------------------
# The memory's file


def test_a_memory_is_read_as_it_was_written(memory: Rehearsal, checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "some.rehearsal"
    replace(memory, added=({"images": {"fake:new": 3}},)).save(path)
    found = Rehearsal.load(path)
    assert (found.head, found.added) == (memory.head, ({"images": {"fake:new": 3}},))
    assert (found.seen.names, found.seen.kinds) == (memory.seen.names, memory.seen.kinds)
    for mine, theirs in zip(memory.seen.parts, found.seen.parts, strict=True):
        for name in mine._fields:
            assert torch.allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-3, atol=1e-3)
    for mine_KD, theirs_KD in zip(memory.directions_KD, found.directions_KD, strict=True):
        assert torch.allclose(mine_KD, theirs_KD, atol=1e-6)
    assert torch.equal(found.seen.hashes_N, memory.seen.hashes_N)
    found.check_fits(checkpoint.detector, name=path)


@pytest.mark.parametrize("name", ["labels_N", "hashes_N", "0.scale_K", "1.reduced_NK", "0.projected_NE"])
def test_damaged_memories_are_refused_in_a_line(memory: Rehearsal, name: str, tmp_path: Path) -> None:
    from models import tensorfile
    from prototype.rehearsal import FORMAT

    path = tmp_path / "some.rehearsal"
    memory.save(path)
    header, tensors = tensorfile.read(path, format=FORMAT)
    tensorfile.write(path, {k: t for k, t in tensors.items() if k != name}, format=FORMAT, header=header)
    with pytest.raises(ValueError, match=r"some\.rehearsal: ") as raised:
        Rehearsal.load(path)
    assert "\n" not in str(raised.value)
    tensorfile.write(path, {**tensors, name: tensors[name][:-1]}, format=FORMAT, header=header)
    with pytest.raises(ValueError, match=r"some\.rehearsal: "):
        Rehearsal.load(path)
    for wrong in (
        {"words": ["a"], "of": [0]},
        {"words": [1], "of": [0] * NUM},
        None,
        {"words": ["a"], "of": [1] * NUM},
    ):
        tensorfile.write(path, tensors, format=FORMAT, header=header | {"names": wrong})
        with pytest.raises(ValueError, match="its names are not those of 400 images"):
            Rehearsal.load(path)


def test_a_memory_is_made_of_a_corpus(corpus: Path, detector_file: Path, tmp_path: Path, run_cli: RunCli) -> None:  # noqa: F811
    out = tmp_path / "made.rehearsal"
    given = ("--model_path", detector_file, "--corpus", corpus, "--out", out, "--directions", 8, *GIVEN)
    done = run_cli(make_rehearsal.main, *given)
    assert done.code == 0, done.err
    assert "16 images, 0 of them held out" in done.out
    memory = Rehearsal.load(out)
    memory.check_fits(load_checkpoint(detector_file, allow_tiny=True).detector, name=out)
    assert set(memory.seen.labels_N.tolist()) == {0, 1}
    assert "exists; name another --out" in run_cli(make_rehearsal.main, *given).only_error()
    refused = run_cli(make_rehearsal.main, *given[:4], "--out", detector_file, "--overwrite", *GIVEN)
    assert "is no rehearsal memory, and is not replaced" in refused.only_error()


# ---------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_image: MakeImage) -> Path:
    folder = tmp_path_factory.mktemp("new")
    for number in range(12):
        make_image(folder / f"{number}.png", seed=number, size=(70, 60))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but not more")
    return folder


@pytest.fixture
def given(detector_file: Path, memory: Rehearsal, folder: Path, tmp_path: Path) -> tuple[object, ...]:
    memory.save(tmp_path / "before.rehearsal")
    (tmp_path / "before.safetensors").write_bytes(detector_file.read_bytes())
    paths = ("--model_path", tmp_path / "before.safetensors", "--images", folder)
    return (*paths, "--name", "flux9", "--max-loss", 1, *GIVEN)


def test_the_command_writes_a_detector_its_memory_and_a_report(
    given: tuple[object, ...], tmp_path: Path, run_cli: RunCli, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "after.safetensors"
    done = run_cli(add_generator.main, *given, "--out", out, "--report", tmp_path / "changed.json")
    assert done.code == 0, done.err
    assert "broken.png" in caplog.text
    assert "fake flux9, kept for judging" in done.out
    assert out.is_file()
    info, before = read_info(out), read_info(tmp_path / "before.safetensors")
    assert info.config.num_prototypes == before.config.num_prototypes + 1
    assert not out.with_suffix(".explainer").exists()
    assert info.provenance["added"][0]["images"] == {"fake:flux9": 8}
    assert info.calibration is not None
    assert info.calibration.data_sha256 != before.calibration.data_sha256
    facts = json.loads((tmp_path / "changed.json").read_text())
    assert facts["added"] == info.provenance["added"][0]
    memory = Rehearsal.load(out.with_suffix(".rehearsal"))
    assert len(memory.seen) == NUM + 8
    again = run_cli(add_generator.main, "--model_path", out, *given[2:], "--report", tmp_path / "again.html")
    assert "4 new fake images can be used; at least 6 are needed" in again.only_error()


def test_nothing_is_written_without_out_or_beyond_the_loss(
    given: tuple[object, ...], tmp_path: Path, run_cli: RunCli
) -> None:
    there = sorted(tmp_path.iterdir())
    assert "no --out: no detector is written" in run_cli(add_generator.main, *given).out
    assert sorted(tmp_path.iterdir()) == there
    page = tmp_path / "page.html"
    out = tmp_path / "lost.safetensors"
    both = run_cli(add_generator.main, *given, "--photos", given[3]).only_error()
    assert "12 images are in --images and --photos, such as " in both
    done = run_cli(add_generator.main, *given, "--max-loss", 0, "--out", out, "--report", page)
    assert done.code in (0, 2)
    assert out.exists() == (done.code == 0)
    assert "Before and after" in page.read_text(encoding="utf-8")


def test_what_cannot_be_taught_is_refused_in_a_line(
    given: tuple[object, ...], memory: Rehearsal, tmp_path: Path, run_cli: RunCli, make_image: MakeImage
) -> None:
    def refused(*arguments: object) -> str:
        return run_cli(add_generator.main, *given, *arguments).only_error()

    assert "is read by this command" in refused("--out", given[1], "--overwrite")
    assert "ends in .safetensors" in refused("--out", tmp_path / "x.bin")
    assert "ends in .html or .json" in refused("--report", tmp_path / "x.txt")
    assert "no such" in refused("--memory", tmp_path / "none").lower() or "is not there" in refused(
        "--memory", tmp_path / "none"
    )
    assert "--images needs --name" in refused("--name", " ")
    assert "--judged 1.0" in refused("--judged", 1.0)
    one = tmp_path / "one"
    make_image(one / "1.png", seed=0, size=(60, 60))
    assert "1 images; at least 6 are needed" in refused("--images", one)
    assert "does not exist" in refused("--images", tmp_path / "nowhere")
    other = tmp_path / "other.rehearsal"
    replace(memory, head="0" * 64).save(other)
    assert "the memory of another detector" in refused("--memory", other)
    replace(memory, added=({"images": {"fake:older": 9}},)).save(other)
    assert "it does not remember what was added to" in refused("--memory", other)
    replace(memory, seen=memory.training).save(other)
    assert "0 real images and 0 fakes that training held out; a calibration takes 99 and 20" in refused(
        "--memory", other
    )
    narrow = tuple(each_KD[:, 1:] for each_KD in memory.directions_KD)
    replace(memory, directions_KD=narrow).save(other)
    assert "the shapes of its tensors are not those of this detector" in refused("--memory", other)
    assert "its folder is a file" in refused("--out", other / "x.safetensors")
    odd = tmp_path / "od\nd"
    make_image(odd / "1.png", seed=0, size=(60, 60))
    assert "--photos-name, or the name of the folder, is one short line" in refused("--photos", odd)
    assert "--seed must be 0 or more" in refused("--seed", -1)
    stage1 = make_detector(tmp_path / "one.safetensors", config_with(("centre",), stage=1), calibrated=False)
    assert "a detector of stage 1" in refused("--model_path", stage1, "--memory", other)
