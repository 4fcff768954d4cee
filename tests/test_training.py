"""What train.py does with recipes, loop and detectors."""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import with_damaged_palette
from torch import Tensor

import train
from data.holdout import Split
from data.sources import open_source
from gapl.config import LoraSpec
from gapl.files import lock
from gapl.lora import is_lora, merge_lora
from gapl.names import DETECTOR_NAME, FORMS, TINY
from models import tensorfile
from models.adapt import base_tower
from models.weights.backbone import fingerprint, load_backbone
from models.weights.checkpoint import FORMAT, load_checkpoint, read_checkpoint, read_info, save_checkpoint
from prototype.bank import PrototypeBank
from training.recipe import make_recipe
from training.runs import Run

if TYPE_CHECKING:
    from tests.conftest import MakeImage, RunCli, TinyRun


Train = Callable[..., Any]


@pytest.fixture
def stage1(run_cli: RunCli, tiny_root: Path) -> Train:
    """`stage1(out, *arguments)` trains stage 1 for an epoch on the tiny tower."""

    def run(out: Path, *arguments: object, root: Path = tiny_root) -> Any:
        common = ("--stage", 1, "--preset", "small", "--backbone", "tiny", "--data-root", root, "--out", out)
        return run_cli(train.main, *common, "--epochs", 1, "--num-workers", 0, *arguments)

    return run


@pytest.fixture
def stage2(run_cli: RunCli, tiny_run: TinyRun) -> Train:
    """`stage2(out, *arguments)` trains stage 2 for an epoch from what `tiny_run` left."""

    def run(out: Path, *arguments: object, init: Path = tiny_run.stage1, bank: Path | None = tiny_run.bank) -> Any:
        start = ("--stage", 2, "--preset", "small", "--init", init, "--out", out)
        common = ("--data-root", tiny_run.root, "--epochs", 1, "--num-workers", 0)
        return run_cli(train.main, *start, *common, *(("--prototypes", bank) if bank else ()), *arguments)

    return run


