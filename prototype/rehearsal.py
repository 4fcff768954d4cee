"""The rehearsal memory of a detector: what its head saw of training and held-out images, small, and no picture.

A detector that learns a new generator forgets others, unless it sees them again. The feature x of an image has a
part of its crops and, where the detector looks at that, a part of the whole image, and the head projects each:
W x = W_1 x_1 + W_2 x_2. Of an image, the memory keeps W_i x_i, and B_i x_i, which is x_i along some directions.
When a refit changes W_i by A_i B_i, what the new projection makes of the image follows from these.

Shape suffixes: N images, D width of a feature or of a part of it, E embedding, K directions of a part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from gapl.files.refusal import check_is_file, refusal
from gapl.fingerprint import fingerprint
from gapl.labels import Label, Source
from models import tensorfile
from models.detector import TowerHead

FORMAT = "gapl-rehearsal-1"
SUFFIX = ".rehearsal"  # in place of the suffix of the detector file
WHAT = "a rehearsal memory of prototype/make_rehearsal.py"
LEAST_HELD_OUT = 99, 20  # real images, fakes
PROJECT = "project.weight"  # of a detector file
ROUNDS = 3  # of the power iteration that finds directions
SPARE = 16  # directions more than are kept, so that those are found well


class Part(NamedTuple):
    """What is kept of one part of the features of N images: W x, and B x."""

    projected_NE: Tensor
    reduced_NK: Tensor


@dataclass(frozen=True)
class Seen:
    """What the head of a detector sees of N images.

    parts       of the crops, and of the whole image if the detector looks at it
    labels_N    0 real, 1 fake
    held_out_N  whether training held the image out
    hashes_N    the first eight bytes of the sha256 of its file, by which it is known again
    names       the generator of a fake, or where a real image is from
    kinds       the family of that generator, or the style of a real image; "" where it is not known
    """

    parts: tuple[Part, ...]
    labels_N: Tensor
    held_out_N: Tensor
    hashes_N: Tensor
    names: tuple[str, ...]
    kinds: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def where(self, chosen_N: Tensor) -> Self:
        """Return the chosen images; chosen_N is boolean, or has their numbers."""
        rows = chosen_N.nonzero()[:, 0] if chosen_N.dtype == torch.bool else chosen_N
        return replace(
            self,
            parts=tuple(Part(*(tensor[rows] for tensor in part)) for part in self.parts),
            labels_N=self.labels_N[rows],
            held_out_N=self.held_out_N[rows],
            hashes_N=self.hashes_N[rows],
            names=tuple(self.names[row] for row in rows.tolist()),
            kinds=tuple(self.kinds[row] for row in rows.tolist()),
        )

    def __add__(self, others: Self) -> Self:
        pairs = zip(self.parts, others.parts, strict=True)
        return replace(
            self,
            parts=tuple(Part(*map(torch.cat, zip(mine, theirs, strict=True))) for mine, theirs in pairs),
            labels_N=torch.cat([self.labels_N, others.labels_N]),
            held_out_N=torch.cat([self.held_out_N, others.held_out_N]),
            hashes_N=torch.cat([self.hashes_N, others.hashes_N]),
            names=self.names + others.names,
            kinds=self.kinds + others.kinds,
        )

    def sources(self) -> list[str]:
        """Return the source of each image, as detector files spell it."""
        return [
            str(Source(Label(label), name)) for label, name in zip(self.labels_N.tolist(), self.names, strict=True)
        ]

    def moved(self, updates_EK: Sequence[Tensor]) -> Self:
        """Return what the head sees after its projection changed by A_i B_i; updates_EK are the A_i."""
        pairs = zip(self.parts, updates_EK, strict=True)
        parts = tuple(part._replace(projected_NE=part.projected_NE + part.reduced_NK @ a.T) for part, a in pairs)
        return replace(self, parts=parts)


@dataclass(frozen=True)
class Rehearsal:
    """The memory of one detector.

    directions_KD  the B of each part
    head           fingerprint of the detector's projection
    added          what was added to the detector since it was trained, an entry for each time
    """

    directions_KD: tuple[Tensor, ...]
    seen: Seen
    head: str
    added: tuple[Mapping[str, Any], ...] = ()

    @property
    def training(self) -> Seen:
        """Return the images that the detector was trained on."""
        return self.seen.where(~self.seen.held_out_N)

    @property
    def held_out(self) -> Seen:
        """Return the images that training held out."""
        return self.seen.where(self.seen.held_out_N)

    def too_few_held_out(self) -> str:
        """Return why no calibration can be made of the held-out images, or an empty text."""
        n_real, n_fake = torch.bincount(self.held_out.labels_N, minlength=2).tolist()
        if n_real >= LEAST_HELD_OUT[0] and n_fake >= LEAST_HELD_OUT[1]:
            return ""
        least = " and ".join(map(str, LEAST_HELD_OUT))
        return f"{n_real} real images and {n_fake} fakes that training held out; a calibration takes {least}"

    def check_fits(self, detector: TowerHead, *, name: object) -> None:
        """Raise ValueError unless the memory is of this detector."""
        if self.head != head_of(detector.project.weight):
            raise ValueError(f"{name}: the memory of another detector; prototype/make_rehearsal.py makes its own")
        widths = [part_ED.shape for part_ED in parts_of(detector, detector.project.weight)]
        found = [
            (part.projected_NE.shape[1], each_KD.shape[1])
            for part, each_KD in zip(self.seen.parts, self.directions_KD, strict=True)
        ]
        if found != [tuple(shape) for shape in widths]:
            raise ValueError(f"{name}: damaged: the shapes of its tensors are not those of this detector")

    def save(self, path: Path) -> None:
        """Write the memory whole or not at all. Raises OSError when it cannot be written."""
        tensors = {"labels_N": self.seen.labels_N.byte(), "held_out_N": self.seen.held_out_N.byte()}
        tensors["hashes_N"] = self.seen.hashes_N
        for number, (directions_KD, part) in enumerate(zip(self.directions_KD, self.seen.parts, strict=True)):
            scale_K = scale_of(directions_KD)
            tensors[f"{number}.scale_K"] = scale_K
            tensors[f"{number}.directions_KD"] = (directions_KD / scale_K[:, None]).round().to(torch.int8)
            tensors |= {f"{number}.{name}": tensor.half() for name, tensor in part._asdict().items()}
        header: dict[str, Any] = {"head": self.head, "added": list(self.added)}
        for name in ("names", "kinds"):
            words = sorted(set(getattr(self.seen, name)))
            number_of = {word: number for number, word in enumerate(words)}
            header[name] = {"words": words, "of": [number_of[each] for each in getattr(self.seen, name)]}
        tensorfile.write(path, tensors, format=FORMAT, header=header)

    @classmethod
    def load(cls, path: Path) -> Rehearsal:
        """Read a memory. Raises ValueError, one line, when it is damaged or no such file."""
        check_is_file(path, what=WHAT)
        try:
            header, tensors = tensorfile.read(path, format=FORMAT)
            return _read(header, tensors)
        except ValueError as error:
            raise refusal(path, error, what=WHAT) from error


def head_of(weight_ED: Tensor) -> str:
    """Return what tells the projection of a detector from others."""
    return fingerprint({PROJECT: weight_ED.detach().float().cpu().numpy()})


def short_hash(content: bytes) -> int:
    """Return the first eight bytes of the sha256 of a file, by which a memory knows it."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)


