"""Embeddings -> prototypes by each method, the bank that holds them, and the command that makes it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import Tensor

from models import tensorfile
from models.weights.checkpoint import load_checkpoint, save_checkpoint
from prototype import dream_prototype
from prototype.bank import FORMAT, PrototypeBank
from prototype.reduce import METHODS, reduce_embeddings

if TYPE_CHECKING:
    from tests.conftest import RunCli, TinyRun

PROJECT = Path(__file__).resolve().parent.parent
NUM_REAL, NUM_FAKE, NUM_CLUSTERS, WIDTH = 60, 90, 4, 12


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.fixture(scope="module")
def embeddings() -> tuple[Tensor, Tensor]:
    """(embeddings_NE, labels_N): four tight clusters of unit vectors a class, the classes interleaved."""
    generator = torch.Generator().manual_seed(0)
    centres_KE = unit(torch.randn(2 * NUM_CLUSTERS, WIDTH, generator=generator))
    labels_N = (torch.arange(NUM_REAL + NUM_FAKE) % 5 > 1).long()
    assert int(labels_N.sum()) == NUM_FAKE
    cluster_N = torch.randint(NUM_CLUSTERS, labels_N.shape, generator=generator) + NUM_CLUSTERS * labels_N
    noise_NE = torch.randn(len(labels_N), WIDTH, generator=generator)
    return unit(centres_KE[cluster_N] + 0.02 * noise_NE), labels_N


def reduce(
    embeddings: tuple[Tensor, Tensor], method: str, *, num: int = 8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    return reduce_embeddings(*embeddings, method=method, num_prototypes=num, seed=seed)


def of_class(embeddings: tuple[Tensor, Tensor], label: int) -> np.ndarray:
    embeddings_NE, labels_N = embeddings
    return embeddings_NE[labels_N == label].double().numpy()


# ---------------------------------------------------------------------------------------------------------
# Methods


def test_kmeans_gives_the_centroids_of_scikit_learn(embeddings: tuple[Tensor, Tensor]) -> None:
    prototypes_PE, _ = reduce(embeddings, "kmeans")
    for label, rows_KE in enumerate(prototypes_PE.double().split(NUM_CLUSTERS)):
        fitted = KMeans(NUM_CLUSTERS, n_init=20, random_state=99).fit(of_class(embeddings, label))
        expected_KE = unit(torch.from_numpy(fitted.cluster_centers_))
        similarity_KK = rows_KE @ expected_KE.T
        assert sorted(similarity_KK.argmax(dim=1).tolist()) == list(range(NUM_CLUSTERS))
        assert similarity_KK.max(dim=1).values.min() > 1 - 1e-6


def test_kmeans_puts_large_clusters_first(embeddings: tuple[Tensor, Tensor]) -> None:
    prototypes_PE, _ = reduce(embeddings, "kmeans")
    for label, rows_KE in enumerate(prototypes_PE.double().split(NUM_CLUSTERS)):
        nearest_N = (torch.from_numpy(of_class(embeddings, label)) @ rows_KE.T).argmax(dim=1)
        sizes = torch.bincount(nearest_N, minlength=NUM_CLUSTERS).tolist()
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) > 1


def test_pca_gives_the_components_of_scikit_learn(embeddings: tuple[Tensor, Tensor]) -> None:
    prototypes_PE, _ = reduce(embeddings, "pca")
    for label, rows_KE in enumerate(prototypes_PE.double().split(4)):
        expected_KE = PCA(4, svd_solver="full").fit(of_class(embeddings, label)).components_
        cosine_K = (rows_KE * torch.from_numpy(expected_KE)).sum(dim=1)
        assert (cosine_K.abs() - 1).abs().max() < 1e-6


def test_pca_rows_are_orthonormal_and_their_largest_coordinate_is_positive(
    embeddings: tuple[Tensor, Tensor],
) -> None:
    prototypes_PE, _ = reduce(embeddings, "pca", num=2 * WIDTH)
    for rows_KE in prototypes_PE.split(WIDTH):
        assert (rows_KE @ rows_KE.T - torch.eye(WIDTH)).abs().max() < 1e-5
        assert (rows_KE.gather(1, rows_KE.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_pca_does_not_depend_on_the_seed(embeddings: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(reduce(embeddings, "pca", seed=0)[0], reduce(embeddings, "pca", seed=1)[0])


def test_mean_is_one_row_a_class(embeddings: tuple[Tensor, Tensor]) -> None:
    prototypes_PE, labels_P = reduce(embeddings, "mean")
    assert labels_P.tolist() == [0, 1]
    for label in (0, 1):
        mean_E = unit(torch.from_numpy(of_class(embeddings, label)).mean(dim=0))
        assert (prototypes_PE[label] - mean_E).abs().max() < 1e-6


def test_random_rows_know_the_seed_and_nothing_else(embeddings: tuple[Tensor, Tensor]) -> None:
    rows_PE, _ = reduce(embeddings, "random")
    turned = (-embeddings[0], embeddings[1])
    assert torch.equal(rows_PE, reduce(turned, "random")[0])
    assert not torch.equal(rows_PE, reduce(embeddings, "random", seed=5)[0])
    assert len({tuple(row) for row in rows_PE.tolist()}) == 8


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_unit_vectors_real_first_and_the_same_every_time(
    embeddings: tuple[Tensor, Tensor], method: str
) -> None:
    prototypes_PE, labels_P = reduce(embeddings, method, seed=3)
    assert prototypes_PE.dtype == torch.float32
    assert (prototypes_PE.norm(dim=1) - 1).abs().max() < 1e-6
    assert labels_P.tolist() == ([0, 1] if method == "mean" else [0] * 4 + [1] * 4)
    again_PE, _ = reduce(embeddings, method, seed=3)
    assert torch.equal(prototypes_PE, again_PE)
    PrototypeBank(prototypes_PE, labels_P)


@pytest.mark.parametrize("method", ["kmeans", "pca", "mean"])
def test_prototypes_of_a_class_come_from_that_class(embeddings: tuple[Tensor, Tensor], method: str) -> None:
    embeddings_NE, labels_N = embeddings
    real_PE = reduce(embeddings, method)[0]
    replaced = torch.where(labels_N[:, None] == 1, embeddings_NE.flip(1), embeddings_NE)
    other_PE = reduce((replaced, labels_N), method)[0]
    half = len(real_PE) // 2
    assert torch.equal(other_PE[:half], real_PE[:half])
    assert not torch.allclose(other_PE[half:], real_PE[half:], atol=0.1)


@pytest.mark.parametrize(
    ("method", "num", "message"),
    [
        ("medoids", 8, "unknown method 'medoids'; choose from kmeans, pca, mean, random"),
        ("kmeans", 7, "even and at least 2, not 7"),
        ("kmeans", 0, "even and at least 2, not 0"),
        ("kmeans", -2, "even and at least 2, not -2"),
        ("pca", 2 * WIDTH + 2, f"{WIDTH}-dimensional embeddings have no {WIDTH + 1} principal components"),
        ("kmeans", 2 * NUM_REAL + 2, f"60 real images are too few for 61 kmeans prototypes .*at least {61} are"),
        ("pca", 2 * NUM_REAL, f"60 real images are too few for 60 pca prototypes .*at least {61} are needed"),
    ],
)
def test_impossible_wishes_are_refused(
    embeddings: tuple[Tensor, Tensor], method: str, num: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        reduce(embeddings, method, num=num)


def test_as_many_kmeans_prototypes_as_images_are_the_images(embeddings: tuple[Tensor, Tensor]) -> None:
    few = tuple(values[:10] for values in embeddings)
    prototypes_PE, labels_P = reduce_embeddings(*few, method="kmeans", num_prototypes=8, seed=0)
    assert len(labels_P) == 8
    real_NE = few[0][few[1] == 0]
    assert len(real_NE) == 4
    assert (prototypes_PE[:4] @ real_NE.T).max(dim=1).values.min() > 1 - 1e-5


def test_class_without_images_is_named(embeddings: tuple[Tensor, Tensor]) -> None:
    embeddings_NE, labels_N = embeddings
    real = labels_N == 0
    with pytest.raises(ValueError, match="0 fake images are too few for 4 kmeans prototypes"):
        reduce((embeddings_NE[real], labels_N[real]), "kmeans")


# ---------------------------------------------------------------------------------------------------------
# The bank


def test_bank_comes_back(tmp_path: Path) -> None:
    bank = PrototypeBank(torch.eye(6)[:4], torch.tensor([0, 0, 0, 1]), {"method": "pca", "seed": 3})
    bank.save(tmp_path / "new" / "bank.safetensors")
    loaded = PrototypeBank.load(tmp_path / "new" / "bank.safetensors")
    assert torch.equal(loaded.vectors_PE, bank.vectors_PE)
    assert torch.equal(loaded.labels_P, bank.labels_P)
    assert loaded.provenance == {"method": "pca", "seed": 3}


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (torch.eye(4) * 1.1, [0, 0, 1, 1], "length 1"),
        (torch.eye(4) * torch.nan, [0, 0, 1, 1], "finite"),
        (torch.eye(4), [0, 1, 0, 1], "real .0. first"),
        (torch.eye(4), [1, 1, 1, 1], "both classes"),
        (torch.eye(4), [0, 0, 1, 2], "both classes"),
        (torch.eye(4), [0, 1], r"not \(4, 4\) and \(2,\)"),
        (torch.ones(4), [0, 0, 1, 1], r"not \(4,\) and \(4,\)"),
        (torch.ones(0, 4), [], r"not \(0, 4\) and \(0,\)"),
    ],
)
def test_bank_that_cannot_be(vectors: Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrototypeBank(vectors, torch.tensor(labels))


def test_file_that_is_no_bank_is_refused_in_one_line(tmp_path: Path, tiny_run: TinyRun) -> None:
    incomplete = tmp_path / "incomplete.safetensors"
    tensorfile.write(incomplete, {"vectors": torch.eye(4)}, format=FORMAT, header={})
    (tmp_path / "text.safetensors").write_text("no bank")
    for path, message in (
        (tmp_path / "missing.safetensors", "no such file; expected a prototype bank"),
        (tmp_path / "text.safetensors", "damaged, or no safetensors file"),
        (tiny_run.stage1, "of the format 'gapl-detector-1', not 'gapl-prototypes-1'; expected a prototype bank"),
        (incomplete, "tensor 'labels' is missing"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            PrototypeBank.load(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------
# The command


def dream(run_cli: RunCli, tiny_run: TinyRun, out: Path, *arguments: object) -> Any:
    common = ("--stage1", tiny_run.stage1, "--num-workers", 0, "--out", out)
    return run_cli(dream_prototype.main, *common, *arguments)


def test_command_says_what_it_made(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    done = dream(run_cli, tiny_run, out, "--data-root", tiny_run.root, "--num", 6, "--method", "pca")
    assert done.code == 0, done.err
    data = f"train of {tiny_run.root.name}"
    assert done.out.splitlines()[-1] == f"saved {out}: pca prototypes, 3 real and 3 fake, of {data}"
    bank = PrototypeBank.load(out)
    assert bank.vectors_PE.shape == (6, 128)
    assert (bank.provenance["method"], bank.provenance["images"], bank.provenance["unreadable"]) == ("pca", 40, 0)


def test_same_bank_to_the_bit_in_another_process(tiny_run: TinyRun, tmp_path: Path, run_cli: RunCli) -> None:
    """Once in this process, once as a file from another folder; neither finds features that are there."""
    options = ("--stage1", tiny_run.stage1, "--same-data", "--num", "8", "--num-workers", "1")
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    assert run_cli(dream_prototype.main, *options, "--feature-cache", tmp_path / "a", "--out", here).code == 0
    command = [sys.executable, PROJECT / "prototype/dream_prototype.py", *options]
    command += ["--feature-cache", tmp_path / "b", "--out", there]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, second = PrototypeBank.load(here), PrototypeBank.load(there)
    assert torch.equal(first.vectors_PE, second.vectors_PE)
    assert torch.equal(first.labels_P, second.labels_P)
    assert first.provenance == second.provenance


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"recipe": {}}, "recipe.seed"),
        ({"recipe": 7}, "recipe.seed"),
        ({"data": {"paths": [], "root": None}}, "data.mix"),
        ({"data": None, "recipe": {}}, "data.paths, data.root, data.mix, recipe.seed"),
    ],
)
def test_same_data_needs_what_a_file_says_of_it(
    run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path, change: dict[str, Any], missing: str
) -> None:
    stage1 = load_checkpoint(tiny_run.stage1, allow_tiny=True)
    file, out = tmp_path / "stage1.safetensors", tmp_path / "bank.safetensors"
    save_checkpoint(file, replace(stage1, provenance=stage1.provenance | change))
    error = dream(run_cli, tiny_run, out, "--stage1", file, "--same-data").only_error()
    assert f"({missing}); instead pass --data or --data-root, with the --mix and --seed of stage 1" in error
    assert not out.exists()


def test_prototypes_lie_near_the_images_they_stand_for(tiny_run: TinyRun) -> None:
    """On the training images of `tiny_run`, which stage 1 tells apart, the classes' prototypes differ."""
    bank = PrototypeBank.load(tiny_run.bank)
    similarity_PP = bank.vectors_PE @ bank.vectors_PE.T
    within = (similarity_PP[:4, :4].mean() + similarity_PP[4:, 4:].mean()) / 2
    assert within > similarity_PP[:4, 4:].mean() + 0.1


