"""Say how an image becomes the input of a detector: the PixelSpec that travels with its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gapl.schema import check_choice, check_positive, shown

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

REDUCED_PX = 512
CONVERSIONS = ("shown", "pillow")

# What a detector may look at in an image, and how many crops each is. gapl/views.py cuts them.
VIEWS = {"centre": 1, "quarters": 4, "reduced": 1, "whole": 1}


@dataclass(frozen=True)
class PixelSpec:
    """How an image becomes a detector's pixels in evaluation.

    size_px        side of the square centre crop
    mean, std      per channel, for pixels in [0, 1]
    resize_px      short side before the crop; None: no resizing, which keeps a generator's traces
    interpolation  of any resizing: "bicubic", "bilinear" or "nearest"
    small_image    an image below size_px: "pad" with black, as torchvision's CenterCrop does, or "resize" up
    conversion     to RGB: "shown", as viewers show an image, or by "pillow" alone, see gapl/decode.py
    views          which crops of the image the detector looks at, "whole" last:
                   "centre"    of the image as it is (after resize_px)
                   "quarters"  four, each around the middle of a quarter of the image as it is
                   "reduced"   the centre after shrinking by the largest power of two that leaves a short side of
                               REDUCED_PX or more
                   "whole"     the centre after resizing the short side to 8/7 of size_px

    Raises ValueError for any other value.
    """

    size_px: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize_px: int | None = None
    interpolation: str = "bicubic"
    small_image: str = "pad"
    conversion: str = "shown"
    views: tuple[str, ...] = ("centre",)

    def __post_init__(self) -> None:
        check_positive(self, "size_px", "resize_px")
        check_choice("interpolation", self.interpolation, "bicubic", "bilinear", "nearest")
        check_choice("small_image", self.small_image, "pad", "resize")
        check_choice("conversion", self.conversion, *CONVERSIONS)
        for view in self.views:
            check_choice("a view", view, *VIEWS)
        if not self.views or list(self.views) != [view for view in VIEWS if view in self.views]:
            raise ValueError(f"views are some of {', '.join(VIEWS)}, in this order, not {shown(self.views)}")
        if self.resize_px is not None and self.views != ("centre",):
            raise ValueError("resize_px is for the view centre alone")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean and std are three finite numbers, not {self.mean} and {self.std}")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std is above 0, not {self.std}")

    @property
    def num_views(self) -> int:
        """Return V, the number of crops that the detector looks at."""
        return sum(VIEWS[view] for view in self.views)

    def fast(self) -> PixelSpec:
        """Return the same for the view "whole" alone, which a detector with several views can judge by."""
        return replace(self, views=("whole",))
