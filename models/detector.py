"""The two models of the method: a linear head on a frozen tower, and prototype attention on an adapted tower.

An image may be seen in several views: crops of the image as it is, and last the whole image in a small size. Their
features make one feature, so that everything after the tower is the same for one view and for many.

Shape suffixes: B batch, V views, C channels, H, W pixels, D width of a feature, E embedding, P prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gapl.config import DetectorConfig
from gapl.explain.head import TENSORS as HEAD_TENSORS
from models.adapt import add_lora
from models.tower import VisionTower


class Output(NamedTuple):
    """What a detector computes: its sigmoid turns logit_B into P(fake).

    attention_BP   how much each prototype was used; None in stage 1
    by_whole_B     whether the whole image alone decided; None where no image was judged by that first
    feature_BD     what the head read; None where an exported file does not give it
    """

    logit_B: Tensor
    embedding_BE: Tensor
    attention_BP: Tensor | None
    by_whole_B: Tensor | None = None
    feature_BD: Tensor | None = None


class TowerHead(nn.Module):
    """What both stages share: pixels -> feature -> embedding of length 1.

    feature_layers   the layers of the tower that the feature is read from, see VisionTower.forward
    whole_layers     the same for the whole image, which is then the last view; empty: it is no view
    cascade          how `forward` judges, see models/cascade.py; None: by all views that it is given

    The head computes in float32 even when autocast runs the tower in a shorter type.
    """

    def __init__(
        self,
        tower: VisionTower,
        *,
        embed_dim: int = 128,
        feature_layers: tuple[int, ...] = (),
        whole_layers: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.tower, self.feature_layers, self.whole_layers = tower, feature_layers, whole_layers
        self.crop_width = tower.spec.feature_width(feature_layers)
        self.feature_width = self.crop_width + tower.spec.hidden_size * len(whole_layers)
        self.crop_dropout = 0.0
        self.cascade: Callable[[TowerHead, Tensor], Output] | None = None
        self.project = nn.Linear(self.feature_width, embed_dim, bias=False)
        self.classifier = nn.Linear(embed_dim, 1, bias=False)

    @contextmanager
    def leaving_out_crops(self, share: float) -> Iterator[None]:
        """Train inside the `with` block without the crops of this share of the images, drawn anew in each step.

        The detector learns to judge by the whole image alone, too. It does not change evaluation.
        """
        before, self.crop_dropout = self.crop_dropout, share
        try:
            yield
        finally:
            self.crop_dropout = before

    def head_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors of the head by name, as gapl/explain/head.py takes them."""
        state = self.state_dict()
        return {name: state[name].float().cpu().numpy() for name in HEAD_TENSORS if name in state}

    def feature(self, pixels: Tensor) -> Tensor:
        """Return feature_BD of pixels_BCHW, or of pixels_BVCHW where an image has several views.

        A view gives the class token after the last layer norm, or those of some layers, joined. The feature is the
        mean over the crops; with `whole_layers`, that of the whole image is joined to it.
        """
        pixels_BVCHW = pixels.unsqueeze(1) if pixels.ndim == 4 else pixels
        if not self.whole_layers:
            return self._mean_of_crops(pixels_BVCHW)
        whole_BD = functional.pad(self.tower(pixels_BVCHW[:, -1], self.whole_layers), (self.crop_width, 0))
        return whole_BD if pixels_BVCHW.shape[1] == 1 else self.add_crops(whole_BD, pixels_BVCHW[:, :-1])

    def add_crops(self, whole_BD: Tensor, crops_BVCHW: Tensor) -> Tensor:
        """Return the features of images, given those of the whole images alone, and the crops."""
        return torch.cat([self._mean_of_crops(crops_BVCHW), whole_BD[:, self.crop_width :]], dim=-1)

    def _mean_of_crops(self, pixels_BVCHW: Tensor) -> Tensor:
        feature_ND: Tensor = self.tower(pixels_BVCHW.flatten(0, 1), self.feature_layers)
        return feature_ND.unflatten(0, pixels_BVCHW.shape[:2]).mean(dim=1)

    def without_crops(self, feature_BD: Tensor) -> Tensor:
        """Return the features that the whole images alone would give."""
        return functional.pad(feature_BD[:, self.crop_width :], (self.crop_width, 0))

    def embed(self, feature_BD: Tensor) -> Tensor:
        if self.training and self.crop_dropout:
            left_out_B = torch.rand(len(feature_BD), device=feature_BD.device) < self.crop_dropout
            feature_BD = torch.where(left_out_B[:, None], self.without_crops(feature_BD), feature_BD)
        with torch.autocast(feature_BD.device.type, enabled=False):
            return functional.normalize(self.project(feature_BD.float()), dim=-1)

    def head(self, feature_BD: Tensor) -> Output:
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Output:
        """Judge pixels_BCHW, or pixels_BVCHW where an image has several views."""
        if self.cascade is not None:
            return self.cascade(self, pixels)
        return self.head(self.feature(pixels))


