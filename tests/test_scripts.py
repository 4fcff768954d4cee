"""The shell entry points, run as a user runs them, on the random tower of the tests."""

from __future__ import annotations

import os
import shutil
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


# ---------------------------------------------------------------------------------------------------------
# What the scripts run, told by a Python that only notes its commands

NOTING_PYTHON = """#!/usr/bin/env bash
# Note the command, and write the file that it would; STOP_AT in a command stops it.
echo "$*" >>commands.txt
[ "$1" != -m ] || exit 0
case "$*" in *"${STOP_AT:-nothing}"*) exit 143 ;; esac
for ((i = 1; i < $#; i++)); do
    next=$((i + 1))
    [ "${!i}" != --out ] || out=${!next}
done
[ "$1" != train.py ] || out=$out/detector.safetensors
case "$*" in *" --dry-run"*) exit ;; *" --overwrite"*) ;; *" --reuse"*) [ ! -e "$out" ] || exit 0 ;;
    train.py*) [ ! -e "$out" ] || exit 2 ;; esac
mkdir -p "$(dirname "$out")"
date +%s.%N >"$out"
"""


class Project:
    """A copy of the scripts in `folder`, with an environment whose Python only notes its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.corpus = folder, folder / "corpus"
        self.stage1 = folder / "runs/stage1/detector.safetensors"
        self.bank = folder / "runs/prototypes/kmeans64.safetensors"
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        for name in ("requirements.lock", "requirements.txt", "requirements/gapl.txt", ".venv/bin/python"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        self.python = folder / ".venv/bin/python"
        self.python.write_text(NOTING_PYTHON)
        self.python.chmod(0o755)
        (self.corpus / "train").mkdir(parents=True)

    def run(self, name: str, *options: object, code: int = 0, **variables: object) -> list[str]:
        """Run a script; return the commands of its Python, without those of pip."""
        noted = self.folder / "commands.txt"
        noted.write_text("")
        variables = {"GAPL_DATA_ROOT": self.corpus, "GAPL_RUNS": "runs"} | variables
        done = run_script(str(self.folder / "scripts" / name), *options, **variables)
        assert done.returncode == code, done.stderr
        self.out, self.err = done.stdout, done.stderr
        return [each for each in noted.read_text().splitlines() if not each.startswith("-m pip")]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_finished_detector_is_calibrated_once(project: Project) -> None:
    for removed, expected in (("", 2), ("", 0), ("lora/detector.safetensors", 2), ("calibrated.safetensors", 0)):
        if removed:
            (project.folder / "runs/open/seed0" / removed).unlink()
        commands = project.run("train_mini.sh", "--corpus", project.corpus)
        assert sum("calibrate" in each for each in commands) == expected


def test_stage1_that_was_stopped_at_the_prototypes_goes_on_there(project: Project) -> None:
    project.run("stage1.sh", STOP_AT="dream_prototype", code=143)
    assert "--reuse" not in project.run("stage1.sh", "--dry-run")[0]
    for _ in range(2):
        project.run("stage1.sh", "--epochs", 9, code=2)  # that is another command, however often it is given
    assert "--reuse" not in project.run("stage1.sh", "--overwrite", STOP_AT="dream_prototype", code=143)[0]
    before = project.stage1.read_text()
    assert len(project.run("stage1.sh")) == 2
    assert project.stage1.read_text() == before
    assert project.bank.exists()
    project.run("stage1.sh", code=2)


@pytest.mark.parametrize("script", ["stage1.sh", "train_mini.sh"])
def test_prototypes_of_another_stage1_are_not_kept(project: Project, script: str) -> None:
    options = ["--reuse"] if script == "stage1.sh" else ["--corpus", project.corpus]
    if script == "train_mini.sh":
        project.stage1 = project.folder / "runs/open/seed0/stage1/detector.safetensors"
        project.bank = project.folder / "runs/open/seed0/prototypes.safetensors"
    project.run(script, *options)
    first = project.bank.read_text()
    project.run(script, *options)
    assert project.bank.read_text() == first
    project.stage1.unlink()
    project.run(script, *options)
    assert project.bank.read_text() != first


@pytest.mark.parametrize("wrong", [{"GAPL_METHOD": "kmean"}, *({"GAPL_NUM": n} for n in (0, 7, "many", -2))])
def test_prototypes_that_cannot_be_made_are_refused_before_stage1(
    project: Project, wrong: dict[str, object]
) -> None:
    assert project.run("stage1.sh", code=2, **wrong) == []
    ((name, value),) = wrong.items()
    assert project.err.startswith(f"error: {name} is ")
    assert project.err.endswith(f", not {value}\n")


def test_options_of_stage1_reach_the_prototypes(project: Project) -> None:
    shared = ["--seed", "3", "--device=cpu", "--feature-cache", "a folder", "--num-workers=1"]
    trained, made = project.run("stage1.sh", "--epochs", 2, *shared)
    assert trained.endswith(f"--epochs 2 {' '.join(shared)}")
    assert f"kmeans64.safetensors {' '.join(shared)} --overwrite" in made


def test_half_made_environment_is_made_again(project: Project) -> None:
    project.python.rename(project.folder / "whole")
    project.python.write_text('#!/bin/sh\necho "No module named pip" >&2\nexit 1\n')
    project.python.chmod(0o755)
    system = project.folder / "python3"
    system.write_text('#!/bin/sh\n[ "$1" = -c ] || cp whole "$3/bin/python"\n')
    system.chmod(0o755)
    assert len(project.run("stage1.sh", PYTHON=system)) == 2
    assert "Making .venv" in project.out
    project.run("stage1.sh", "--reuse", PYTHON=system)
    assert "Making" not in project.out
