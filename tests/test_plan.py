"""Plans: few shards, the right number of images of each class, and the same rows when a plan is read back."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, RunCli
from test_shards import DataSets, hub, write_shard  # noqa: F401 - a fixture

from data.shards.index import ShardIndex
from data.shards.plan import download_lines, main
from data.shards.plan_file import read_plan
from data.sources import open_index, open_source
from gapl.labels import Label


def write_rows(path: Path, rows: list[tuple[int, str]], *, size: int = 20_000) -> Path:
    """A shard of (label, generator or real source) with images of `size` bytes."""
    generator = np.random.default_rng(len(rows))
    columns: dict[str, list[Any]] = {
        "image_name": [],
        "image_data": [generator.bytes(size) for _ in rows],
        "model_name": [name for _, name in rows],
        "real_source": [],
        "nsfw_flag": [],
        "label": [label for label, _ in rows],
        "architecture": [],
    }
    return write_shard(path, label=0, columns=columns)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Shards of one class as in Community Forensics: fakes of three generators, real images of two sources."""
    folder = tmp_path / "set"
    write_rows(folder / "f0.parquet", [(1, "gan")] * 20)
    write_rows(folder / "f1.parquet", [(1, "gan")] * 10 + [(1, "sd")] * 10)
    write_rows(folder / "f2.parquet", [(1, "sd")] * 5 + [(1, "flux")] * 5, size=40_000)
    write_rows(folder / "r0.parquet", [(0, "coco")] * 20)
    write_rows(folder / "r1.parquet", [(0, "coco")] * 10 + [(0, "laion")] * 10)
    write_rows(folder / "r2.parquet", [(0, "laion")] * 20, size=40_000)
    return folder


def plan(run_cli: RunCli, root: Path | str, *options: object) -> tuple[Finished, Path]:
    path = Path(root).parent / "plan.json"
    return run_cli(main, "--data", root, "--out", path, *options), path


def shards_of(path: Path) -> list[str]:
    return [Path(shard["url"]).name for shard in json.loads(path.read_text())["shards"]]


def names(index: ShardIndex, label: Label) -> list[str]:
    records = [index.record(position) for position in range(len(index))]
    return sorted({record.generator for record in records if record.label == label})


def test_few_shards_with_as_many_of_each_class(run_cli: RunCli, root: Path) -> None:
    done, path = plan(run_cli, root, "--per-class", 15)
    assert done.code == 0, done.err
    chosen = read_plan(path)
    assert [chosen.count(label) for label in Label] == [15, 15]
    assert len(shards_of(path)) == 2
    assert "f2.parquet" not in shards_of(path)
    assert "r2.parquet" not in shards_of(path)
    lines = done.out.splitlines()
    assert lines[0].startswith("set: 15 real images of ")
    assert lines[1] == "in 2 of 6 shards, 0.00 of 0.00 GB:"
    assert lines[2:4] == [f"  {root / name}" for name in shards_of(path)]
    assert lines[-1] == f"saved {path}"


def test_images_are_halved_between_the_classes(run_cli: RunCli, root: Path) -> None:
    _, path = plan(run_cli, root, "--images", 51)
    chosen = read_plan(path)
    assert [chosen.count(label) for label in Label] == [25, 26]
    assert len(shards_of(path)) == 4


def test_the_fewest_bytes_that_hold_all_of_each_generator(run_cli: RunCli, root: Path) -> None:
    done, path = plan(run_cli, root, "--per-generator", 10)
    chosen = read_plan(path)
    fakes = chosen.where(chosen.label_N == Label.FAKE)
    counts = np.bincount(fakes.generators.number_N, minlength=len(fakes.generators.names))
    assert {name: int(count) for name, count in zip(fakes.generators.names, counts, strict=True) if count} == {
        "gan": 10,
        "sd": 10,
        "flux": 5,
    }
    assert chosen.count(Label.REAL) == 25
    assert {"f1.parquet", "f2.parquet"} < set(shards_of(path))
    assert "f0.parquet" not in shards_of(path)
    assert "wanted 10 fakes of flux, got 5: there are no more" in done.out


def test_what_cannot_be_had_is_told(run_cli: RunCli, root: Path) -> None:
    done, path = plan(run_cli, root, "--per-class", 100)
    assert "wanted 100 real images, got 60: there are no more" in done.out
    assert "wanted 100 fakes, got 50: there are no more" in done.out
    assert len(shards_of(path)) == 6


