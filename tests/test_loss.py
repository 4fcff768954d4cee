"""The loss: of single images, and of pairs of an image as it is and delivered."""

from __future__ import annotations

import torch
from torch.distributions import Bernoulli, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from training.loss import sum_loss

LOGIT_B2 = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-3.0, 4.0]])
LABELS_B = torch.tensor([1.0, 0.0, 1.0])


def test_loss_of_single_images_is_binary_cross_entropy() -> None:
    expected = binary_cross_entropy_with_logits(LOGIT_B2[:, 0], LABELS_B, reduction="sum")
    assert_close(sum_loss(LOGIT_B2[:, 0], LABELS_B, consistency=0), expected)


def test_loss_of_pairs_adds_the_symmetric_divergence_of_their_verdicts() -> None:
    both = [binary_cross_entropy_with_logits(LOGIT_B2[:, i], LABELS_B, reduction="sum") for i in (0, 1)]
    first, second = (Bernoulli(logits=LOGIT_B2[:, i]) for i in (0, 1))
    divergence = (kl_divergence(first, second) + kl_divergence(second, first)).sum()
    assert_close(sum_loss(LOGIT_B2, LABELS_B, consistency=0), sum(both) / 2)
    assert_close(sum_loss(LOGIT_B2, LABELS_B, consistency=0.3), sum(both) / 2 + 0.3 * divergence)


def test_verdicts_that_agree_have_no_divergence() -> None:
    same_B2 = LOGIT_B2[:, :1].expand(-1, 2)
    alone = sum_loss(LOGIT_B2[:, 0], LABELS_B, consistency=0)
    assert_close(sum_loss(same_B2, LABELS_B, consistency=5), alone)
