"""Refit the head of a detector to new images and to a rehearsal memory.

The new images give prototypes of their own. The classifier and, along the directions of the memory, the projection
are then fitted to them, while the remembered images of training keep the logits that they had: what the detector
knew stays as it was, mistakes included. The attention stays, too: fitted to few images, it finds fewer of the new
ones (docs/keep-up.md).

Shape suffixes: N images, D width of a part of the feature, E embedding, K directions, P prototypes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits

from gapl.explain.head import PROTOTYPES
from models.detector import PrototypeDetector, TowerHead
from prototype.reduce import kmeans
from prototype.rehearsal import PROJECT, Seen, parts_of

IMAGES_PER_PROTOTYPE = 10
LR_FACTOR = 20
LEAST_UNIT = 1e-6  # where all training images are the same along a direction
MOST_PROTOTYPES = 8  # of each class, where their number is not given


@dataclass(frozen=True)
class Refitting:
    """How a head is refitted.

    prototypes  that the new images of a class give; None: one for each ten of them, and at most eight
    fitted      what is: names of Head's parts. "change_EK" changes the projection, along the memory's directions
    steps, lr   of Adam, with a cosine; each step sees all images. The projection's change has LR_FACTOR times lr
    share       of the new images in the loss; the memory has the rest
    penalty     of the squares of the projection's change, so that few images do not move it far
    """

    prototypes: int | None = None
    fitted: tuple[str, ...] = ("classifier", "change_EK")
    steps: int = 100
    lr: float = 1e-3
    share: float = 0.2
    penalty: float = 0.02
    seed: int = 0


class Head(nn.Module):
    """A head as it is refitted. It reads what a rehearsal memory keeps of an image.

    change_EK      of the projection of each part, along its directions, in these units
    prototypes_PE  `num_real` of real images, then those of fakes
    """

    def __init__(
        self, detector: PrototypeDetector, prototypes_PE: Tensor, *, num_real: int, units: Sequence[Tensor]
    ) -> None:
        super().__init__()
        self.attention = copy.deepcopy(detector.attention)
        self.classifier = copy.deepcopy(detector.classifier)
        self.change_EK = nn.ParameterList(torch.zeros(prototypes_PE.shape[1], len(unit_K)) for unit_K in units)
        self.prototypes_PE, self.num_real, self._units = prototypes_PE, num_real, list(units)

    def updates(self) -> list[Tensor]:
        """Return update_EK of each part, the A that changes its projection by A B."""
        return [change_EK / unit_K for change_EK, unit_K in zip(self.change_EK, self._units, strict=True)]

    def embed(self, seen: Seen, *, by_whole: bool = False) -> Tensor:
        """Return embedding_NE of images, by all parts or by the last alone, which is the whole image."""
        parts = seen.moved(self.updates()).parts
        projected_NE = sum((part.projected_NE for part in parts[-1 if by_whole else 0 :]), torch.zeros(()))
        return functional.normalize(projected_NE, dim=-1)

    def forward(self, seen: Seen, *, by_whole: bool = False) -> Tensor:
        """Return logit_N."""
        keys_1PE = self.prototypes_PE.unsqueeze(0)
        query_1NE = self.embed(seen, by_whole=by_whole).unsqueeze(0)
        mixture_1NE, _ = self.attention(query_1NE, keys_1PE, keys_1PE, need_weights=False)
        logit_N: Tensor = self.classifier(mixture_1NE.squeeze(0)).squeeze(-1)
        return logit_N

    @torch.no_grad()
    def logits(self, seen: Seen, *, by_whole: bool = False) -> np.ndarray:
        """Return logit_N as numbers, float64."""
        return self(seen, by_whole=by_whole).double().numpy()


def refit(detector: PrototypeDetector, known: Seen, new: Seen, *, num_real: int, how: Refitting) -> Head:
    """Fit the head of a detector to new images, and to remembered images of training.

    The change of the projection is measured in each direction by how far training images spread along it: what
    tells a new generator apart may lie where they hardly differ.

    num_real  prototypes of the detector that are of real images; they come first
    """
    units = [part.reduced_NK.std(dim=0).clamp_min(LEAST_UNIT) for part in known.parts]
    before = Head(detector, detector.prototypes_PE, num_real=num_real, units=units)
    with torch.no_grad():
        of_new = [_reduce(before.embed(new.where(new.labels_N == label)), how, label) for label in (0, 1)]
    old = detector.prototypes_PE.split([num_real, len(detector.prototypes_PE) - num_real])
    prototypes_PE = torch.cat([old[0], of_new[0], old[1], of_new[1]])
    head = Head(detector, prototypes_PE, num_real=num_real + len(of_new[0]), units=units).requires_grad_(False)
    for name in how.fitted:
        head.get_submodule(name).requires_grad_()
    views = (False, True) if len(known.parts) > 1 else (False,)
    with torch.no_grad():
        kept = [torch.sigmoid(before(known, by_whole=by_whole)) for by_whole in views]
    _fit(head, [(known, by_whole, kept_N) for by_whole, kept_N in zip(views, kept, strict=True)], new, how=how)
    return head.requires_grad_(False)


def _fit(head: Head, known: Sequence[tuple[Seen, bool, Tensor]], new: Seen, *, how: Refitting) -> None:
    """Minimise the cross-entropy of the remembered images to their scores, and of the new ones to their labels.

    Classes weigh the same among the remembered ones.
    """
    optimizer = torch.optim.Adam(
        {
            "params": list(head.get_submodule(name).parameters()),
            "peak": how.lr * (LR_FACTOR if name == "change_EK" else 1),
        }
        for name in how.fitted
    )
    target_N = new.labels_N.float()
    for step in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / how.steps))
        loss = how.penalty * torch.stack([change_EK.square().sum() for change_EK in head.change_EK]).sum()
        for seen, by_whole, kept_N in known:
            old = binary_cross_entropy_with_logits(
                head(seen, by_whole=by_whole), kept_N, _class_weights(seen.labels_N)
            )
            added = binary_cross_entropy_with_logits(head(new, by_whole=by_whole), target_N)
            loss = loss + ((1 - how.share) * old + how.share * added) / len(known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _class_weights(labels_N: Tensor) -> Tensor:
    counts = torch.bincount(labels_N, minlength=2)
    return (len(labels_N) / (2 * counts))[labels_N]


def _reduce(new_NE: Tensor, how: Refitting, label: int) -> Tensor:
    """Return prototypes_PE of the new images of a class: centres of k-means, of length 1."""
    asked = how.prototypes
    if asked is None:
        asked = min(MOST_PROTOTYPES, max(1, len(new_NE) // IMAGES_PER_PROTOTYPE))
    if not (num := min(asked, len(new_NE))):
        return new_NE[:0]
    centres_PE = torch.from_numpy(kmeans(new_NE.double().numpy(), num, how.seed + label)).float()
    return functional.normalize(centres_PE, dim=1)


def tensors_of(head: Head, detector: TowerHead, directions_KD: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a refitted head by name, as a detector file has them."""
    weights_ED = parts_of(detector, detector.project.weight)
    moved = zip(weights_ED, head.updates(), directions_KD, strict=True)
    with torch.no_grad():
        weight_ED = torch.cat([part_ED + update_EK @ each_KD for part_ED, update_EK, each_KD in moved], dim=1)
    state = {name: tensor for name, tensor in head.state_dict().items() if not name.startswith("change_EK")}
    return {**state, PROJECT: weight_ED, PROTOTYPES: head.prototypes_PE}