def test_a_budget_is_shared_by_the_classes(run_cli: RunCli, root: Path) -> None:
    done, path = plan(run_cli, root, "--per-class", 30, "--max-gb", 0.001)
    assert [read_plan(path).count(label) for label in Label] == [20, 20]
    assert "wanted 30 fakes, got 20: --max-gb has no room for more of 50" in done.out
    done, _ = plan(run_cli, root, "--per-class", 30, "--max-gb", 0.0001)
    assert done.only_error() == "error: set: no shard with a wanted image fits in 0.0001 GB"


def test_generators_are_taken_or_left(run_cli: RunCli, root: Path) -> None:
    _, path = plan(run_cli, root, "--per-class", 5, "--only-generators", "sd,flux")
    chosen = read_plan(path)
    assert set(names(chosen, Label.FAKE)) <= {"sd", "flux"}
    assert chosen.count(Label.REAL) == 5
    _, path = plan(run_cli, root, "--per-class", 50, "--without-generators", "gan,coco")
    chosen = read_plan(path)
    assert (names(chosen, Label.FAKE), names(chosen, Label.REAL)) == (["flux", "sd"], ["laion"])
    done, _ = plan(run_cli, root, "--per-class", 5, "--only-generators", "coco")
    assert done.only_error() == "error: --only-generators coco: not in set, only flux, gan, sd"


def test_the_draw_depends_on_the_seed_alone(run_cli: RunCli, root: Path) -> None:
    texts = []
    for seed in (0, 0, 1):
        _, path = plan(run_cli, root, "--per-class", 7, "--seed", seed)
        texts.append(path.read_text())
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["shards"] != json.loads(texts[2])["shards"]


def test_a_plan_is_a_source_whose_paths_are_relative_to_it(
    run_cli: RunCli, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert run_cli(main, "--data", "set", "--per-class", 3, "--out", "plans/a.json").code == 0
    monkeypatch.chdir(root)
    index = open_index(tmp_path / "plans/a.json")
    assert index is not None
    whole = {record.uri.rpartition("/")[2]: record.read_bytes() for record in open_source(root)}
    manifest = open_source(tmp_path / "plans/a.json")
    assert len(manifest) == len(index) == 6
    assert all(record.read_bytes() == whole[record.uri.rpartition("/")[2]] for record in manifest)
    assert json.loads((tmp_path / "plans/a.json").read_text())["shards"][0]["url"].startswith("../set/")


def test_changed_shards_are_refused(run_cli: RunCli, root: Path) -> None:
    _, path = plan(run_cli, root, "--per-class", 15)
    name = shards_of(path)[0]
    write_rows(root / name, [(1, "gan")] * 21)
    with pytest.raises(ValueError, match=rf"{name} has \d+ bytes and 21 rows; .* was made for another"):
        read_plan(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "gapl-plan-2"}, "its format is 'gapl-plan-2', not gapl-plan-1"),
        ({"more": 1}, "unknown field 'more' in Plan"),
        ({"name": ""}, "it has no name"),
        ({"roots": "set"}, "Plan: roots is a list, not 'set'"),
        ({"seed": True}, "Plan: seed cannot be True"),
        ({"counts": {"real": "1"}}, "Plan: counts.real cannot be '1'"),
        ({"shards": []}, "it lists no shards"),
        (
            {"shards": [{"url": "x", "num_bytes": 1, "rows": [[3, 2]]}]},
            "shard 'x': expected a url, and rows as ascending",
        ),
        ({"shards": [{"url": "x", "num_bytes": 1, "rows": [[0, 2], [2, 3]]}]}, "shard 'x': expected"),
        (
            {"shards": [{"url": "x", "num_bytes": 1, "rows": [[0, 2, 3]]}]},
            r"Plan: shards\[0\]: PlannedShard: rows\[0\] has 2 entries",
        ),
        ({"shards": [{"url": "x", "num_bytes": 1, "rows": []}]}, "shard 'x': expected"),
        ({"shards": [{"url": "", "num_bytes": 1, "rows": [[0, 1]]}]}, "shard '': expected"),
        (
            {"shards": [{"url": "x", "rows": [[0, 1]]}]},
            r"Plan: shards\[0\]: field 'num_bytes' of PlannedShard is missing",
        ),
    ],
)
def test_a_file_that_is_no_plan_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    sound = {
        "format": "gapl-plan-1",
        "name": "set",
        "roots": ["set"],
        "seed": 0,
        "counts": {"real": 1, "fake": 1},
        "shards": [{"url": "x", "num_bytes": 1, "rows": [[0, 1]]}],
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(sound | change))
    with pytest.raises(
        ValueError, match=rf"plan\.json is no plan: {reason}.*; make one with python -m data\.shards\.plan"
    ):
        read_plan(path)