def test_dry_run_counts_the_published_model_without_weights_or_network(
    run_cli: RunCli, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage, counts in ((1, "303,310,976 parameters, 131,200"), (2, "305,736,320 parameters, 2,556,544")):
        done = run_cli(train.main, "--stage", stage, "--data-root", tiny_root, "--dry-run")
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == f"{counts} trainable"
        assert "19 real images of 2 sources, 19 fakes of 2 generators; validation on 2 images" in done.out
    assert not list(tmp_path.iterdir())


def tensors_of(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path, merge=False, allow_tiny=True).detector.state_dict()


@pytest.mark.parametrize("options", [("--feature-views", 2), ("--feature-views", 0)], ids=["features", "images"])
def test_same_seed_same_detector_whatever_the_workers(stage1: Train, tmp_path: Path, options: tuple[Any]) -> None:
    for name, extra in (("a", ()), ("b", ("--num-workers", 2)), ("c", ("--seed", 1))):
        done = stage1(tmp_path / name, *options, *extra)
        assert done.code == 0, done.err
    a, b, c = (tensors_of(tmp_path / name / DETECTOR_NAME) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["project.weight"], c["project.weight"])


def test_stage2_starts_from_stage1_and_keeps_the_prototypes(
    stage2: Train, tiny_run: TinyRun, tmp_path: Path
) -> None:
    done = stage2(tmp_path, "--max-steps", 1, "--lr", 1e-9)
    assert done.code == 0, done.err
    first, second = tensors_of(tiny_run.stage1), tensors_of(tmp_path / DETECTOR_NAME)
    assert torch.allclose(first["project.weight"], second["project.weight"], atol=1e-6)
    assert torch.equal(second["prototypes_PE"], PrototypeBank.load(tiny_run.bank).vectors_PE)


def test_notice_of_what_training_starts_from_stays(stage2: Train, tiny_run: TinyRun, tmp_path: Path) -> None:
    """Of stage 1, and of a detector of stage 2 that trains on."""
    first = replace(load_checkpoint(tiny_run.stage1, merge=False, allow_tiny=True), notice="means nothing")
    save_checkpoint(tmp_path / "first.safetensors", first)
    for name, init in (("second", tmp_path / "first.safetensors"), ("third", tmp_path / "second" / DETECTOR_NAME)):
        assert stage2(tmp_path / name, "--max-steps", 1, init=init).code == 0
        assert read_info(tmp_path / name / DETECTOR_NAME).notice == "means nothing"


def test_stage2_trains_lora_and_leaves_the_tower(stage2: Train, tmp_path: Path) -> None:
    assert stage2(tmp_path, "--form", "merged", "--lr", 0.01).code == 0
    assert stage2(tmp_path / "adapter", "--lr", 0.01).code == 0
    adapter, merged = tensors_of(tmp_path / "adapter" / DETECTOR_NAME), tensors_of(tmp_path / DETECTOR_NAME)
    place = "tower.encoder.layers.0.self_attn.q_proj"
    update = 2 * adapter[f"{place}.lora_B.default.weight"] @ adapter[f"{place}.lora_A.default.weight"]
    assert update.abs().max() > 1e-5
    assert torch.allclose(merged[f"{place}.weight"], adapter[f"{place}.base_layer.weight"] + update, atol=1e-6)


def test_short_types_in_training_leave_no_trace_in_the_file(stage2: Train, tmp_path: Path) -> None:
    """What is frozen is the backbone's to the bit; merging adds the update and nothing else."""
    options = ("--precision", "bf16", "--lr", 0.01)
    for form in FORMS:
        done = stage2(tmp_path / form, *options, "--form", form)
        assert done.code == 0, done.err
    files = {form: tensorfile.read(tmp_path / form / DETECTOR_NAME, format=FORMAT)[1] for form in FORMS}
    assert {value.dtype for tensors in files.values() for value in tensors.values()} == {torch.float32}
    backbone = load_backbone(TINY).tower.state_dict()
    assert all(torch.equal(value, backbone[name]) for name, value in base_tower(files["full"]).items())
    assert set(base_tower(files["full"])) == set(backbone)
    assert all(torch.equal(value, files["full"][name]) for name, value in files["adapter"].items())
    merged = merge_lora(files["full"], LoraSpec())
    assert set(merged) == set(files["merged"])
    assert all(torch.equal(value, merged[name]) for name, value in files["merged"].items())
    changed = {
        name for name, value in base_tower(files["merged"]).items() if not torch.equal(value, backbone[name])
    }
    assert changed == {
        f"encoder.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkv"
    }


@pytest.fixture
def go_on(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> Train:
    """`go_on(form, *arguments)` trains on for a step, into tmp_path/run, from `tiny_run`'s detector in that form.

    Other keywords change its config.
    """

    def run(form: str, *arguments: object, **changed: Any) -> Any:
        init = tmp_path / f"{form}.safetensors"
        loaded = load_checkpoint(tiny_run.stage2, merge=False, allow_tiny=True)
        config = replace(loaded.config, **changed)
        save_checkpoint(init, replace(loaded, form=form, config=config, threshold=0.3))
        start = ("--stage", 2, "--preset", "paper", "--init", init, "--out", tmp_path / "run")
        common = ("--data-root", tiny_run.root, "--max-steps", 1, "--batch-size", 8, "--num-workers", 0)
        return run_cli(train.main, *start, *common, *arguments)

    return run


@pytest.mark.parametrize(
    ("init", "saved"),
    [("adapter", "adapter"), ("adapter", "merged"), ("full", "adapter"), ("full", "full"), ("merged", "full")],
)
def test_training_goes_on_from_a_stage2_detector(go_on: Train, tmp_path: Path, init: str, saved: str) -> None:
    done = go_on(init, "--form", saved, "--lr", 1e-9)
    assert done.code == 0, done.err
    before = load_checkpoint(tmp_path / f"{init}.safetensors", merge=False, allow_tiny=True)
    after = load_checkpoint(tmp_path / "run" / DETECTOR_NAME, merge=False, allow_tiny=True)
    assert after.threshold == 0.3
    assert after.provenance["init"] == str(tmp_path / f"{init}.safetensors")
    assert after.provenance["prototypes"] == before.provenance["prototypes"]
    assert after.config.lora == (None if saved == "merged" else LoraSpec())
    found, expected = after.detector.state_dict(), before.detector.state_dict()
    assert torch.equal(found["prototypes_PE"], expected["prototypes_PE"])
    if saved != "merged":
        started, base = base_tower(expected), base_tower(found)
        assert all(torch.equal(base[name], started[name]) for name in started)
    found, expected = merge_lora(found, LoraSpec()), merge_lora(expected, LoraSpec())
    assert set(found) == set(expected)
    assert all(torch.allclose(found[name], expected[name], rtol=0, atol=1e-6) for name in expected)


@pytest.mark.parametrize("init", FORMS)
def test_going_on_trains_what_stage2_trains(go_on: Train, tmp_path: Path, init: str) -> None:
    assert go_on(init, "--form", "full", "--lr", 0.01).code == 0
    before, after = tensors_of(tmp_path / f"{init}.safetensors"), tensors_of(tmp_path / "run" / DETECTOR_NAME)
    changed = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert {name.split(".")[0] for name in changed} == {"tower", "project", "attention", "classifier"}
    of_tower = {name for name in changed if name.startswith("tower.")}
    assert of_tower <= {name for name in after if is_lora(name) or "base_layer" in name}
    assert all(torch.equal(base_tower(after)[name], value) for name, value in base_tower(before).items())


def test_going_on_can_change_the_prototypes(go_on: Train, tmp_path: Path) -> None:
    bank = PrototypeBank(torch.eye(128)[:4], torch.tensor([0, 0, 0, 1]), {"method": "by hand"})
    bank.save(tmp_path / "bank.safetensors")
    assert go_on("full", "--prototypes", tmp_path / "bank.safetensors").code == 0
    after = load_checkpoint(tmp_path / "run" / DETECTOR_NAME, allow_tiny=True)
    assert torch.equal(after.detector.prototypes_PE, bank.vectors_PE)
    assert after.provenance["prototypes"] == {"method": "by hand", "num_real": 3, "num_fake": 1}


def test_fingerprint_of_a_merged_tower_is_its_own(go_on: Train, tmp_path: Path) -> None:
    """It is not the named backbone any more, and no adapter on it may claim to be."""
    assert go_on("merged", "--form", "full").code == 0
    after = load_checkpoint(tmp_path / "run" / DETECTOR_NAME, merge=False, allow_tiny=True)
    assert after.backbone_fingerprint == fingerprint(base_tower(after.detector.state_dict()))
    assert after.backbone_fingerprint != fingerprint(load_backbone(TINY).tower.state_dict())


def test_going_on_as_it_cannot_be_is_refused(go_on: Train, tmp_path: Path) -> None:
    for done, message in (
        (go_on("merged"), "an adapter cannot name a merged tower as its backbone; pass --form full"),
        (go_on("full", backbone=""), "an adapter cannot name a tower without a name as its backbone"),
        (go_on("full", "--backbone", "tiny"), "--backbone tiny: .* has tiny"),
        (go_on("adapter", "--backbone", "other"), "backbone 'other' cannot be loaded"),
        (
            go_on("full", "--lora-rank", 4),
            "--lora-rank 4: .* has LoRA of rank 16, alpha 32 and dropout 0.1, which is kept",
        ),
        (go_on("full", "--normalisation", "imagenet"), "was trained with another"),
    ):
        assert re.search(message, done.only_error())
        assert not (tmp_path / "run").exists()


def test_run_is_written_down(stage1: Train, tmp_path: Path) -> None:
    done = stage1(tmp_path, "--lr", 0.002)
    names = ["config.json", "curves.png", DETECTOR_NAME, "metrics.jsonl", "scores_random.csv", "validation.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["recipe"]["lr"] == 0.002
    assert config["preset"] == "small"
    provenance = load_checkpoint(tmp_path / DETECTOR_NAME, allow_tiny=True).provenance
    assert provenance["data"]["images"] == 38
    assert provenance["epoch"] == 1
    assert f"saved {tmp_path / DETECTOR_NAME} (adapter" in done.out


def test_what_is_told_of_a_run_is_what_its_stage_uses(stage2: Train, tmp_path: Path) -> None:
    """The views and layers of stage 2 are those of the detector that it starts from."""
    done = stage2(tmp_path, "--max-steps", 1)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["detector"]["pixel"]["views"] == ["centre"]
    of_file = load_checkpoint(tmp_path / DETECTOR_NAME, allow_tiny=True).provenance
    for recipe in (told["recipe"], of_file["recipe"]):
        assert recipe["lora_rank"] == 16
        assert not recipe.keys() & {"views", "feature_layers", "whole_layers"}
    plan = done.out.splitlines()[0]
    assert ", lora_rank 16, " in plan
    assert "whole_layers" not in plan
    assert ", views " not in plan


def test_a_run_of_before_has_every_field_in_its_settings(tiny_root: Path) -> None:
    """Else it could not be continued."""
    recipe = make_recipe("small", stage=2, overrides={})
    images = open_source(str(tiny_root / "train"), split="train")
    args = argparse.Namespace(stage=2, holdout=None)
    split = Split(images, images, images, ())
    settings = train.settings_of(args, recipe, split, start_fingerprint="", stream_parts=1)
    assert settings.items() >= (asdict(recipe).items() - {("num_workers", recipe.num_workers)})


def test_whole_sources_are_held_out_and_select_the_epoch(stage2: Train, tmp_path: Path) -> None:
    heldout = ("--holdout", "beta", "--select", "heldout", "--keep", "best", "--epochs", 2, "--val-fraction", 0.1)
    done = stage2(tmp_path, *heldout)
    assert done.code == 0, done.err
    assert "11 real images of 1 sources, 11 fakes of 1 generators; validation on 2 images" in done.out
    assert "held out whole, 16 images to validate on: beta (real), beta (fake)" in done.out
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["held_out"] == ["real:beta", "fake:beta"]
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    validations = [line["validation"] for line in logged if "validation" in line]
    assert [set(parts) for parts in validations] == [{"random", "heldout"}] * 2
    assert validations[0]["heldout"]["sources"]["fake"]["beta"]["images"] == 8
    assert set(validations[0]["random"]["sources"]["real"]) == {"alpha"}
    accuracies = [parts["heldout"]["accuracy"] for parts in validations]
    epoch = load_checkpoint(tmp_path / DETECTOR_NAME, allow_tiny=True).provenance["epoch"]
    assert epoch == 1 + accuracies.index(max(accuracies))
    table = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [(row["part"], row["class"], row["source"], row["images"]) for row in table] == [
        ("random", "real", "alpha", "1"),
        ("random", "fake", "alpha", "1"),
        ("heldout", "real", "beta", "8"),
        ("heldout", "fake", "beta", "8"),
    ]
    none = stage2(tmp_path / "none", "--select", "heldout")
    assert "--select heldout needs --holdout-fraction or --holdout" in none.only_error()
    both = stage2(tmp_path / "both", "--holdout", "beta", "--holdout-fraction", 0.5)
    assert "--holdout-fraction has no effect with --holdout" in both.only_error()
    none = stage2(tmp_path / "none", "--holdout", "beta", "--val-fraction", 0)
    assert "--select random needs --val-fraction above 0; pass --select heldout" in none.only_error()


@pytest.fixture
def shards(tmp_path: Path, make_image: MakeImage) -> Path:
    """Parquet shards of one class each, of two sources; fakes are darker."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for label, levels in ((0, 256), (1, 100)):
        for shard in range(2):
            images = [
                make_image(tmp_path / "image.png", seed=100 * label + 20 * shard + i, levels=levels).read_bytes()
                for i in range(12)
            ]
            columns = {
                "image_data": images,
                "label": [label] * 12,
                "model_name": [f"source{i % 2}" for i in range(12)],
                "architecture": ["real" if label == 0 else "GAN"] * 12,
            }
            pq.write_table(pa.table(columns), folder / f"train-{label}{shard}.parquet")
    return folder


@pytest.mark.parametrize("balance", ["class", "generator"])
def test_training_streams_shards_and_validates_on_copies(
    run_cli: RunCli, tiny_run: TinyRun, shards: Path, tmp_path: Path, balance: str
) -> None:
    start = ("--stage", 2, "--preset", "small", "--init", tiny_run.stage1, "--prototypes", tiny_run.bank)
    options = ("--stream", "yes", "--balance", balance, "--batch-size", 4, "--epochs", 2, "--val-fraction", 0.1)
    done = run_cli(train.main, *start, "--data", shards, *options, "--num-workers", 0, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "22 real images of 2 sources, 22 fakes of 2 generators, streamed; validation on 4 images" in done.out
    logged = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum("loss" in line for line in logged) == 2 * (44 // 4)
    assert [line["validation"]["random"]["n_real"] for line in logged if "validation" in line] == [2, 2]
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["data"]["streamed"] is True


def test_stream_that_cannot_be_is_refused(stage1: Train, run_cli: RunCli, shards: Path, tmp_path: Path) -> None:
    assert "--stream yes: the images are not in parquet shards" in stage1(tmp_path, "--stream", "yes").only_error()
    first = ("--stage", 1, "--preset", "small", "--backbone", "tiny", "--out", tmp_path / "run")
    done = run_cli(train.main, *first, "--data", shards, "--stream", "yes")
    assert "read again in every epoch: pass --feature-views 0, or --stream no" in done.only_error()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--balance", "generator"), "--balance is only for a stream of shards"),
        (("--stream-parts", 2), "--stream-parts is only for a stream of shards"),
        (("--compile", 1), "--compile is only for --feature-views 0"),
    ],
)
def test_option_without_effect_is_refused(
    stage1: Train, tmp_path: Path, options: tuple[Any], message: str
) -> None:
    assert message in stage1(tmp_path, *options).only_error()


def test_sampling_of_a_stream_is_refused(run_cli: RunCli, shards: Path, tmp_path: Path) -> None:
    first = ("--stage", 1, "--preset", "paper", "--backbone", "tiny", "--out", tmp_path / "run", "--data", shards)
    done = run_cli(train.main, *first, "--stream", "yes", "--sampling", "source")
    assert "--sampling is only for images that are not streamed" in done.only_error()


def test_run_that_started_from_something_else_is_not_gone_on_with(
    stage2: Train, tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same paths and options, but other prototypes in the file."""
    bank = tmp_path / "bank.safetensors"
    bank.write_bytes(tiny_run.bank.read_bytes())
    monkeypatch.setattr(Run, "finish", lambda _run: None)
    options = ("--batch-size", 4, "--save-steps", 1)
    assert stage2(tmp_path / "run", *options, bank=bank).code == 0
    (tmp_path / "run" / DETECTOR_NAME).unlink()
    other = PrototypeBank.load(bank)
    PrototypeBank(-other.vectors_PE, other.labels_P).save(bank)
    assert "had start" in stage2(tmp_path / "run", *options, bank=bank).only_error()


def test_trackers_get_what_metrics_has(stage1: Train, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = stage1(tmp_path, "--track", "tensorboard")
    assert done.code == 0, done.err
    events = event_accumulator.EventAccumulator(str(tmp_path / "gapl"))
    events.Reload()
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert "validation/random/accuracy" in events.Tags()["scalars"]


def test_tracker_that_is_not_there_is_told(stage1: Train, tmp_path: Path) -> None:
    assert "--track mlflow: choose from tensorboard, wandb" in stage1(tmp_path, "--track", "mlflow").only_error()


def test_profile_says_where_the_time_goes(stage2: Train, tmp_path: Path) -> None:
    done = stage2(tmp_path, "--profile", "--max-steps", 2)
    assert re.search(r"time of 2 steps, [0-9.]+ s:", done.out)
    for section in ("data", "forward", "backward", "update", "validate"):
        assert re.search(rf"  {section} +[0-9.]+ s/step +[0-9.]+%", done.out)


def test_features_are_computed_once_for_all_runs(stage1: Train, tmp_path: Path) -> None:
    cache = ("--feature-cache", tmp_path / "cache", "--feature-views", 1)
    assert stage1(tmp_path / "a", *cache).code == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert len(files) == 2, "of training and of validation"
    assert stage1(tmp_path / "b", *cache, "--lr", 0.002).code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == files


@pytest.mark.parametrize(
    "options", [("--feature-views", 2), ("--feature-views", 0, "--epochs", 3)], ids=["features", "images"]
)
def test_unreadable_images_are_named_once_and_the_run_goes_on(
    stage1: Train, tmp_path: Path, make_image: MakeImage, options: tuple[Any]
) -> None:
    """With half of the images held out, some of the broken ones are in either part."""
    broken = set()
    for number, kind in enumerate(("0_real", "1_fake")):
        for i in range(12):
            path = tmp_path / "root/train" / kind / f"{i}.png"
            make_image(path, seed=20 * number + i, size=(40, 40))
            if i % 3 == 0:
                path.write_bytes(path.read_bytes()[:200] if i else with_damaged_palette())
                broken.add(str(path))
    allowed = ("--val-fraction", 0.5, "--max-unreadable", 0.5)
    done = stage1(tmp_path / "run", *allowed, *options, root=tmp_path / "root")
    assert done.code == 0, done.err
    with (tmp_path / "run/unreadable.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert sorted(uri for uri, _ in rows) == sorted(broken)
    assert all(reason for _, reason in rows)
    assert (tmp_path / "run" / DETECTOR_NAME).is_file()


def test_finished_run_is_kept_unless_told_otherwise(stage1: Train, tmp_path: Path) -> None:
    assert stage1(tmp_path).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert f"error: {tmp_path} holds a finished run" in stage1(tmp_path).only_error()
    assert stage1(tmp_path, "--reuse", "--lr", 0.5).out == f"{tmp_path / DETECTOR_NAME} is there: reused\n"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert stage1(tmp_path, "--overwrite", "--lr", 0.5).code == 0
    assert (tmp_path / DETECTOR_NAME).read_bytes() != before[DETECTOR_NAME]


def test_run_that_was_stopped_is_started_anew(stage1: Train, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"recipe": {}}')
    (tmp_path / "metrics.jsonl").write_text("{}\n" * 100)
    (tmp_path / "unreadable.csv").write_text("old,old\n")
    assert stage1(tmp_path).code == 0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) < 10
    assert not (tmp_path / "unreadable.csv").exists()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "scores_mine.csv", "checkpoints/other.bin"])
def test_files_of_no_run_are_kept(stage1: Train, tmp_path: Path, name: str) -> None:
    """config.json is a common name: only that of a run says that the other files are a run's."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    first = tmp_path / Path(name).parts[0]
    assert f"error: {first} is of no run of train.py; name another --out" in stage1(tmp_path).only_error()
    assert [each.name for each in tmp_path.iterdir()] == [first.name]
    assert stage1(tmp_path, "--overwrite").code == 0
    is_kept = path.exists() and path.read_text() == "{}"
    assert is_kept == (name == "checkpoints/other.bin"), "the checkpoints that are no run's are not replaced"


def test_a_folder_that_another_process_trains_into_is_refused(
    stage1: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.1)
    with lock.alone_in(tmp_path):
        assert f"error: {tmp_path} is used by another run" in stage1(tmp_path).only_error()
    assert list(tmp_path.iterdir()) == []
    assert stage1(tmp_path).code == 0


def test_stages_that_do_not_fit_together_are_refused(stage2: Train, tiny_run: TinyRun, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.safetensors"
    PrototypeBank(torch.eye(64)[:4], torch.tensor([0, 0, 1, 1])).save(narrow)
    out = tmp_path / "run"
    for done, message in (
        (
            stage2(out, "--lora-dropout", 0.2, init=tiny_run.stage2),
            "--lora-dropout 0.2: .* dropout 0.1, which is kept",
        ),
        (stage2(out, init=tiny_run.bank), "of the format 'gapl-prototypes-1', not"),
        (stage2(out, init=tmp_path / "gone"), "no such file; expected a detector"),
        (stage2(out, bank=None), "--init is a stage-1 detector: it also needs --prototypes"),
        (stage2(out, bank=narrow), "vectors of 64 dimensions, but the embeddings of"),
        (
            stage2(out, bank=tiny_run.stage1),
            "of the format 'gapl-detector-1', not 'gapl-prototypes-1'; expected a",
        ),
        (stage2(out, "--normalisation", "imagenet"), "the detector of --init was trained with another"),
    ):
        assert re.search(message, done.only_error())
        assert not out.exists()


@pytest.mark.parametrize(
    ("stage", "name", "value"), [(1, "lora_rank", 4), (1, "lora_dropout", 0.0), (2, "feature_views", 2)]
)
def test_an_option_of_the_other_stage_is_refused(stage: int, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} has no effect in stage {stage}"):
        make_recipe("paper", stage=stage, overrides={name: value})


def test_lora_goes_on_from_a_head_on_the_frozen_tower(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> None:
    """The road of the preset mini: a head on cached features, then LoRA; held-out scores are kept."""
    held = ("--holdout-fraction", 0.5, "--val-fraction", 0, "--select", "heldout")
    common = (
        "--data-root",
        tiny_run.root,
        "--num-workers",
        0,
        "--batch-size",
        8,
        "--feature-cache",
        tmp_path,
        *held,
    )
    head, whole = tmp_path / "head", tmp_path / "whole"
    start = ("--init", tiny_run.stage1, "--prototypes", tiny_run.bank)
    done = run_cli(
        *(train.main, "--stage", 2, "--preset", "mini-head", *start, "--epochs", 2, "--out", head, *common)
    )
    assert done.code == 0, done.err
    stored = read_checkpoint(head / "detector.safetensors")
    assert stored.info is not None
    assert stored.info.config.lora is None
    assert not [name for name in stored.tensors if name.startswith("tower.")], "the tower is as it was"
    start = ("--init", head / "detector.safetensors")
    done = run_cli(
        *(train.main, "--stage", 2, "--preset", "mini", *start, "--max-steps", 2, "--out", whole, *common)
    )
    assert done.code == 0, done.err
    assert read_info(whole / "detector.safetensors").config.lora is not None
    assert (whole / "scores_heldout.csv").read_text().startswith("uri,label,generator,logit,score")


def test_holdout_of_a_detector_file_holds_out_what_its_training_did(
    run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path
) -> None:
    """A fraction draws by the seed; a detector that trains on must not see what the first one was judged by."""
    data = ("--data-root", tiny_run.root, "--num-workers", 0, "--val-fraction", 0)
    fraction = ("--holdout-fraction", 0.5)

    def held_out(*options: object) -> str:
        start = ("--stage", 2, "--init", tiny_run.stage1, "--prototypes", tiny_run.bank, "--select", "heldout")
        done = run_cli(train.main, *start, *data, *options, "--out", tmp_path / "unused", "--dry-run")
        assert done.code == 0, done.err
        return next(line for line in done.out.splitlines() if line.startswith("held out whole"))

    one = tmp_path / "one"
    start = ("--stage", 1, "--backbone", "tiny", "--epochs", 1, "--select", "heldout", "--seed", 3)
    done = run_cli(train.main, *start, *data, *fraction, "--feature-views", 0, "--out", one)
    assert done.code == 0, done.err
    detector = one / "detector.safetensors"
    drawn = {held_out("--seed", seed, *fraction) for seed in range(8)}
    assert len(drawn) > 1, "the seed decides, else this shows nothing"
    told = {held_out("--seed", seed, "--holdout", f"@{detector}") for seed in range(8)}
    assert told == {held_out("--seed", 3, *fraction)}
    more = tmp_path / "more.safetensors"
    header, tensors = tensorfile.read(detector, format=FORMAT)
    held = [each.replace(":", " ") for each in header["provenance"]["held_out"]]  # as in older files
    header["provenance"]["held_out"] = [*held, "fake gone"]
    tensorfile.write(more, tensors, format=FORMAT, header=header)
    assert {held_out("--seed", 0, "--holdout", f"@{more}")} == told
    missing = run_cli(
        train.main, "--stage", 1, *data, "--holdout", f"@{tmp_path / 'none'}", "--out", tmp_path / "x"
    )
    assert f"{tmp_path / 'none'}: no such file" in missing.only_error()

    nothing = run_cli(
        *(train.main, "--stage", 2, "--init", tiny_run.stage1, "--prototypes", tiny_run.bank, *data),
        *("--holdout", f"@{tiny_run.stage1}", "--out", tmp_path / "unused"),
    )
    assert f"--holdout @{tiny_run.stage1}: of 0 sources that it names none is here" in nothing.only_error()