class Stage1Detector(TowerHead):
    """Frozen tower -> projection -> L2 norm -> linear classifier without bias. Two linear layers train."""

    def head(self, feature_BD: Tensor) -> Output:
        embedding_BE = self.embed(feature_BD)
        with torch.autocast(feature_BD.device.type, enabled=False):
            logit_B = self.classifier(embedding_BE).squeeze(-1)
        return Output(logit_B, embedding_BE, None, feature_BD=feature_BD)


class PrototypeDetector(TowerHead):
    """Re-express every image by cross-attention over fixed prototypes (paper, section on stage 2)."""

    prototypes_PE: Tensor

    def __init__(
        self,
        tower: VisionTower,
        prototypes_PE: Tensor,
        *,
        num_heads: int = 4,
        feature_layers: tuple[int, ...] = (),
        whole_layers: tuple[int, ...] = (),
    ) -> None:
        embed_dim = prototypes_PE.shape[1]
        super().__init__(tower, embed_dim=embed_dim, feature_layers=feature_layers, whole_layers=whole_layers)
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.register_buffer("prototypes_PE", prototypes_PE.detach().clone().float())

    def head(self, feature_BD: Tensor) -> Output:
        embedding_BE = self.embed(feature_BD)
        with torch.autocast(feature_BD.device.type, enabled=False):
            # The images are the queries of one sequence, so that keys and values are computed only once.
            keys_1PE = self.prototypes_PE.unsqueeze(0)
            mixture_1BE, attention_1BP = self.attention(embedding_BE.unsqueeze(0), keys_1PE, keys_1PE)
            logit_B = self.classifier(mixture_1BE.squeeze(0)).squeeze(-1)
        return Output(logit_B, embedding_BE, attention_1BP.squeeze(0), feature_BD=feature_BD)


def build_detector(config: DetectorConfig, tower: VisionTower | None = None) -> TowerHead:
    """Build the modules that `config` describes around `tower`, or all of them without values (device "meta").

    With `config.lora`, the tower gets its low-rank updates. The prototypes of stage 2 are zeros until they are
    loaded.
    """
    if tower is None:
        with torch.device("meta"):
            return build_detector(config, VisionTower(config.tower))
    tower.requires_grad_(False)
    layers = {"feature_layers": config.feature_layers, "whole_layers": config.whole_layers}
    if config.stage == 1:
        return Stage1Detector(tower, embed_dim=config.embed_dim, **layers)
    if config.lora is not None:
        add_lora(tower, config.lora)
    zeros_PE = torch.zeros(config.num_prototypes, config.embed_dim)
    return PrototypeDetector(tower, zeros_PE, num_heads=config.num_heads, **layers)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the number of all parameters, and of those that train."""
    every = sum(parameter.numel() for parameter in module.parameters())
    return every, sum(p.numel() for p in module.parameters() if p.requires_grad)
