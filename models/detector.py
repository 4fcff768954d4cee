"""The two models of the method: a linear head on a frozen tower, and prototype attention on an adapted tower.

Shape suffixes: B batch, C channels, H, W pixels, D tower width, E embedding, P prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.adapt import add_lora
from models.config import DetectorConfig
from models.tower import VisionTower


class Output(NamedTuple):
    """What a detector computes: its sigmoid turns logit_B into P(fake).

    attention_BP   how much each prototype was used; None in stage 1
    """

    logit_B: Tensor
    embedding_BE: Tensor
    attention_BP: Tensor | None


class TowerHead(nn.Module):
    """What both stages share: pixels -> feature -> embedding of length 1.

    feature_layers   the layers of the tower that the feature is read from, see VisionTower.forward

    The head computes in float32 even when autocast runs the tower in a shorter type.
    """

    def __init__(self, tower: VisionTower, *, embed_dim: int = 128, feature_layers: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.tower, self.feature_layers = tower, feature_layers
        self.feature_width = tower.spec.feature_width(feature_layers)
        self.project = nn.Linear(self.feature_width, embed_dim, bias=False)
        self.classifier = nn.Linear(embed_dim, 1, bias=False)

    def feature(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the class token after the last layer norm, or the class tokens of `feature_layers`, joined."""
        feature_BD: Tensor = self.tower(pixels_BCHW, self.feature_layers)
        return feature_BD

    def embed(self, feature_BD: Tensor) -> Tensor:
        with torch.autocast(feature_BD.device.type, enabled=False):
            return functional.normalize(self.project(feature_BD.float()), dim=-1)

    def head(self, feature_BD: Tensor) -> Output:
        raise NotImplementedError

    def forward(self, pixels_BCHW: Tensor) -> Output:
        return self.head(self.feature(pixels_BCHW))


class Stage1Detector(TowerHead):
    """Frozen tower -> projection -> L2 norm -> linear classifier without bias. Two linear layers train."""

    def head(self, feature_BD: Tensor) -> Output:
        embedding_BE = self.embed(feature_BD)
        with torch.autocast(feature_BD.device.type, enabled=False):
            logit_B = self.classifier(embedding_BE).squeeze(-1)
        return Output(logit_B, embedding_BE, None)


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
    ) -> None:
        embed_dim = prototypes_PE.shape[1]
        super().__init__(tower, embed_dim=embed_dim, feature_layers=feature_layers)
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.register_buffer("prototypes_PE", prototypes_PE.detach().clone().float())

    def head(self, feature_BD: Tensor) -> Output:
        embedding_BE = self.embed(feature_BD)
        with torch.autocast(feature_BD.device.type, enabled=False):
            # The images are the queries of one sequence, so that keys and values are computed only once.
            keys_1PE = self.prototypes_PE.unsqueeze(0)
            mixture_1BE, attention_1BP = self.attention(embedding_BE.unsqueeze(0), keys_1PE, keys_1PE)
            logit_B = self.classifier(mixture_1BE.squeeze(0)).squeeze(-1)
        return Output(logit_B, embedding_BE, attention_1BP.squeeze(0))


def build_detector(config: DetectorConfig, tower: VisionTower | None = None) -> TowerHead:
    """Build the modules that `config` describes around `tower`, or all of them without values (device "meta").

    With `config.lora`, the tower gets its low-rank updates. The prototypes of stage 2 are zeros until they are
    loaded.
    """
    if tower is None:
        with torch.device("meta"):
            return build_detector(config, VisionTower(config.tower))
    tower.requires_grad_(False)
    if config.stage == 1:
        return Stage1Detector(tower, embed_dim=config.embed_dim, feature_layers=config.feature_layers)
    if config.lora is not None:
        add_lora(tower, config.lora)
    zeros_PE = torch.zeros(config.num_prototypes, config.embed_dim)
    return PrototypeDetector(tower, zeros_PE, num_heads=config.num_heads, feature_layers=config.feature_layers)


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the number of all parameters, and of those that train."""
    every = sum(parameter.numel() for parameter in module.parameters())
    return every, sum(p.numel() for p in module.parameters() if p.requires_grad)
