"""Detectors x images x degradations -> a table that grows on disk, whoever scores and however often it stops."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Finished, MakeImage, RunCli, TinyRun, with_damaged_palette

import benchmarks
from evaluation.scoring.folder import JobFolder
from models.detector import PrototypeDetector
from models.weights.checkpoint import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
Score = Callable[..., Finished]


@pytest.fixture
def score(run_cli: RunCli, tiny_run: TinyRun) -> Score:
    """`score(out, "--shard", "1/2", model=[...])` runs `benchmarks.py run` on the small benchmarks."""

    def run(out: Path, *options: object, model: list[Path] | None = None, root: Path = tiny_run.root) -> Finished:
        given = ["--model_path", *(model or [tiny_run.stage2]), "--data-root", root, "--out", out]
        return run_cli(
            benchmarks.main, "run", *given, "--allow-tiny", "--num-workers", 0, "--batch-size", 4, *options
        )

    return run


@pytest.fixture(scope="module")
def whole(run_cli: RunCli, tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    given = ["--model_path", tiny_run.stage2, "--data-root", tiny_run.root, "--out", out, "--allow-tiny"]
    done = run_cli(benchmarks.main, *given, "--num-workers", 0, "--batch-size", 4)
    assert done.code == 0, done.err
    return out


def table(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "scores.parquet")


def test_a_row_tells_what_was_scored(whole: Path) -> None:
    scores = table(whole)
    for row in scores.itertuples():
        encoded = Path(row.uri).read_bytes()
        assert row.content_sha256 == hashlib.sha256(encoded).hexdigest()
        assert (row.width, row.height, row.format, row.num_bytes) == (40, 36, "PNG", len(encoded))
        assert row.source == next(iter(row.subsets))
        assert row.generator == (row.source if row.label else "")
    assert set(scores["protocol"]) == {"all"}
    assert set(scores["degradation"]) == {"none"}
    about = json.loads(pq.read_schema(whole / "scores.parquet").metadata[b"gapl_scores"])
    assert about["benchmarks"]["Chameleon"]["absent"] == "not found"
    assert about["benchmarks"]["GenImage"]["n_images"] == 6
    assert "the file format tells them apart" in about["benchmarks"]["GenImage"]["note"]
    (model,) = about["models"].values()
    assert model["sha256"] == hashlib.sha256(Path(model["path"]).read_bytes()).hexdigest()
    assert sorted(path.name for path in whole.iterdir()) == [
        *("job.json", "metrics.csv", "metrics.md", "metrics.tex", "scores.parquet")
    ]


def test_without_out_the_folder_is_named_like_the_detector(
    run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--model_path", tiny_run.stage2, "--data-root", tiny_run.root, "--num-workers", 0, "--allow-tiny")
    for _ in range(2):  # the second one finds the scores
        done = run_cli(benchmarks.main, "run", *given)
        assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs/benchmarks").iterdir()
    assert folder.name == tiny_run.stage2.parent.name
    assert f"{folder.relative_to(tmp_path) / 'scores.parquet'} holds these scores" in done.out


@pytest.mark.parametrize("name", ["scores.parquet", "images.parquet", "parts/other.parquet"])
def test_files_of_no_run_are_kept(score: Score, run_cli: RunCli, whole: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((whole / "scores.parquet").read_bytes())
    assert f"{path} is there, without the job.json of a run; give another --out" in score(tmp_path).only_error()
    assert path.read_bytes() == (whole / "scores.parquet").read_bytes()
    assert len(list(tmp_path.iterdir())) == 1


def test_an_image_whose_damage_shows_late_is_a_row(score: Score, tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.copytree(tiny_run.root / "bench", tmp_path / "bench")
    damaged = next((tmp_path / "bench").rglob("*.png"))
    damaged.write_bytes(with_damaged_palette())
    done = score(tmp_path / "out", root=tmp_path)
    assert done.code == 0, done.err
    rows = table(tmp_path / "out").set_index("uri")["error"]
    assert rows[str(damaged)] == "damaged image: palette index out of range"
    assert (rows != "").sum() == 1


def test_two_shards_are_one_run(score: Score, run_cli: RunCli, whole: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        done = score(tmp_path / str(number), "--shard", f"{number}/2")
        assert done.code == 0, done.err
        assert "2 of 4 batches" in done.out
        assert not (tmp_path / str(number) / "scores.parquet").exists()
    refused = run_cli(benchmarks.main, "merge", tmp_path / "1", "--out", tmp_path / "merged")
    assert "2 of 4 batches have no scores, the first is 2" in refused.only_error()
    done = run_cli(benchmarks.main, "merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "merged")
    assert done.code == 0, done.err
    pd.testing.assert_frame_equal(table(tmp_path / "merged"), table(whole))
    again = run_cli(benchmarks.main, "merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "merged")
    assert "scores.parquet is there already" in again.only_error()
    assert "holds these scores" in score(tmp_path / "merged").out
    assert score(tmp_path / "same", "--shard", "2/2").code == 0
    for number in (2, 1):
        options = ("--overwrite",) if number == 2 else ()
        assert score(tmp_path / "same", "--shard", f"{number}/2", *options).code == 0
    pd.testing.assert_frame_equal(table(tmp_path / "same"), table(whole))


def test_a_run_that_was_killed_goes_on(
    score: Score, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []
    write = JobFolder.write

    def die_at_the_third(folder: JobFolder, rows: list[dict[str, object]]) -> None:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append({row["batch"] for row in rows})
        write(folder, rows)

    monkeypatch.setattr("evaluation.scoring.score.FLUSH_SECONDS", 0)
    monkeypatch.setattr(JobFolder, "write", die_at_the_third)
    assert score(tmp_path).code == 130
    part = next((tmp_path / "parts").glob("*.parquet"))
    pq.write_table(pq.read_table(part).drop_columns(["by_whole"]), part)  # as earlier versions wrote it
    (tmp_path / "parts" / ".000002-000002.parquet.1.tmp").write_bytes(b"of a process that was killed")
    monkeypatch.setattr(
        JobFolder, "write", lambda self, rows: (scored.append({r["batch"] for r in rows}), write(self, rows))
    )
    assert score(tmp_path).code == 0
    assert sorted(number for batches in scored for number in batches) == [0, 1, 2, 3], "none twice"
    pd.testing.assert_frame_equal(table(tmp_path), table(whole))
    names = {"job.json", "metrics.csv", "metrics.md", "metrics.tex", "scores.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == names
    again = score(tmp_path)
    assert "holds these scores; --overwrite scores anew" in again.out
    assert len(scored) == 4


def test_kill_9_at_a_random_moment_leaves_an_equal_table(tiny_run: TinyRun, whole: Path, tmp_path: Path) -> None:
    given = ["--model_path", tiny_run.stage2, "--data-root", tiny_run.root, "--out", tmp_path, "--allow-tiny"]
    command = [
        sys.executable,
        str(ROOT / "benchmarks.py"),
        *map(str, given),
        "--num-workers",
        "1",
        "--batch-size",
        "4",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not (tmp_path / "job.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "metrics.csv").exists(), "killed before its end"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(table(tmp_path), table(whole))


def test_two_processes_share_the_images(tiny_run: TinyRun, whole: Path, tmp_path: Path) -> None:
    given = [
        "--model_path",
        tiny_run.stage2,
        "--data-root",
        tiny_run.root,
        "--out",
        tmp_path / "out",
        "--allow-tiny",
    ]
    shutil.copytree(whole, tmp_path / "out")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = ["--num-workers", "0", "--batch-size", "4", "--device", "cpu", "--overwrite"]
    command = [*torchrun, str(ROOT / "benchmarks.py"), *map(str, given), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("scores of 15 images") == 1
    pd.testing.assert_frame_equal(table(tmp_path / "out"), table(whole), rtol=1e-6)


def test_a_ray_cluster_gives_the_same_table(
    run_cli: RunCli, tiny_run: TinyRun, whole: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="needs ray[data]")
    given = ["--model_path", tiny_run.stage2, "--data-root", tiny_run.root, "--out", tmp_path, "--allow-tiny"]
    done = run_cli(benchmarks.main, "run", *given, "--batch-size", 4, "--ray", 2, "--device", "cpu")
    assert done.code == 0, done.err
    pd.testing.assert_frame_equal(table(tmp_path), table(whole), rtol=1e-6)


def test_several_detectors_and_degradations_in_one_call(
    score: Score, tiny_run: TinyRun, whole: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "detector.safetensors"
    other.parent.mkdir()
    shutil.copy(tiny_run.stage2, other)
    done = score(tmp_path / "out", "--degrade", "none", "jpeg:30", model=[tiny_run.stage2, other])
    assert done.code == 0, done.err
    scores = table(tmp_path / "out")
    assert len(scores) == 4 * len(table(whole))
    clean = scores[(scores["degradation"] == "none") & (scores["model"] == "stage2")].reset_index(drop=True)
    pd.testing.assert_frame_equal(clean, table(whole))
    twin = scores[(scores["degradation"] == "none") & (scores["model"] == "other")]
    assert twin["logit"].tolist() == clean["logit"].tolist()
    jpeg = scores[(scores["degradation"] == "jpeg:30") & (scores["model"] == "stage2")]
    assert (jpeg["logit"].to_numpy() != clean["logit"].to_numpy()).all()


def test_rows_of_shards_score_as_the_files_they_hold(score: Score, whole: Path, tmp_path: Path) -> None:
    scored = table(whole)
    files = scored[scored["benchmark"] == "GenImage"]
    for label, of_class in files.groupby("label"):
        shard = tmp_path / "root" / "mine" / "data" / f"train-{label}.parquet"
        shard.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "image_data": [Path(uri).read_bytes() for uri in of_class["uri"]],
            "label": of_class["label"].to_numpy(),
            "model_name": of_class["source"].to_list(),
        }
        pq.write_table(pa.table(columns), shard, row_group_size=2)
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        done = score(out, "--num-workers", workers, root=tmp_path / "root")
        assert done.code == 0, done.err
        rows = table(out).set_index("content_sha256")
        assert len(rows) == 6
        for row in files.itertuples():
            assert rows.loc[row.content_sha256, "logit"] == pytest.approx(row.logit, abs=1e-4)
    pd.testing.assert_frame_equal(table(tmp_path / "out0"), table(tmp_path / "out2"))


def test_precision_is_of_the_job(score: Score, whole: Path, tmp_path: Path) -> None:
    assert score(tmp_path / "bf16", "--precision", "bf16").code == 0
    ours, exact = table(tmp_path / "bf16")["logit"], table(whole)["logit"]
    assert 0 < (ours - exact).abs().max() < 0.2
    refused = score(tmp_path / "bf16")
    assert "scores of another run (different: precision)" in refused.only_error()
    assert (
        "--precision fp16 needs a GPU"
        in score(tmp_path / "x", "--precision", "fp16", "--device", "cpu").only_error()
    )


def test_details_are_embeddings_and_attention(score: Score, tmp_path: Path) -> None:
    assert score(tmp_path, "--details", "--benchmarks", "GenImage").code == 0
    for row in table(tmp_path).itertuples():
        assert len(row.embedding) == 128
        assert sum(value * value for value in row.embedding) == pytest.approx(1, abs=1e-5)
        assert len(row.attention) == 8
        assert sum(row.attention) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_read_is_a_row_with_the_reason(score: Score, make_image: MakeImage, tmp_path: Path) -> None:
    root = tmp_path / "root" / "mine"
    for number in range(5):
        make_image(root / "real" / f"{number}.png", seed=number)
        make_image(root / "fake" / f"{number}.png", seed=10 + number, levels=90)
    (root / "real" / "2.png").write_bytes(b"no image")
    (root / "fake" / "9.png").symlink_to(tmp_path / "gone.png")
    done = score(tmp_path / "out", root=root)
    assert done.code == 0, done.err
    scores = table(tmp_path / "out")
    assert len(scores) == 11
    broken = scores[scores["error"] != ""]
    assert {
        Path(uri).name: reason.split(":")[0] for uri, reason in zip(broken["uri"], broken["error"], strict=True)
    } == {
        "2.png": "not an image, or of a format that is not read",
        "9.png": "No such file or directory",
    }
    assert broken["logit"].isna().all()
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv").set_index("benchmark")
    assert metrics.loc["mine", ["n_real", "n_fake", "unreadable"]].tolist() == [4, 5, 2]


def test_mistakes_are_one_line(
    score: Score, run_cli: RunCli, tiny_run: TinyRun, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "done")
    refused = score(tmp_path / "done", "--benchmarks", "GenImage")
    assert "scores of another run (different: images, num_images, num_batches)" in refused.only_error()
    assert table(tmp_path / "done").equals(table(whole))
    gone = score(tmp_path / "done", "--overwrite", model=[tmp_path / "gone.safetensors"])
    assert "gone.safetensors" in gone.only_error()
    assert table(tmp_path / "done").equals(table(whole)), "what is overwritten goes when the new run can begin"
    assert score(tmp_path / "done", "--benchmarks", "GenImage", "--overwrite").code == 0
    assert len(table(tmp_path / "done")) == 6
    assert "expected I/N" in score(tmp_path, "--shard", "3/2").only_error()
    assert "unknown degradation" in score(tmp_path, "--degrade", "melt:3").only_error()
    assert "exclude each other" in score(tmp_path, "--ray", 2, "--shard", "1/2").only_error()
    assert "no job.json" in run_cli(benchmarks.main, "merge", tmp_path, "--out", tmp_path).only_error()
    twice = score(tmp_path, model=[tiny_run.stage2, tiny_run.stage2])
    assert "names a file twice" in twice.only_error()


@pytest.mark.parametrize("where", [(), ("--ray", 1)])
def test_a_detector_that_gives_no_number_is_told_of(
    run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path, where: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    if where:
        ray = pytest.importorskip("ray", reason="needs ray[data]")
        shutdown = ray.shutdown

        def shut_down() -> None:
            left.extend(each.name for each in threading.enumerate())
            shutdown()

        monkeypatch.setattr(ray, "shutdown", shut_down)
    checkpoint = load_checkpoint(tiny_run.stage2, merge=False, allow_tiny=True)
    assert isinstance(checkpoint.detector, PrototypeDetector)
    with torch.no_grad():
        checkpoint.detector.classifier.weight.fill_(3e38)
        checkpoint.detector.attention.out_proj.weight.fill_(3e38)
    save_checkpoint(tmp_path / "detector.safetensors", checkpoint)
    given = ["--model_path", tmp_path / "detector.safetensors", "--data-root", tiny_run.root, "--allow-tiny"]
    given += ["--batch-size", 1]  # so that some are left to read when the first has failed
    refused = run_cli(benchmarks.main, "run", *given, "--out", tmp_path / "out", "--device", "cpu", *where)
    assert "is not a number" in refused.only_error()
    assert bool(left) == bool(where)
    assert "iter_threaded" not in left, "it would ask a cluster that is shut down, which ends the process"


def test_a_full_disk_loses_no_scores(
    score: Score, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.scoring.score.FLUSH_SECONDS", 0)
    with monkeypatch.context() as patch:
        real = pq.write_table

        def full(rows: object, where: Path, *more: object) -> None:
            real(rows, where, *more)
            if "000002" in Path(where).name:
                raise OSError(28, "No space left on device", str(where))

        patch.setattr(pq, "write_table", full)
        assert "No space left on device" in score(tmp_path).only_error()
    assert len(list((tmp_path / "parts").glob("*"))) == 2, "no scratch file stays"
    assert score(tmp_path).code == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(whole))
