"""A detector that learnt new images: its head, calibration and memory, and what changed.

Shape suffixes: N images, D width of a feature, E embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.open_corpus.kinds import family_of, style_of
from data.records import Manifest
from gapl.calibration import BALANCED, Calibration
from gapl.explain.background import SUFFIX as EXPLAINER
from gapl.explain.head import PROTOTYPES
from gapl.files.atomic import replacing
from gapl.files.checksum import sha256_of
from gapl.info import FORMAT
from gapl.labels import Label
from models import tensorfile
from models.detector import PrototypeDetector, TowerHead
from models.weights.checkpoint import Checkpoint, load_checkpoint
from prototype.before_after import Changes, Judge, compare, recalibrate
from prototype.looking import Looker
from prototype.refit import Head, Refitting, refit, tensors_of
from prototype.rehearsal import PROJECT, SUFFIX, Rehearsal, Seen, head_of, see, short_hash

LEAST_FITTED, LEAST_JUDGED = 4, 2  # new images of a class
FOLDS = 3  # in which new images are left out, to find those whose label looks wrong


@dataclass(frozen=True)
class Addition:
    """What `add` found.

    file          of the detector that was taught
    tensors       of the new head, by name
    num_real      of the new detector's prototypes
    calibrations  entries of the new header
    memory        of the new detector
    suspects      new images whose label looks wrong: a detector that learnt the others is sure of the opposite
    known         images that were left out: the memory has them, or they are there twice
    """

    file: Path
    tensors: Mapping[str, Tensor]
    num_real: int
    calibrations: Mapping[str, Calibration]
    memory: Rehearsal
    changes: Changes
    suspects: tuple[str, ...]
    known: tuple[str, ...]

    def text(self) -> str:
        """Return what changed, for a terminal."""
        lines = [self.changes.text()]
        if self.suspects:
            shown = ", ".join(Path(each).name for each in self.suspects[:10])
            lines.append(f"{len(self.suspects)} new images look as if their label were wrong: {shown}")
        if self.known:
            lines.append(f"{len(self.known)} images were left out: the memory has them, or they are there twice")
        return "\n".join(lines)

    def write_report(self, path: Path) -> None:
        """Write what changed as a page (.html) or as JSON, whole or not at all. Raises OSError."""
        facts = {"added": dict(self.memory.added[-1]), **self.changes.facts()}
        facts |= {"suspects": list(self.suspects), "known": list(self.known)}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            from reporting.additions import write_additions

            write_additions(path, facts)
            return
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def save(self, out: Path) -> list[Path]:
        """Write the memory of the new detector, and then its file. Raises OSError when one cannot be written."""
        out.parent.mkdir(parents=True, exist_ok=True)
        header, tensors = tensorfile.read(self.file, format=FORMAT)
        provenance, num = header["provenance"], len(self.tensors[PROTOTYPES])
        header["config"]["num_prototypes"] = num
        provenance["prototypes"] = dict(provenance.get("prototypes") or {}) | {
            "num_real": self.num_real, "num_fake": num - self.num_real,
        }  # fmt: skip
        provenance["added"] = [dict(each) for each in self.memory.added]
        header |= {name: asdict(each) for name, each in self.calibrations.items()}
        header["threshold"] = self.calibrations["calibration"].threshold(BALANCED)
        memory_file = out.with_suffix(SUFFIX)
        with replacing(memory_file) as new_memory, replacing(out) as new_detector:  # both, or none of them
            self.memory.save(new_memory)
            tensorfile.write(new_detector, {**tensors, **self.tensors}, format=FORMAT, header=header)
        out.with_suffix(EXPLAINER).unlink(missing_ok=True)  # of another detector, which --overwrite replaced
        return [memory_file, out]


def add(
    file: Path, memory_file: Path, images: Manifest, *, looker: Looker, how: Refitting, judged: float
) -> Addition:
    """Teach the detector of `file` new images, and find out what that changes. Nothing is written.

    judged   share of the new images, of each class, that is kept for judging

    Raises ValueError when files do not fit together, or too few images can be used.
    """
    checkpoint, memory = read_both(file, memory_file)
    features_ND, read = looker.features(file, checkpoint, images)
    seen = see_new(checkpoint.detector, features_ND, read, memory)
    check_labels(seen, read)
    is_known_N = torch.isin(seen.hashes_N, memory.seen.hashes_N) | is_repeated(seen.hashes_N)
    new, uris_N = seen.where(~is_known_N), np.array(list(read.uris()), dtype=object)
    judged_N = draw_judged(new.labels_N, judged, seed=how.seed)
    fitted, remembered, held_out = new.where(~judged_N), memory.training, memory.held_out
    head = fit_head(checkpoint, remembered, fitted, how=how)
    calibrations = calibrate_head(head, held_out, has_fast=checkpoint.fast_calibration is not None)
    suspects_N = find_suspects(checkpoint, remembered, new, how=how)
    entry = {
        "detector_sha256": sha256_of(file),
        "date": datetime.now(UTC).date().isoformat(),
        "images": dict(sorted(Counter(fitted.sources()).items())),
        "images_sha256": hashlib.sha256(fitted.hashes_N.sort().values.numpy().tobytes()).hexdigest(),
        "settings": asdict(how) | {"judged": judged},
    }
    tensors = tensors_of(head, checkpoint.detector, memory.directions_KD)
    remembers = (memory.seen + fitted).moved(head.updates())
    return Addition(
        file,
        tensors,
        head.num_real,
        calibrations,
        replace(memory, seen=remembers, head=head_of(tensors[PROJECT]), added=(*memory.added, entry)),
        compare(held_out, new.where(judged_N), before=_stated(checkpoint), after=_refitted(head, calibrations)),
        suspects=tuple(uris_N[~is_known_N.numpy()][suspects_N]),
        known=tuple(uris_N[is_known_N.numpy()]),
    )


def read_both(file: Path, memory_file: Path) -> tuple[Checkpoint, Rehearsal]:
    """Return a detector and its memory. Raises ValueError, one line, when one is unfit or they do not belong."""
    checkpoint = load_checkpoint(file, allow_tiny=True)
    if checkpoint.config.stage == 1:
        raise ValueError(f"{file}: a detector of stage 1, which has no prototypes; train stage 2 first")
    if checkpoint.form not in ("adapter", "full", "merged"):
        raise ValueError(f"{file}: a released file; convert it: python -m models.weights convert")
    if not memory_file.is_file():
        raise ValueError(
            f"{memory_file} is not there: without a rehearsal memory the detector would forget what it learnt; "
            "prototype/make_rehearsal.py makes one from the training images"
        )
    memory = Rehearsal.load(memory_file)
    memory.check_fits(checkpoint.detector, name=memory_file)
    if list(memory.added) != list(checkpoint.provenance.get("added", ())):
        raise ValueError(
            f"{memory_file}: it does not remember what was added to {file}; use the memory made with it"
        )
    if too_few := memory.too_few_held_out():
        raise ValueError(f"{memory_file}: {too_few}")
    return checkpoint, memory


def see_new(detector: TowerHead, features_ND: Tensor, images: Manifest, memory: Rehearsal) -> Seen:
    """Return what the head sees of new images."""
    labels = [int(record.label) for record in images]
    names = tuple(record.generator for record in images)
    kinds = [family_of(name) if label else style_of(name) for name, label in zip(names, labels, strict=True)]
    return Seen(
        see(detector, features_ND, memory.directions_KD),
        torch.tensor(labels),
        torch.zeros(len(images), dtype=torch.bool),
        torch.tensor([short_hash(record.read_bytes()) for record in images]),
        names,
        tuple(kind or "" for kind in kinds),
    )


def is_repeated(hashes_N: Tensor) -> Tensor:
    """Tell of each image whether one before it is the same."""
    hashes = hashes_N.tolist()
    first = {each: number for number, each in reversed(list(enumerate(hashes)))}
    return torch.tensor([first[each] != number for number, each in enumerate(hashes)], dtype=torch.bool)


def check_labels(seen: Seen, images: Manifest) -> None:
    """Raise ValueError when an image is among the fakes and among the real images."""
    fakes = set(seen.hashes_N[seen.labels_N == 1].tolist())
    both = [
        record.uri
        for record, label, each in zip(images, seen.labels_N.tolist(), seen.hashes_N.tolist(), strict=True)
        if not label and each in fakes
    ]
    if both:
        raise ValueError(
            f"{len(both)} images are in --images and --photos, such as {both[0]}; an image has one class"
        )


def draw_judged(labels_N: Tensor, share: float, *, seed: int) -> Tensor:
    """Draw the images that are kept for judging, of each class. Raises ValueError when too few are left."""
    if not len(labels_N):
        raise ValueError("no new image is left: the memory has all of them")
    generator = torch.Generator().manual_seed(seed)
    judged_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in Label:
        rows = (labels_N == label).nonzero()[:, 0]
        if not len(rows):
            continue
        count = max(LEAST_JUDGED, round(share * len(rows)))
        if len(rows) - count < LEAST_FITTED:
            raise ValueError(
                f"{len(rows)} new {label.word} images can be used; at least {LEAST_FITTED + LEAST_JUDGED} are "
                "needed, better 30 or more"
            )
        judged_N[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return judged_N


def fit_head(checkpoint: Checkpoint, remembered: Seen, fitted: Seen, *, how: Refitting) -> Head:
    """Refit the head of a detector, as prototype/refit.py does."""
    detector, stated = checkpoint.detector, checkpoint.provenance.get("prototypes")
    assert isinstance(detector, PrototypeDetector)
    num = len(detector.prototypes_PE)
    num_real = stated.get("num_real", num // 2) if isinstance(stated, dict) else num // 2
    return refit(detector, remembered, fitted, num_real=num_real, how=how)


def calibrate_head(head: Head, held_out: Seen, *, has_fast: bool) -> dict[str, Calibration]:
    """Return the calibrations of a refitted head, by the name of their entry in the header."""
    found = {"calibration": recalibrate(head.logits(held_out), held_out)}
    if has_fast:
        found["fast_calibration"] = recalibrate(head.logits(held_out, by_whole=True), held_out)
    return found


def find_suspects(checkpoint: Checkpoint, remembered: Seen, new: Seen, *, how: Refitting) -> np.ndarray:
    """Tell which new images look mislabelled, booleans of shape N.

    The others teach the detector, fold by fold; an image is suspect if it is then surely of the other class.
    """
    fold_N = torch.randperm(len(new), generator=torch.Generator().manual_seed(how.seed)) % FOLDS
    suspects_N = np.zeros(len(new), dtype=bool)
    for fold in range(FOLDS):
        head = fit_head(checkpoint, remembered, new.where(fold_N != fold), how=how)
        left_out = new.where(fold_N == fold)
        said_N = Judge(head.logits(left_out), checkpoint.calibration, checkpoint.threshold).labels()
        opposite_N = np.where(left_out.labels_N.numpy() == Label.FAKE, Label.REAL.word, Label.FAKE.word)
        suspects_N[(fold_N == fold).numpy()] = said_N == opposite_N
    return suspects_N


def _stated(checkpoint: Checkpoint) -> Callable[[Seen], Judge]:
    """Return how a detector judges as its file says."""
    detector = checkpoint.detector
    assert isinstance(detector, PrototypeDetector)

    def judge(seen: Seen) -> Judge:
        head = Head(
            detector, detector.prototypes_PE, num_real=0, units=[part.reduced_NK[0] for part in seen.parts]
        )
        return Judge(head.logits(seen), checkpoint.calibration, checkpoint.threshold)

    return judge


def _refitted(head: Head, calibrations: Mapping[str, Calibration]) -> Callable[[Seen], Judge]:
    """Return how the detector with a refitted head judges."""
    calibration = calibrations["calibration"]
    return lambda seen: Judge(head.logits(seen), calibration, calibration.threshold(BALANCED))
