"""What training minimises.

Shape suffix: B images of a micro-batch.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def sum_loss(logit: Tensor, labels_B: Tensor, *, consistency: float) -> Tensor:
    """Return the sum over the images of the binary cross-entropy of logit_B.

    Of logit_B2, an image as it is and delivered, it is the mean of both, and `consistency` times the symmetric
    Kullback-Leibler divergence between the two verdicts: KL(p || q) + KL(q || p) = (p - q) (logit p - logit q).
    """
    if logit.ndim == 1:
        return binary_cross_entropy_with_logits(logit, labels_B, reduction="sum")
    labels_B2 = labels_B[:, None].expand_as(logit)
    entropy = binary_cross_entropy_with_logits(logit, labels_B2, reduction="sum") / 2
    first_B, second_B = logit.unbind(dim=1)
    divergence_B = (first_B.sigmoid() - second_B.sigmoid()) * (first_B - second_B)
    return entropy + consistency * divergence_B.sum()