def test_bad_requests_are_one_line_and_leave_no_bank(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    root = ("--data-root", tiny_run.root)
    for arguments, message in (
        ((*root, "--num", 64), "20 real images are too few for 32 kmeans prototypes"),
        ((*root, "--num", 5), "even and at least 2, not 5"),
        ((*root, "--stage1", tiny_run.stage2), "a stage-2 detector, not stage 1's"),
        ((*root, "--stage1", tiny_run.bank), "of the format 'gapl-prototypes-1', not"),
        ((*root, "--device", "cuda"), "--device cuda"),
        ((), "no images to train on"),
        ((*root, "--seed", -1), "--seed must be from 0 to 4294967294, not -1"),
        ((*root, "--batch-size", 0), "--batch-size must be at least 1, not 0"),
        (("--same-data", "--data", tiny_run.root / "train"), "was trained on; leave out --data"),
        (("--same-data", "--mix", "train", "--columns", "label=a"), "leave out --mix, --columns"),
        (("--data", tiny_run.root / "train/alpha/0_real"), "no class folder found"),
        (("--data-root", tmp_path / "nowhere"), "no such data folder"),
    ):
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        assert message in dream(run_cli, tiny_run, out, *arguments).only_error()
        assert not list(tmp_path.iterdir())


def test_existing_bank_is_kept_unless_told_otherwise(run_cli: RunCli, tiny_run: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "bank.safetensors"
    arguments = ("--data-root", tiny_run.root, "--num", 4)
    out.write_text("mine")
    assert "pass --overwrite" in dream(run_cli, tiny_run, out, *arguments).only_error()
    assert "reused" in dream(run_cli, tiny_run, out, *arguments, "--reuse").out
    assert out.read_text() == "mine"
    assert dream(run_cli, tiny_run, out, *arguments, "--overwrite").code == 0
    assert len(PrototypeBank.load(out).labels_P) == 4
