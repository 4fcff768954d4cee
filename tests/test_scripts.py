"""The shell entry points, run as a user runs them, on the random tower of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import TinyRun

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.sh"))

needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv" / "installed.txt").exists(), reason="needs the .venv that scripts/test.sh makes"
)


def run_script(name: str, *options: object, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    command = ["bash", str(ROOT / "scripts" / name), *map(str, options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_quickstart_help_says_what_is_downloaded() -> None:
    shown = run_script("quickstart.sh", "--help")
    assert shown.returncode == 0
    assert "78 MB" in shown.stdout
    assert "GB" in shown.stdout
    assert run_script("quickstart.sh", "--nonsense").returncode == 2


@needs_environment
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_check_refuses_without_a_gpu() -> None:
    refused = run_script("check_gpu.sh")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == ["error: torch finds no usable GPU on this machine"]


@needs_environment
def test_stages_hand_over_on_the_demonstration_corpus(tmp_path: Path) -> None:
    runs = {"GAPL_RUNS": tmp_path, "GAPL_NUM": 8}
    for script, options in (
        ("stage1.sh", ["--backbone", "tiny", "--epochs", 1]),
        ("stage2.sh", ["--max-steps", 2]),
        ("val_bench.sh", ["--allow-tiny"]),
    ):
        done = run_script(script, *options, **runs)
        assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "benchmarks" / "metrics.csv").set_index("subset")
    assert table.loc["pixel_shuffle", ["n_real", "n_fake"]].tolist() == [15, 15]
    assert "a pipeline smoke test: its verdicts mean nothing" in done.stdout

    again = run_script("stage1.sh", "--backbone", "tiny", "--reuse", **runs)
    assert again.returncode == 0
    assert again.stdout.count("reused") == 2
    assert run_script("stage1.sh", "--backbone", "tiny", **runs).returncode == 2


@needs_environment
def test_val_bench_scores_published_layouts(tiny_run: TinyRun, tmp_path: Path) -> None:
    options = ["--model_path", tiny_run.stage2, "--allow-tiny"]
    done = run_script("val_bench.sh", *options, GAPL_DATA_ROOT=tiny_run.root, GAPL_RUNS=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "benchmarks" / "metrics.csv")
    found = table.dropna(subset="n_real").set_index(["benchmark", "subset"])
    assert found.loc[("GenImage", "SDv1.4"), ["n_real", "n_fake"]].tolist() == [3, 3]
    assert found.loc[("ForenSynths", "progan"), ["n_real", "n_fake"]].tolist() == [3, 2]
    assert table.set_index("benchmark").loc["Chameleon", "note"] == "not found"
    scores = pd.read_parquet(tmp_path / "benchmarks" / "scores.parquet")
    assert (
        len(scores)
        == found.loc[[("GenImage", "SDv1.4"), ("ForenSynths", "all images")], ["n_real", "n_fake"]].sum().sum()
    )


def test_val_bench_looks_for_the_detector_first(tmp_path: Path) -> None:
    refused = run_script("val_bench.sh", GAPL_RUNS=tmp_path / "runs", PYTHON="false")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {tmp_path}/runs/stage2/detector.safetensors: no such file; train")
    assert not (tmp_path / "runs").exists()


@needs_environment
def test_results_are_named_by_the_variable_alone(tmp_path: Path) -> None:
    refused = run_script("stage1.sh", "--backbone", "tiny", "--out", tmp_path)
    assert refused.returncode == 2
    assert "GAPL_RUNS" in refused.stderr
