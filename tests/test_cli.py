"""The whole pipeline by its commands, on the random tower of the tests; and what they say to bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import benchmarks
import inference
import prototype_dataset
import train
from gapl.decode import UnreadableImage
from inference import Detector, Verdict
from models.device import pick_device
from models.run import engine_of
from models.weights.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from tests.conftest import Finished, MakeImage, RunCli, TinyRun

PROJECT = Path(__file__).resolve().parent.parent
WAY = "[INFO] Judging by torch in fp32 on the cpu\n"


def run_file(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command as a user gives it, in a process of its own."""
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=os.environ, check=False)


# ---------------------------------------------------------------------------------------------------------
# The road


@pytest.fixture(scope="module")
def scored(tiny_run: TinyRun, run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """Return what benchmarks.py wrote to the terminal, and the folder of its results."""
    out = tmp_path_factory.mktemp("scored") / "benchmarks"
    options = ("--allow-tiny", "--num-workers", 0, "--batch-size", 4, "--out", out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAPL_DATA_ROOT", str(tiny_run.root))
        done = run_cli(benchmarks.main, "--model_path", tiny_run.stage2, *options)
    assert done.code == 0, done.err
    return done, out


def test_every_image_of_every_benchmark_is_scored(tiny_root: Path, scored: tuple[Finished, Path]) -> None:
    table = pq.read_table(scored[1] / "scores.parquet").to_pylist()
    assert {row["uri"] for row in table} == {str(path) for path in (tiny_root / "bench").rglob("*.png")}
    assert len(table) == 15
    assert {row["benchmark"] for row in table} == {"ForenSynths", "GenImage"}
    assert {(row["width"], row["height"]) for row in table} == {(40, 36)}
    for row in table:
        assert row["label"] == int("ai" in Path(row["uri"]).parts or "1_fake" in row["uri"])
        assert row["score"] == pytest.approx(1 / (1 + 2.718281828459045 ** -row["logit"]), rel=1e-6)


def test_table_of_benchmarks(scored: tuple[Finished, Path]) -> None:
    done, out = scored
    table = pd.read_csv(out / "metrics.csv").set_index(["benchmark", "subset"])
    counts = {index: (int(row.n_real), int(row.n_fake)) for index, row in table.iterrows() if row.n_real >= 0}
    assert counts == {
        ("ForenSynths", "progan"): (3, 2),
        ("ForenSynths", "stylegan"): (2, 2),
        ("ForenSynths", "mean"): (5, 4),
        ("ForenSynths", "all images"): (5, 4),
        ("GenImage", "SDv1.4"): (3, 3),
        ("MEAN", "mean"): (8, 7),
    }
    assert table.loc[("Chameleon", "-"), "note"] == "not found"
    assert "scores of 15 images" in done.out.splitlines()[-1]
    names = ["job.json", "metrics.csv", "metrics.md", "metrics.tex", "scores.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_detector_has_learnt_to_tell_bright_from_dark(scored: tuple[Finished, Path]) -> None:
    """So that a label that was turned around on the way would show."""
    table = pd.read_csv(scored[1] / "metrics.csv").set_index(["benchmark", "subset"])
    assert table.loc[("MEAN", "mean"), "auroc"] > 0.9
    assert table.loc[("MEAN", "mean"), "balanced_accuracy"] > 0.8


def test_only_the_benchmarks_that_are_named(tiny_run: TinyRun, run_cli: RunCli, tmp_path: Path) -> None:
    where = ("--data-root", tiny_run.root, "--benchmarks", "genimage", "--out", tmp_path)
    options = ("--allow-tiny", "--num-workers", 0, *where)
    done = run_cli(benchmarks.main, "--model_path", tiny_run.stage2, *options)
    assert done.code == 0, done.err
    assert pd.read_csv(tmp_path / "metrics.csv")["benchmark"].tolist() == ["GenImage"]


def judge(run_cli: RunCli, tiny_run: TinyRun, path: Path, *arguments: object) -> Any:
    given = ("--model_path", tiny_run.stage2, "--image_path", path, "--allow-tiny")
    return run_cli(inference.main, *given, *arguments)


def test_inference_agrees_with_the_benchmark(
    run_cli: RunCli, tiny_run: TinyRun, scored: tuple[Finished, Path]
) -> None:
    expected = {row["uri"]: row["logit"] for row in pq.read_table(scored[1] / "scores.parquet").to_pylist()}
    done = judge(run_cli, tiny_run, tiny_run.root / "bench", "--json", "--batch-size", 7)
    assert done.code == 0, done.err
    found = {line["path"]: line["logit"] for line in map(json.loads, done.out.splitlines())}
    assert set(found) == set(expected)
    assert [found[uri] for uri in expected] == pytest.approx(list(expected.values()), abs=1e-4)


def test_help_says_what_real_means(run_cli: RunCli) -> None:
    done = run_cli(inference.main, "--help")
    assert done.code == 0
    assert "Real means that no generator made the image" in done.out


def test_one_image(run_cli: RunCli, tiny_run: TinyRun, tiny_root: Path) -> None:
    path = tiny_root / "bench/CNNDetection/test/progan/1_fake/0.png"
    verdict = Detector.load(tiny_run.stage2, allow_tiny=True)(path)
    lines = judge(run_cli, tiny_run, path).out.splitlines()
    assert lines[:4] == [
        f"[INFO] Loading model from {tiny_run.stage2}...",
        f"[RESULT] Image: {path}",
        "  -> Prediction: Fake (AI-Generated)",
        f"  -> Confidence: {verdict.score:.1%}",
    ]
    assert lines[4:] == ["  -> Warning: a random tower, for tests only: this verdict means nothing"]


@pytest.fixture
def mixed_folder(tmp_path: Path, make_image: MakeImage) -> Path:
    """Two images that can be read, at two depths, two that cannot, and a file that is none."""
    folder = tmp_path / "mixed"
    make_image(folder / "a.png", size=(40, 40))
    make_image(folder / "deeper/b.jpg", size=(20, 40))
    (folder / "c.png").write_text("text")
    make_image(folder / "d.jpg", size=(64, 64))
    (folder / "d.jpg").write_bytes((folder / "d.jpg").read_bytes()[:400])
    (folder / "notes.txt").write_text("text")
    return folder


def test_folder_with_broken_images(
    run_cli: RunCli, tiny_run: TinyRun, mixed_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = judge(run_cli, tiny_run, mixed_folder)
    assert done.code == 1, done.err
    for line in (
        "2 images judged: 0 fake, 2 real, 0 unsure",
        "2 could not be read: ",
        "left out: 1 x no image (.txt)",
    ):
        assert line in caplog.text
    heads = [line.replace(str(mixed_folder) + "/", "") for line in done.out.splitlines() if line[0] == "["][1:]
    assert heads == [
        "[RESULT] Image: a.png",
        "[ERROR] Image: c.png",
        "[ERROR] Image: d.jpg",
        "[RESULT] Image: deeper/b.jpg",
    ]
    assert "smaller than 32 px (20 x 40 px) and padded with black" in done.out


def test_json_is_one_object_a_line_and_nothing_else(
    run_cli: RunCli, tiny_run: TinyRun, mixed_folder: Path
) -> None:
    done = judge(run_cli, tiny_run, mixed_folder, "--json", "--batch-size", 2)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["a.png", "c.png", "d.jpg", "b.jpg"]
    assert ["error" in line for line in lines] == [False, True, True, False]
    assert {line["model"] for line in lines} == {str(tiny_run.stage2)}
    verdict = lines[0]
    assert verdict["label"] == ("fake" if verdict["score"] >= verdict["threshold"] else "real")
    assert verdict["warnings"]


def test_stage1_detector_judges_too(run_cli: RunCli, tiny_run: TinyRun, tiny_root: Path) -> None:
    image = tiny_root / "train/alpha/0_real/0.png"
    arguments = ("--model_path", tiny_run.stage1, "--image_path", image, "--allow-tiny", "--json")
    done = run_cli(inference.main, *arguments)
    assert json.loads(done.out)["label"] == "real"


def test_python_interface_takes_images_paths_and_lists(tiny_run: TinyRun, tiny_root: Path) -> None:
    detector = Detector.load(str(tiny_run.stage2), device="cpu", allow_tiny=True)
    paths = [tiny_root / f"train/alpha/{kind}/0.png" for kind in ("0_real", "1_fake")]
    image = Image.open(paths[0])
    single = detector(paths[0])
    assert isinstance(single, Verdict)
    assert detector(str(paths[0])) == detector(image) == single
    both = detector([paths[0], Image.open(paths[1])])
    assert [verdict.label for verdict in both] == ["real", "fake"]
    assert both[0].score == pytest.approx(single.score, abs=1e-6)
    assert both[0].confidence == 1 - both[0].score
    assert both[1].confidence == both[1].score
    assert detector([]) == []


def test_python_interface_tells_what_it_cannot_read(tiny_run: TinyRun, mixed_folder: Path) -> None:
    detector = Detector.load(tiny_run.stage2, allow_tiny=True)
    with pytest.raises(UnreadableImage, match="not an image"):
        detector(mixed_folder / "c.png")
    with pytest.raises(OSError, match="gone"):
        detector(mixed_folder / "gone.png")
    with pytest.raises(ValueError, match="unknown device 'tpu'; choose from auto, cpu, cuda"):
        Detector.load(tiny_run.stage2, device="tpu")


def test_threshold_of_the_file_decides(tiny_run: TinyRun, tiny_root: Path) -> None:
    checkpoint = load_checkpoint(tiny_run.stage2, allow_tiny=True)
    path = tiny_root / "train/alpha/1_fake/0.png"
    score = Detector(engine_of(checkpoint.detector), checkpoint)(path).score
    for threshold, label in ((score, "fake"), (score + 1e-6, "real")):
        checkpoint.threshold = threshold
        verdict = Detector(engine_of(checkpoint.detector), checkpoint)(path)
        assert (verdict.label, verdict.threshold) == (label, threshold)


def test_list_of_the_training_images(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> None:
    """It names the same images, so that training on the list is training on the folders."""
    listed = tmp_path / "list.csv"
    done = run_cli(prototype_dataset.main, "--data-root", tiny_run.root, "--out", listed)
    assert done.code == 0, done.err
    first, *others = done.out.splitlines()
    counts = "20 real images of 2 sources, 20 fakes of 2 generators"
    assert first == f"train of {tiny_run.root.name}: {counts}"
    assert [line.split() for line in others] == [
        ["real", "alpha", "12"],
        ["real", "beta", "8"],
        ["fake", "alpha", "12"],
        ["fake", "beta", "8"],
    ]
    arguments = (
        "--stage",
        1,
        "--preset",
        "small",
        "--backbone",
        "tiny",
        "--data",
        listed,
        "--out",
        tmp_path / "run",
    )
    done = run_cli(train.main, *arguments, "--epochs", 1, "--num-workers", 0)
    assert "19 real images of 2 sources, 19 fakes of 2 generators" in done.out
    assert done.code == 0, done.err


def test_command_as_a_file_from_another_folder(tiny_run: TinyRun, tiny_root: Path, tmp_path: Path) -> None:
    image = tiny_root / "bench/CNNDetection/test/progan/0_real/0.png"
    given = ("--model_path", tiny_run.stage2, "--image_path", image, "--allow-tiny")
    done = run_file(PROJECT / "inference.py", *given, cwd=tmp_path)
    described = f"[INFO] {tiny_run.stage2}: adapter file of a stage-2 detector on tiny\n{WAY}"
    assert (done.returncode, done.stderr) == (0, described)
    assert "  -> Prediction: Real" in done.stdout.splitlines()


START = """
import sys
import inference

print("torch" in sys.modules)
print(inference.Detector.load(sys.argv[1], device="cpu", allow_tiny=True)(sys.argv[2]).score)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("form", ["full", "merged"])
def test_verdict_waits_for_no_library_that_it_does_not_need(
    form: str, tiny_run: TinyRun, tiny_root: Path, tmp_path: Path
) -> None:
    """Each of them takes seconds to import; torch is imported while the file is checked, not before."""
    detector, image = tmp_path / "detector.safetensors", tiny_root / "train/alpha/1_fake/0.png"
    save_checkpoint(detector, replace(load_checkpoint(tiny_run.stage2, merge=False, allow_tiny=True), form=form))
    done = run_file("-c", START, detector, image, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    before, score, imported = done.stdout.splitlines()
    assert before == "False"
    assert float(score) == pytest.approx(Detector.load(tiny_run.stage2, allow_tiny=True)(image).score, abs=1e-5)
    assert "torch" in imported.split()
    heavy = {"transformers", "torchvision", "peft", "open_clip", "onnx", "sklearn", "pandas", "scipy"}
    assert not heavy & set(imported.split())


# ---------------------------------------------------------------------------------------------------------
# Bad input: exit code 2, one line, nothing written


@pytest.fixture
def bad(tmp_path: Path, make_image: MakeImage, tiny_run: TinyRun) -> Path:
    """A folder of things that are not what they should be."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "text.png").write_text("no image")
    make_image(tmp_path / "truncated.jpg")
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "truncated.jpg").read_bytes()[:500])
    make_image(tmp_path / "one_class/0_real/a.png")
    make_image(tmp_path / "one_class/0_real/b.png")
    for kind in ("0_real", "1_fake"):
        for i in range(4):
            path = tmp_path / "unreadable/train" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("no image")
    (tmp_path / "junk.csv").write_bytes(b"\xff\xfe\x00junk")
    (tmp_path / "junk.parquet").write_bytes(b"PAR1 junk")
    (tmp_path / "truncated.safetensors").write_bytes(tiny_run.stage2.read_bytes()[:2000])
    torch.save({"model": {}}, tmp_path / "checkpoint.pt")
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


Case = tuple[list[object], str]


def refuses(run_cli: RunCli, main: Callable[[], None], cases: list[Case], folder: Path) -> None:
    """Every command is refused with the message, and `folder` stays as it was."""
    before = snapshot(folder)
    for arguments, message in cases:
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        error = run_cli(main, *arguments).only_error()
        assert message in error, f"{arguments}: {error}"
        assert snapshot(folder) == before, arguments


def test_inference_refuses(run_cli: RunCli, tiny_run: TinyRun, tiny_root: Path, bad: Path) -> None:
    image = tiny_root / "train/alpha/0_real/0.png"

    def of(path: Path, *more: object) -> list[object]:
        return ["--model_path", tiny_run.stage2, "--image_path", path, "--allow-tiny", *more]

    def by(model: Path) -> list[object]:
        return ["--model_path", model, "--image_path", image, "--allow-tiny"]

    cases: list[Case] = [
        (of(bad / "gone.png"), f"{bad}/gone.png does not exist"),
        (of(bad / "empty"), f"{bad}/empty: no image files"),
        (of(bad / "truncated.jpg"), f"{bad}/truncated.jpg: damaged image"),
        (of(bad / "text.png"), f"{bad}/text.png: not an image"),
        (of(bad / "unreadable"), "none of the 8 images could be read"),
        (of(image, "--device", "cuda"), "--device cuda: this machine"),
        (of(image, "--device", "tpu"), "argument --device: invalid choice: 'tpu'"),
        (of(image, "--batch-size", 0), "--batch-size must be at least 1, not 0"),
        (of(image, "--batch-size", "many"), "argument --batch-size: invalid int value: 'many'"),
        (of(image, "--colour"), "unrecognized arguments: --colour"),
        (["--model_path", tiny_run.stage2, "--image_path", image], "trained on the random `tiny` tower"),
        (["--model_path", tiny_run.stage2], "no image is named; give the path"),
        (by(bad / "gone.safetensors"), "no such file; expected a detector, made by train.py"),
        (by(bad / "truncated.safetensors"), "damaged, or no safetensors file ("),
        (by(bad / "checkpoint.pt"), "its prototypes are missing"),
        (by(tiny_run.bank), "of the format 'gapl-prototypes-1', not 'gapl-detector-1'; expected a"),
        (by(bad / "empty"), "a folder; expected a detector, made by train.py"),
    ]
    refuses(run_cli, inference.main, cases, bad)


def test_training_refuses(run_cli: RunCli, tiny_root: Path, bad: Path) -> None:
    out = ["--out", bad / "run", "--num-workers", 0]

    def on(*data: object) -> list[object]:
        return ["--stage", 1, "--preset", "small", "--backbone", "tiny", *out, *data]

    def with_(*options: object) -> list[object]:
        return on("--data-root", tiny_root, *options)

    cases: list[Case] = [
        (on(), "no images to train on: give --data-root"),
        (on("--data-root", bad / "gone"), f"{bad}/gone: no such data folder"),
        (on("--data-root", bad / "empty"), f"{bad}/empty: no images for stage 1 found; looked for"),
        (on("--data", bad / "gone"), f"{bad}/gone does not exist"),
        (on("--data", bad / "empty"), f"{bad}/empty: no class folder found"),
        (on("--data", bad / "file"), f"{bad}/file is no source of images"),
        (on("--data", bad / "one_class"), "no fake images (2 real, 0 fake); both classes are needed"),
        (on("--data", bad / "junk.csv"), f"{bad}/junk.csv is no CSV file"),
        (on("--data", bad / "junk.parquet"), f"{bad}/junk.parquet cannot be read as parquet"),
        (on("--data", tiny_root / "train", tiny_root / "train"), "listed twice"),
        (with_("--mix", "all"), "unknown mix 'all'; choose from auto, stage1"),
        (with_("--mix", "release"), "mix release is not complete"),
        (with_("--preset", "fast"), "unknown preset 'fast' for stage 1; choose from paper"),
        (with_("--stage", 3), "argument --stage: invalid choice: 3"),
        (with_("--epochs", "ten"), "argument --epochs: invalid int value: 'ten'"),
        (with_("--epochs", 0), "epochs must be at least 1, not 0"),
        (with_("--val-fraction", 2), "val_fraction must be at least 0 and below 1, not 2"),
        (with_("--sampling", "sorted"), "argument --sampling: invalid choice: 'sorted'"),
        (with_("--train-view", "zoom"), "argument --train-view: invalid choice: 'zoom'"),
        (with_("--precision", "fp16", "--device", "cpu"), "--precision fp16 needs a GPU"),
        (with_("--device", "cuda"), "--device cuda: this machine"),
        (with_("--backbone", bad / "gone"), "no such folder (without a hub"),
        (with_("--backbone", "open_clip:x"), "expected open_clip:<model>/<tag or file>"),
        (with_("--overwrite", "--reuse"), "not allowed with argument"),
        (with_("--out", bad / "file" / "run"), f"{bad}/file"),
        (with_("--init", bad / "file"), "--init and --prototypes are for stage 2"),
        (with_("--lora-rank", 4), "lora_rank has no effect in stage 1"),
        (["--stage", 2, "--data-root", tiny_root, *out], "--stage 2 needs --init"),
        (["--data-root", tiny_root], "required: --stage"),
    ]
    refuses(run_cli, train.main, cases, bad)


@pytest.mark.parametrize(
    "options", [("--feature-views", 2), ("--feature-views", 0), ("--feature-views", 0, "--val-fraction", 0)]
)
def test_training_on_nothing_readable_leaves_no_detector(
    run_cli: RunCli, bad: Path, options: tuple[object, ...]
) -> None:
    arguments = ["--stage", 1, "--preset", "small", "--backbone", "tiny", "--data-root", bad / "unreadable"]
    done = run_cli(train.main, *arguments, "--out", bad / "run", "--num-workers", 0, *options)
    assert "none of the" in done.only_error()
    assert not list((bad / "run").glob("*.safetensors"))


def test_benchmarks_refuse(run_cli: RunCli, tiny_run: TinyRun, tiny_root: Path, bad: Path) -> None:
    def on(root: Path, *more: object, model: Path = tiny_run.stage2) -> list[object]:
        given = ["--model_path", model, "--data-root", root, "--allow-tiny", "--num-workers", 0]
        return [*given, "--out", bad / "run", *more]

    cases: list[Case] = [
        (["--model_path", tiny_run.stage2], "no benchmarks to look for: give --data-root or set GAPL_DATA_ROOT"),
        (on(bad / "gone"), f"{bad}/gone does not exist"),
        (on(bad / "empty"), f"{bad}/empty: no benchmark found"),
        (on(tiny_root, "--benchmarks", "GenImage,Nothing"), "unknown benchmark 'Nothing'; expected one of"),
        (on(tiny_root, "--benchmarks", "UFD"), "no benchmark found (UFD: not found"),
        (on(tiny_root, model=bad / "truncated.safetensors"), "damaged, or no safetensors file ("),
        (
            on(tiny_root, model=tiny_run.bank),
            "of the format 'gapl-prototypes-1', not 'gapl-detector-1'; expected a",
        ),
        (on(tiny_root, "--out", bad / "file"), f"{bad}/file"),
        (on(tiny_root, "--out", bad / "file" / "run"), f"{bad}/file"),
        (on(tiny_root, "--device", "cuda"), "--device cuda: this machine"),
    ]
    refuses(run_cli, benchmarks.main, cases, bad)
    refused = run_cli(benchmarks.main, *on(tiny_root, "--batch-size", 0))
    assert "batch" in refused.only_error()
    assert not (bad / "run/scores.parquet").exists()


def test_list_of_images_refuses(run_cli: RunCli, tiny_root: Path, bad: Path) -> None:
    cases: list[Case] = [
        (["--data-root", bad / "gone"], f"{bad}/gone: no such data folder"),
        (["--data-root", tiny_root, "--mix", "all"], "unknown mix 'all'"),
        (["--data-root", tiny_root, "--out", bad / "file/list.csv"], f"{bad}/file"),
        ([], "no images to train on: give --data-root"),
    ]
    refuses(run_cli, prototype_dataset.main, cases, bad)


def test_refusal_as_a_file_is_one_line_after_the_log(tiny_run: TinyRun, bad: Path) -> None:
    given = ("--model_path", tiny_run.stage2, "--image_path", bad / "text.png", "--allow-tiny")
    done = run_file(PROJECT / "inference.py", *given, cwd=bad)
    assert done.returncode == 2
    message = "not an image, or of a format that is not read"
    described = f"[INFO] {tiny_run.stage2}: adapter file of a stage-2 detector on tiny\n{WAY}"
    assert done.stderr == f"{described}error: {bad}/text.png: {message}\n"


# ---------------------------------------------------------------------------------------------------------
# What every command has in common


def test_message_of_several_lines_becomes_one(run_cli: RunCli) -> None:
    def main() -> None:
        raise OSError("first\n  second")

    assert run_cli(main).err == "error: first second\n"


def test_interruption_has_its_own_exit_code(run_cli: RunCli) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    done = run_cli(main)
    assert (done.code, done.err) == (130, "interrupted\n")


def test_mistake_of_ours_is_not_dressed_up_as_the_users(run_cli: RunCli) -> None:
    def main() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_cli(main)


def test_device_by_name() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
