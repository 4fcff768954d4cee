"""Benchmarks on disk: every published layout, folders of one's own, pairing, and what is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from data.benchmarks.benchmark import Absent, Benchmark, Subset, apply_protocol
from data.benchmarks.find import find_benchmarks
from data.benchmarks.specs import read_catalog
from data.records import Manifest, Record
from gapl.labels import Label

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """`tree("bench/a/real/1.png", ...)` makes files (never opened here) and returns their root."""

    def build(*paths: str) -> Path:
        for path in paths:
            (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / path).touch()
        return tmp_path / "root"

    return build


def classes(folders: Iterable[str], real: str = "0_real", fake: str = "1_fake") -> list[str]:
    return [f"{folder}/{name}/1.png" for folder in folders for name in (real, fake)]


def only(root: Path, name: str) -> Benchmark:
    (benchmark,) = find_benchmarks(root, names=[name])
    assert isinstance(benchmark, Benchmark), benchmark
    return benchmark


def present(root: Path) -> list[Benchmark]:
    return [benchmark for benchmark in find_benchmarks(root) if isinstance(benchmark, Benchmark)]


def counts(benchmark: Benchmark) -> dict[str, tuple[int, int]]:
    return {s.name: (s.manifest.count(Label.REAL), s.manifest.count(Label.FAKE)) for s in benchmark.subsets}


def files(subset: Subset, label: Label, root: Path) -> list[str]:
    return [Path(r.uri).relative_to(root).as_posix() for r in subset.manifest if r.label is label]


def test_forensynths(tree: Tree) -> None:
    root = tree(
        *classes(f"CNN_synth_testset/progan/{name}" for name in ("airplane", "train", "tvmonitor")),
        *classes(["CNN_synth_testset/biggan", "CNN_synth_testset/crn"]),
    )
    found = only(root, "ForenSynths")
    assert counts(found) == {"progan": (3, 3), "biggan": (1, 1)}
    assert found.missing_subsets == ("stylegan", "stylegan2", "stargan", "gaugan", "cyclegan", "deepfake")
    assert {r.generator for r in found.images()} == {"progan", "biggan"}


def test_only_the_test_split_of_a_published_benchmark_is_scored(tree: Tree) -> None:
    root = tree(
        *classes([f"ForenSynths/{split}/progan/car" for split in ("train", "val", "test")]),
        *classes(["WildRF/train/reddit"]),
    )
    found = only(root, "ForenSynths")
    assert files(found.subsets[0], Label.FAKE, root) == ["ForenSynths/test/progan/car/1_fake/1.png"]
    (absent,) = find_benchmarks(root, names=["WildRF"])
    assert absent == Absent("WildRF", "not found: its folder holds no fakes to score of reddit, twitter, facebook")


def test_ufd_official_pairs_guided_with_imagenet_and_the_others_with_laion(tree: Tree) -> None:
    ufd = "diffusion_datasets"
    root = tree(
        *(f"{ufd}/{name}/0_real/{name}.png" for name in ("imagenet", "laion")),
        *(f"{ufd}/{name}/1_fake/1.png" for name in ("guided", "ldm_200", "ldm_200_cfg", "dalle")),
    )
    found = only(root, "universalfakedetect")
    assert found.name == "UFD"
    assert {s.name: files(s, Label.REAL, root) for s in found.subsets} == {
        "guided": [f"{ufd}/imagenet/0_real/imagenet.png"],
        "ldm_200": [f"{ufd}/laion/0_real/laion.png"],
        "ldm_200_cfg": [f"{ufd}/laion/0_real/laion.png"],
        "dalle": [f"{ufd}/laion/0_real/laion.png"],
    }
    assert all(s.reals_shared for s in found.subsets)
    assert found.missing_subsets == ("ldm_100", "glide_100_27", "glide_50_27", "glide_100_10")
    assert len(found.images()) == 2 + 4


def test_ufd_repacked_uses_its_own_real_images(tree: Tree) -> None:
    root = tree(*classes(["UFD/guided", "UFD/glide_50_27"]), "UFD/laion/0_real/2.png")
    found = only(root, "UFD")
    assert files(found.subsets[1], Label.REAL, root) == ["UFD/glide_50_27/0_real/1.png"]
    assert not any(s.reals_shared for s in found.subsets)


@pytest.mark.parametrize(
    "folder",
    [
        "GenImage/stable_diffusion_v_1_5/imagenet_ai_0424_sdv5/val",
        "genimage/imagenet_ai_0424_sdv5/val",
        "GenImage/GenImage/stable_diffusion_v_1_5/val",
        "Gen-Image/SDv1.5",
    ],
)
def test_genimage_in_each_of_its_layouts(tree: Tree, folder: str) -> None:
    root = tree(*classes([folder, folder.replace("val", "train")], "nature", "ai"))
    found = only(root, "GenImage")
    assert counts(found) == {"SDv1.5": (1, 1)}
    assert files(found.subsets[0], Label.FAKE, root) == [f"{folder}/ai/1.png"]
    assert len(found.missing_subsets) == 7


@pytest.mark.parametrize(
    "reals", ["synthbuster/real_RAISE_1k/{}.png", "RAISE-1k/tiff/{}.TIF", "synthbuster/RAISEpng/{}.png"]
)
def test_synthbuster_matches_the_real_images_by_stem(tree: Tree, reals: str) -> None:
    root = tree(
        *(reals.format(stem) for stem in ("r1t", "r2t", "r3t")),
        *(f"synthbuster/midjourney-v5/{stem}.png" for stem in ("r1t", "r2t")),
        *(f"synthbuster/dalle2/{stem}.png" for stem in ("r3t", "r9t")),
    )
    found = only(root, "SynthBuster")
    assert counts(found) == {"dalle2": (1, 2), "midjourney-v5": (2, 2)}
    assert files(found.subsets[0], Label.REAL, root) == [reals.format("r3t")]
    assert {r.generator for r in found.images() if r.label is Label.REAL} == {"real_RAISE_1k"}


def test_synthbuster_with_other_stems_or_class_folders(tree: Tree) -> None:
    root = tree("SynthBuster/RAISE-1k/a.png", "SynthBuster/RAISE-1k/b.png", "SynthBuster/glide/1.png")
    assert counts(only(root, "SynthBuster")) == {"glide": (2, 1)}
    tree(*classes(["SynthBuster/firefly"]), "SynthBuster/firefly/collage.png")
    assert counts(only(root, "SynthBuster")) == {"firefly": (1, 1), "glide": (2, 1)}


@pytest.mark.parametrize(
    ("folder", "root_is"),
    [("Chameleon/test", ""), ("Chameleon/Chameleon/test", ""), ("chameleon", ""), ("Chameleon", "Chameleon")],
)
def test_chameleon_is_one_subset(tree: Tree, folder: str, root_is: str) -> None:
    root = tree(*classes([folder])) / root_is
    found = only(root, "Chameleon")
    assert counts(found) == {"Chameleon": (1, 1)}
    assert not found.missing_subsets
    assert present(root) == [found]


@pytest.mark.parametrize(
    ("name", "folders", "missing"),
    [
        ("AIGIBench", ["AIGIBench/test/DALLE-3", "AIGIBench/test/Midjourney-V6"], 23),
        ("WildRF", ["WildRF/test/reddit", "WildRF/test/Twitter"], 1),
        ("SynthWildX", ["SynthWildX/dalle3", "SynthWildX/midjourney-v5"], 1),
    ],
)
def test_the_other_layouts(tree: Tree, name: str, folders: list[str], missing: int) -> None:
    found = only(tree(*classes(folders)), name)
    assert list(counts(found).values()) == [(1, 1), (1, 1)]
    assert len(found.missing_subsets) == missing


def test_evalgen_is_fakes_only(tree: Tree) -> None:
    root = tree("EvalGEN/Flux/1.png", "EvalGEN/GoT/1_fake/1.png", "EvalGEN/NOVA/deep/1.png")
    assert counts(only(root, "EvalGEN")) == {"NOVA": (0, 1), "GoT": (0, 1), "Flux": (0, 1)}


def test_an_absent_benchmark_is_a_row(tree: Tree) -> None:
    root = tree(*classes(["WildRF/test/reddit"]))
    rows = find_benchmarks(root)
    assert [row.name for row in rows] == list(read_catalog())
    assert sum(isinstance(row, Absent) for row in rows) == len(read_catalog()) - 1
    (row,) = find_benchmarks(root, names=["Chameleon"])
    assert row == Absent("Chameleon", f"not found: no folder Chameleon with images in {root}")


def test_class_folders_in_root_or_its_children_make_root_one_benchmark(tree: Tree) -> None:
    root = tree(*classes(["sd15", "test/flux"]))
    assert [(b.name, counts(b)) for b in present(root)] == [("root", {"flux": (1, 1), "sd15": (1, 1)})]
    plain = tree(*classes(["sd15/plain"])) / "sd15" / "plain"
    assert [(b.name, counts(b)) for b in present(plain)] == [("plain", {"plain": (1, 1)})]


def test_deeper_class_folders_make_each_child_a_benchmark(tree: Tree) -> None:
    root = tree(*classes(["mine/a", "mine/b/c", "yours/d", "WildRF/test/reddit"], "real", "fake"))
    assert {b.name: counts(b) for b in present(root)} == {
        "WildRF": {"reddit": (1, 1)},
        "mine": {"a": (1, 1), "b": (1, 1)},
        "yours": {"d": (1, 1)},
    }
    assert only(root, "Mine").name == "mine"


def test_a_split_for_testing_is_preferred_and_training_data_the_last_resort(tree: Tree) -> None:
    root = tree(*classes(["a/train", "a/val", "a/test", "b/train", "b/val", "c/train"]))
    (found,) = present(root)
    assert [files(s, Label.REAL, root) for s in found.subsets] == [
        ["a/test/0_real/1.png"],
        ["b/val/0_real/1.png"],
        ["c/train/0_real/1.png"],
    ]


def test_fakes_alone_are_paired_with_real_images_alone(tree: Tree) -> None:
    root = tree(
        "unseen/bsds/0_real/1.png",
        "unseen/coco/0_real/1.png",
        "unseen/dalle2/1_fake/1.png",
        *classes(["unseen/sd15"]),
    )
    found = only(root, "unseen")
    assert counts(found) == {"dalle2": (2, 1), "sd15": (1, 1)}
    assert [s.reals_shared for s in found.subsets] == [True, False]
    assert {r.generator for r in found.subsets[0].manifest} == {"bsds", "coco", "dalle2"}
    assert len(found.images()) == 5


def test_one_class_alone_stays_alone(tree: Tree) -> None:
    root = tree("f/dalle2/1_fake/1.png", "f/sd/1_fake/1.png", "r/coco/0_real/1.png", "r/bsds/0_real/1.png")
    assert counts(only(root, "f")) == {"dalle2": (0, 1), "sd": (0, 1)}
    assert counts(only(root, "r")) == {"bsds": (1, 0), "coco": (1, 0)}
    assert not any(s.reals_shared for b in present(root) for s in b.subsets)
    root = tree(*classes(["m/both"]), "m/coco/0_real/1.png")
    assert counts(only(root, "m")) == {"both": (1, 1), "coco": (1, 0)}


def test_a_manifest_scores_each_generator_against_all_real_images(tree: Tree) -> None:
    path = tree("a.png", "b.png", "c.png", "d.png") / "list.csv"
    path.write_text("filename,label,generator\na.png,0,coco\nb.png,0,bsds\nc.png,1,sd\nd.png,1,flux\n")
    (found,) = find_benchmarks(path)
    assert isinstance(found, Benchmark)
    assert (found.name, counts(found)) == ("list", {"flux": (2, 1), "sd": (2, 1)})
    assert all(s.reals_shared for s in found.subsets)
    assert isinstance(find_benchmarks(path, names=["GenImage"])[0], Absent)
    path.write_text("filename,label\na.png,0\n")
    assert counts(only(path, "list")) == {"list": (1, 0)}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["list.csv"], ["list"]),
        (["mine/labels.tsv"], ["mine/labels"]),
        (["mine/train.csv", "mine/test.csv"], ["mine"]),
        (["train.csv", "val.csv"], ["root"]),
        (["UFD/test.csv"], ["UFD/test.csv"]),
    ],
)
def test_manifests_in_a_folder_are_benchmarks(tree: Tree, files: list[str], names: list[str]) -> None:
    root = tree("mine/a.png", "UFD/a.png", "a.png", *files)
    for file in files:
        (root / file).write_text("image;class\na.png;fake\n")
    (root / "notes.csv").write_text("name,score\nx,1\n")
    found = present(root)
    assert [b.name for b in found] == names
    assert [b.root for b in found] == [str((root / files[-1]).parent)]
    assert [[Path(r.uri).name for r in b.images()] for b in found] == [["a.png"]]


def test_of_a_manifest_in_a_folder_the_test_split_is_scored(tree: Tree) -> None:
    root = tree("a.png", "b.png", "c.png")
    (root / "list.csv").write_text("filename,label,split\na.png,1,train\nb.png,1,test\nc.png,0,test\n")
    assert counts(only(root, "list")) == {"list": (1, 1)}


def test_a_manifest_of_class_folders_describes_these(tree: Tree) -> None:
    root = tree(*classes(["mine/a"]), "b.png")
    (root / "list.csv").write_text("filename,label\nmine/a/0_real/1.png,0\nb.png,1\n")
    assert [b.name for b in present(root)] == ["mine"]


def test_a_manifest_that_cannot_be_read_is_absent_and_the_others_are_there(tree: Tree) -> None:
    root = tree(*classes(["mine/a"]), "b.png")
    (root / "list.csv").write_text("image,class\nb.png,dog\n")
    assert [b.name for b in present(root)] == ["mine"]
    (absent,) = (b for b in find_benchmarks(root) if b.name == "list")
    assert isinstance(absent, Absent)
    assert "list.csv, row 1: label 'dog'; expected" in absent.reason
    columns = {"filename": "image", "label": "kind"}
    with pytest.raises(ValueError, match=r"list\.csv: no column kind \(--columns label=kind\)"):
        find_benchmarks(root, columns=columns)
    (root / "list.csv").write_text("image,class,kind\nb.png,dog,fake\n")
    assert [b.name for b in find_benchmarks(root, columns=columns) if isinstance(b, Benchmark)] == ["list", "mine"]


def test_what_belongs_to_no_benchmark_is_noted(tree: Tree) -> None:
    root = tree(*classes(["mine/a"]), "mine/a/0_real/more.zip", "mine/b/1.png", "list/1.png", "EvalGEN/Flux/1.png")
    (root / "list/list.csv").write_text("image,class\n1.png,1\n")
    noted: list[tuple[str, str]] = []
    find_benchmarks(root, note=lambda path, why: noted.append((Path(path).relative_to(root).as_posix(), why)))
    assert noted == [
        ("mine/a/0_real/more.zip", "no image (.zip)"),
        ("mine/b/1.png", "image outside of class folders"),
    ]
    noted.clear()
    find_benchmarks(root, names=["EvalGEN"], note=lambda path, why: noted.append((path, why)))
    assert not noted


def test_mistakes_are_named(tree: Tree) -> None:
    root = tree(*classes(["mine/a"]))
    with pytest.raises(ValueError, match=r"unknown benchmark 'nope'; expected one of ForenSynths.*EvalGEN, mine"):
        find_benchmarks(root, names=["mine", "nope"])
    with pytest.raises(ValueError, match="does not exist"):
        find_benchmarks(root / "nowhere")


def test_the_catalog_knows_how_much_to_expect() -> None:
    catalog = read_catalog()
    subsets = catalog["ForenSynths"].subsets
    assert sum(s.n_real or 0 for s in subsets) + sum(s.n_fake or 0 for s in subsets) == 62_003
    assert len(catalog["AIGIBench"].subsets) == 25
    assert [len(catalog[name].subsets) for name in ("UFD", "GenImage", "SynthBuster")] == [8, 8, 9]
    assert all(spec.source and spec.licence for spec in catalog.values())
    assert {s.reals for s in catalog["UFD"].subsets} == {("imagenet",), ("laion",)}


@pytest.mark.parametrize(
    "folder", ["GenImage/Midjourney", "GenImage/wukong/val", "GenImage/VQDM/imagenet_ai_0419_vqdm/val"]
)
def test_genimage_repacked_and_by_split(tree: Tree, folder: str) -> None:
    names = ("0_real", "1_fake") if folder.endswith("Midjourney") else ("nature", "ai")
    assert list(counts(only(tree(*classes([folder], *names)), "GenImage")).values()) == [(1, 1)]


def test_a_listed_benchmark_without_listed_subsets_takes_what_it_finds(tree: Tree) -> None:
    root = tree(*classes(["OpenFake/core/test/flux", "OpenFake/core/train/flux"]), "OpenFake/gpt/fake/1.png")
    assert counts(only(root, "OpenFake")) == {"flux": (1, 1), "gpt": (0, 1)}
    (absent,) = find_benchmarks(tree("CommForEval/a/real/1.png"), names=["CommFor-Eval"])
    assert absent == Absent("CommFor-Eval", "not found: its folder holds no fakes to score")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Chameleon/test", "Chameleon"), ("WildRF/WildRF/test/reddit", "WildRF"), ("mine/a", "mine")],
)
def test_the_file_list_has_the_same_hash_wherever_it_is(tree: Tree, folder: str, name: str) -> None:
    root = tree(*classes([folder]))
    moved = root.rename(root.with_name("moved"))
    before, after, below = only(tree(*classes([folder])), name), only(moved, name), only(moved / name, name)
    assert before.file_list_sha256() == after.file_list_sha256() == below.file_list_sha256()
    assert before.images().file_list_sha256() != after.images().file_list_sha256()


def test_the_file_list_of_a_relative_root(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(*classes(["WildRF/test/reddit"]))
    expected = only(root, "WildRF").file_list_sha256()
    for place, relative in ((root, "."), (root.parent, "root"), (root / "WildRF", ".")):
        monkeypatch.chdir(place)
        assert only(Path(relative), "WildRF").file_list_sha256() == expected


# ---------------------------------------------------------------------------------------------------------
# Protocols


def benchmark_of(n_real: int, n_fake: int, *, root: str = "a") -> Benchmark:
    records = [
        Record(f"{root}/{label.name}/{i:05}.png", label, "sd")
        for label, count in ((Label.REAL, n_real), (Label.FAKE, n_fake))
        for i in range(count)
    ]
    return Benchmark("b", (Subset("sd", Manifest("sd", tuple(records))),), root=root)


@pytest.mark.parametrize(
    ("there", "scored"),
    [
        ((1000, 1500), (1000, 1000)),
        ((999, 1500), (100, 100)),
        ((1500, 60), (100, 60)),
        ((0, 1500), (0, 1000)),
        ((0, 300), (0, 100)),
    ],
)
def test_the_protocol_of_the_release(there: tuple[int, int], scored: tuple[int, int]) -> None:
    assert counts(apply_protocol(benchmark_of(*there), "release")) == {"sd": scored}
    assert apply_protocol(benchmark_of(*there), "all") == benchmark_of(*there)


def test_a_draw_depends_on_its_seed_alone() -> None:
    here, there = (apply_protocol(benchmark_of(200, 200, root=root), "release") for root in ("a", "elsewhere"))
    assert here.file_list_sha256() == there.file_list_sha256()
    assert here.file_list_sha256() != apply_protocol(benchmark_of(200, 200), "release", seed=1).file_list_sha256()
    with pytest.raises(ValueError, match="unknown protocol 'paper'; expected one of all, release"):
        apply_protocol(here, "paper")