def test_text_that_is_no_plan_is_refused(run_cli: RunCli, root: Path) -> None:
    _, path = plan(run_cli, root, "--per-class", 5)
    text = path.read_text()
    path.write_text(text[:-10])
    with pytest.raises(ValueError, match="is no plan: damaged: its JSON cannot be read"):
        read_plan(path)
    path.write_text(text.replace('"real": 5', '"real": 6'))
    with pytest.raises(ValueError, match=r"its rows are now \{'real': 5, 'fake': 5\}, expected"):
        read_plan(path)
    with pytest.raises(ValueError, match="is no plan: No such file or directory"):
        read_plan(root / "none.json")


def test_a_plan_that_cannot_be_written_leaves_the_old_one(run_cli: RunCli, root: Path, tmp_path: Path) -> None:
    _, path = plan(run_cli, root, "--per-class", 5)
    before = path.read_text()
    done, _ = plan(run_cli, root, "--per-class", 5, "--only-generators", "nobody")
    assert done.code == 2
    assert path.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "set"]


def test_wrong_options_are_one_line(run_cli: RunCli, root: Path) -> None:
    assert "one of the arguments --images --per-class --per-generator" in plan(run_cli, root)[0].only_error()
    assert "'0' is not 1 or more images" in plan(run_cli, root, "--per-class", 0)[0].only_error()
    assert "expected a number above 0" in plan(run_cli, root, "--per-class", 1, "--max-gb", "nan")[0].only_error()
    done = run_cli(main, "--data", root, "--per-class", 1, "--out", "plan.txt")
    assert "expected a file name that ends in .json" in done.only_error()


def test_the_download_of_each_repository_is_a_command() -> None:
    urls = [
        "hf://datasets/o/n/data/a.parquet",
        "hf://datasets/o/n/data/b c.parquet",
        "hf://datasets/o/m@v1/d.parquet",
    ]
    commands = [shlex.split(line) for line in download_lines([*urls, "s3://bucket/x.parquet"])]
    assert commands == [
        ["s3://bucket/x.parquet"],
        [
            *("hf", "download", "o/n", "--repo-type", "dataset"),
            *("--include", "data/a.parquet", "--include", "data/b c.parquet", "--local-dir", "n"),
        ],
        shlex.split("hf download o/m --repo-type dataset --revision v1 --include d.parquet --local-dir m"),
    ]


READ = """
import sys
from pathlib import Path
from data.shards.plan_file import read_plan
from gapl.shards.rows import read_rows
index = read_plan(Path("plan.json"))
for number, shard in enumerate(index.shards):
    print(shard.url, [len(image) for _, image in read_rows(shard, index.row_N[index.shard_N == number])])
"""


def test_a_plan_of_a_hub(hub: DataSets) -> None:  # noqa: F811
    options = ("--data", "hf://datasets/owner/set", "--per-class", 10, "--out", "plan.json")
    done = hub.run("-m", "data.shards.plan", *options, "--max-gb", 0.005)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("set: 10 real images of 1 sources, 10 fakes of 1 generators")
    command = "hf download owner/set --repo-type dataset --include data/train-0.parquet --local-dir set"
    assert done.stdout.splitlines()[2].strip() == command
    assert hub.sent < 200_000
    done = hub.run("-c", READ)
    rows = json.loads((hub.folder.parent / "plan.json").read_text())["shards"][0]["rows"]
    sizes = [50_000 + row for first, last in rows for row in range(first, last + 1)]
    assert done.stdout == f"hf://datasets/owner/set/data/train-0.parquet {sizes}\n", done.stderr
    assert len(sizes) == 20
