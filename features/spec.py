"""What determines a feature of a frozen tower, apart from the image itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from data.choices import EVAL
from data.images.views import TensorView, eval_tensor_view
from data.seeds import draw_seed
from gapl.pixels import PixelSpec

if TYPE_CHECKING:
    from gapl.config import TowerSpec
    from gapl.info import DetectorInfo

FORMAT = "gapl-features-1"  # change the number when a view of the same name changes


@dataclass(frozen=True)
class FeatureSpec:
    """What determines an image's feature, apart from its bytes.

    backbone   fingerprint of the tower's weights, and what computes otherwise than CLIP's own towers
    width      D of a feature
    pixel      how pixels are made; a random view takes only size, mean and standard deviation from it
    precision  of the tower: "fp32", "bf16" or "fp16"
    view       "eval", or the name of a random view of data/images/augment.py
    number     of the random view. Together with the image's sha256 it decides the view: an image has the same one
               in any set of images and in runs of any seed, so that they share the pass through the tower
    layers     of the tower that the feature is read from; empty: the last
    whole_layers   the same for the view of the whole image; empty: there is none
    """

    backbone: str
    width: int
    pixel: PixelSpec
    precision: str
    view: str = EVAL
    number: int = 0
    layers: tuple[int, ...] = ()
    whole_layers: tuple[int, ...] = ()

    @classmethod
    def of(cls, info: DetectorInfo, *, precision: str, view: str = EVAL) -> Self:
        """Return what determines the features of a detector's tower."""
        config = info.config
        return cls(
            info.backbone_fingerprint + _unlike_clip(config.tower),
            config.feature_width,
            config.pixel,
            precision,
            view,
            layers=config.feature_layers,
            whole_layers=config.whole_layers,
        )

    def facts(self) -> dict[str, Any]:
        """Return as JSON what tells this store from others."""
        facts = {"format": FORMAT} | asdict(self)
        if self.view == EVAL:
            del facts["number"]
        for name in ("layers", "whole_layers"):
            if not facts[name]:
                del facts[name]
        if self.pixel.views == ("centre",):
            del facts["pixel"]["views"]  # the names of stores are older than the views
        return facts

    def make_view(self) -> TensorView:
        """Return the view that the tower sees of an image."""
        if self.view == EVAL:
            return eval_tensor_view(self.pixel)
        from data.images.augment import train_view  # torchvision is slow to import

        return train_view(self.view, size_px=self.pixel.size_px, mean=self.pixel.mean, std=self.pixel.std)

    def view_seed(self, sha256: bytes) -> int | None:
        """Return the seed of an image's random view, or None for the evaluation view."""
        if self.view == EVAL:
            return None
        return draw_seed(0, self.number, int.from_bytes(sha256, "big"))


def _unlike_clip(tower: TowerSpec) -> str:
    """Return what the weights do not tell of a tower, where it is not as in CLIP: names of stores are older."""
    heads = tower.hidden_size // 64
    usual = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_attention_heads": heads}
    return "".join(f" {name} {getattr(tower, name)}" for name in usual if getattr(tower, name) != usual[name])
