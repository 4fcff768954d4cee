"""What the detector that ships says of the images in assets/: their logits, by the views that it looks at."""

from __future__ import annotations

LOGITS = {
    "full": {"test_image.jpg": -2.517, "generated_image.png": 2.519},
    "fast": {"test_image.jpg": -1.969, "generated_image.png": 1.847},
}