def scale_of(directions_KD: Tensor) -> Tensor:
    """Return scale_K: what one of 127 steps is worth in each direction."""
    return directions_KD.abs().amax(dim=1) / 127


# ---------------------------------------------------------------------------------------------------------
# Reading


def _read(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Rehearsal:
    labels_N, held_out_N = (_tensor(tensors, name, (-1,)) for name in ("labels_N", "held_out_N"))
    num = len(labels_N)
    if len(held_out_N) != num or not num or labels_N.max() > 1:
        raise ValueError("damaged: labels that are none, or not of every image")
    directions_KD: list[Tensor] = []
    parts: list[Part] = []
    while f"{len(parts)}.scale_K" in tensors:
        at = f"{len(parts)}."
        scale_K = _tensor(tensors, f"{at}scale_K", (-1,))
        directions_KD.append(_tensor(tensors, f"{at}directions_KD", (len(scale_K), -1)) * scale_K[:, None])
        projected_NE = _tensor(tensors, f"{at}projected_NE", (num, -1))
        parts.append(Part(projected_NE, _tensor(tensors, f"{at}reduced_NK", (num, len(scale_K)))))
    added, head = header.get("added"), header.get("head")
    if not parts or not isinstance(added, list) or not isinstance(head, str):
        raise ValueError("damaged: no part of a feature, no list of what was added, or no fingerprint")
    texts = {name: _texts(header.get(name), num, name=name) for name in ("names", "kinds")}
    hashes_N = tensors.get("hashes_N", torch.zeros(0, dtype=torch.long))
    if hashes_N.shape != (num,) or hashes_N.dtype != torch.long:
        raise ValueError("tensor 'hashes_N' is missing, or not of every image")
    seen = Seen(tuple(parts), labels_N.long(), held_out_N.bool(), hashes_N, **texts)
    return Rehearsal(tuple(directions_KD), seen, head, tuple(added))


def _tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor in float32. Raises ValueError unless it has that shape (-1: any size) and finite numbers."""
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing")
    tensor = tensors[name].float()
    if tensor.ndim != len(shape) or any(size not in (-1, tensor.shape[axis]) for axis, size in enumerate(shape)):
        raise ValueError(f"tensor {name!r} has the shape {tuple(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"tensor {name!r} has values that are no finite numbers")
    return tensor


def _texts(stated: Any, num: int, *, name: str) -> tuple[str, ...]:
    match stated:
        case {"words": list(words), "of": list(numbers)} if len(numbers) == num and {*map(type, words)} <= {str}:
            if all(type(number) is int and 0 <= number < len(words) for number in numbers):
                return tuple(words[number] for number in numbers)
    raise ValueError(f"damaged: its {name} are not those of {num} images")


# ---------------------------------------------------------------------------------------------------------
# Making


def find_directions(part_ND: Tensor, *, seed: int, num: int) -> Tensor:
    """Return directions_KD along which this part of features is longest, as they are kept: in steps of 1/127.

    They are singular vectors, found by a randomised power iteration (Halko, Martinsson, Tropp 2011).
    """
    part_ND = part_ND.float()
    num = min(num, *part_ND.shape)
    generator = torch.Generator().manual_seed(seed)
    start_DK = torch.randn(part_ND.shape[1], min(num + SPARE, *part_ND.shape), generator=generator)
    basis_DK, _ = torch.linalg.qr(start_DK)
    for _ in range(ROUNDS):
        basis_DK, _ = torch.linalg.qr(part_ND.T @ (part_ND @ basis_DK))
    _, _, turned_KK = torch.linalg.svd(part_ND @ basis_DK, full_matrices=False)
    directions_KD = (turned_KK @ basis_DK.T)[:num]
    scale_K1 = scale_of(directions_KD)[:, None]
    return (directions_KD / scale_K1).round() * scale_K1


def parts_of(detector: TowerHead, rows_ND: Tensor) -> list[Tensor]:
    """Return the columns of features, or of the projection's weight, that belong to each part."""
    whole = rows_ND[:, detector.crop_width :]
    return [rows_ND[:, : detector.crop_width], *([whole] if whole.shape[1] else [])]


def see(detector: TowerHead, features_ND: Tensor, directions_KD: Sequence[Tensor]) -> tuple[Part, ...]:
    """Return what the head of a detector sees of images with these features."""
    with torch.no_grad():  # what inference mode makes cannot be trained on
        rows = zip(
            parts_of(detector, features_ND.float()), parts_of(detector, detector.project.weight), directions_KD,
            strict=True,
        )  # fmt: skip
        return tuple(Part(part_ND @ weight_ED.T, part_ND @ each_KD.T) for part_ND, weight_ED, each_KD in rows)
