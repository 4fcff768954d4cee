"""What defines a detector beside its weights: the shape of its tower, LoRA, the head, how pixels are made.

Each is a frozen dataclass that checks itself, so that it can be built from the header of an untrusted file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gapl.pixels import PixelSpec
from gapl.schema import MAX_NAME, MAX_SIZE, check_choice, check_positive, is_name, shown

MAX_LAYERS = 1000
MAX_TARGETS = 100


@dataclass(frozen=True)
class TowerSpec:
    """The shape of a CLIP vision tower; the names are those of transformers' CLIPVisionConfig."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_positive(self, *(name for name in asdict(self) if name != "hidden_act"))
        check_choice("hidden_act", self.hidden_act, "quick_gelu", "gelu")
        if self.num_hidden_layers > MAX_LAYERS:
            raise ValueError(f"num_hidden_layers is at most {MAX_LAYERS}, not {self.num_hidden_layers}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{self.num_attention_heads} attention heads do not divide a width of {self.hidden_size}"
            )
        if self.patch_size > self.image_size:
            raise ValueError(f"patches of {self.patch_size} px do not fit into an image of {self.image_size} px")

    @property
    def num_tokens(self) -> int:
        """Return how many tokens there are: the class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2

    def feature_width(self, feature_layers: Sequence[int]) -> int:
        """Return D of a feature that is read from these layers; from no layers, that of the tower's own output."""
        return self.hidden_size * max(1, len(feature_layers))


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank updates of the tower's attention projections; defaults are the paper's and the release's.

    num_layers   how many layers of the tower have them, from the first; 0: all
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    num_layers: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha")
        if not 0 <= self.num_layers <= MAX_LAYERS:
            raise ValueError(f"LoRA's num_layers is from 0 to {MAX_LAYERS}, not {self.num_layers}")
        if not 0 < len(self.targets) <= MAX_TARGETS or not all(map(is_name, self.targets)):
            raise ValueError(f"LoRA's targets are 1 to {MAX_TARGETS} names of layers")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA's dropout is in [0, 1), not {self.dropout}")

    @property
    def scale(self) -> float:
        """Return the factor of an update B A."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class DetectorConfig:
    """Everything needed to build a detector's modules.

    stage           1: linear head on the frozen tower; 2: prototype attention on a tower with LoRA
    backbone        the `--backbone` name that the tower came from
    embed_dim, num_heads, num_prototypes   E, H and P of the method
    lora            stage 2 only
    feature_layers  of the tower, counted from 1: the class tokens after them, each normalised, make the feature.
                    Empty: the last one's, after the tower's own layer norm, as the method has it
    whole_layers    the same for the view "whole", where `pixel` has it; the feature is those of all other views,
                    averaged, and that of the whole image, joined
    """

    stage: int
    backbone: str
    tower: TowerSpec
    pixel: PixelSpec
    embed_dim: int = 128
    num_heads: int = 4
    num_prototypes: int = 0
    lora: LoraSpec | None = None
    feature_layers: tuple[int, ...] = ()
    whole_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.stage not in (1, 2):
            raise ValueError(f"stage is 1 or 2, not {self.stage}")
        if not is_name(self.backbone):
            raise ValueError(f"backbone is a line of at most {MAX_NAME} characters, not {self.backbone!r}")
        check_positive(self, "embed_dim", "num_heads")
        if not 0 <= self.num_prototypes <= MAX_SIZE:
            raise ValueError(f"num_prototypes is at most {MAX_SIZE} and not negative, not {self.num_prototypes}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide an embedding of {self.embed_dim}")
        last = self.tower.num_hidden_layers
        for name in ("feature_layers", "whole_layers"):
            layers = getattr(self, name)
            if list(layers) != sorted(set(layers) & set(range(1, last + 1))):
                raise ValueError(f"{name} are ascending numbers from 1 to {last}, not {shown(layers)}")
        if ("whole" in self.pixel.views) != bool(self.whole_layers):
            raise ValueError(f"views {self.pixel.views} with whole_layers {self.whole_layers}: whole needs both")
        if self.pixel.size_px != self.tower.image_size:
            raise ValueError(f"pixels of {self.pixel.size_px} px for a tower of {self.tower.image_size} px")

    @property
    def feature_width(self) -> int:
        """Return D, the width of the feature that the head reads."""
        of_whole = self.tower.hidden_size * len(self.whole_layers)
        return self.tower.feature_width(self.feature_layers) + of_whole

    def forward_pass(self) -> dict[str, Any]:
        """Return what decides how a detector without LoRA computes, as JSON would have it."""
        names = ("stage", "embed_dim", "num_heads")
        layers = {name: list(getattr(self, name)) for name in ("feature_layers", "whole_layers")}
        return {"tower": asdict(self.tower), **{name: getattr(self, name) for name in names}, **layers}


VIT_B16 = TowerSpec(768, 3072, 12, 12, image_size=224, patch_size=16)
VIT_L14 = TowerSpec(1024, 4096, 24, 16, image_size=224, patch_size=14)
