"""The head of a detector in NumPy: which prototypes answered, and how far each moved the logit.

The value and output projections of the attention and the classifier are linear, so the logit is a sum over the
prototypes, and a constant.

Shape suffixes: B batch, E embedding, P prototypes, A attention heads, K width of one of them (E / A).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PROTOTYPES = "prototypes_PE"
TENSORS = (
    PROTOTYPES,
    "attention.in_proj_weight",
    "attention.in_proj_bias",
    "attention.out_proj.weight",
    "attention.out_proj.bias",
    "classifier.weight",
)


@dataclass(frozen=True)
class Shares:
    """What each prototype did for the logits of a batch: contribution_BP and `bias` add up to them.

    attention_BP     the mean over the attention heads; adds up to 1
    contribution_BP  in units of the logit; above 0 is towards fake
    """

    attention_BP: np.ndarray
    contribution_BP: np.ndarray
    bias: float


class Head:
    """The attention over prototypes and the classifier of a detector, in float64."""

    def __init__(self, tensors: Mapping[str, np.ndarray], *, num_heads: int) -> None:
        """Take the tensors of a detector file. Raises ValueError that names one which is missing or misshapen."""
        found = {name: np.asarray(tensors[name], dtype=np.float64) for name in TENSORS if name in tensors}
        num, width = found[PROTOTYPES].shape if PROTOTYPES in found else (0, 0)
        shapes = [(num, width), (3 * width, width), (3 * width,), (width, width), (width,), (1, width)]
        for name, shape in zip(TENSORS, shapes, strict=True):
            if name not in found or found[name].shape != shape:
                raise ValueError(f"tensor {name!r} is missing or of another shape")
        self.prototypes_PE, weight, bias, out_EE, out_bias_E, classifier_1E = found.values()
        self._heads = num_heads
        of_query, of_key, of_value = zip(np.split(weight, 3), np.split(bias, 3), strict=True)
        self._query = of_query
        self._keys_APK = self._by_head(self.prototypes_PE @ of_key[0].T + of_key[1])
        values_APK = self._by_head(self.prototypes_PE @ of_value[0].T + of_value[1])
        reading_AK = (classifier_1E @ out_EE).reshape(num_heads, -1)
        self._moves_AP = np.einsum("apk,ak->ap", values_APK, reading_AK)  # of the logit, at an attention of 1
        self._bias = float((classifier_1E @ out_bias_E).item())

    def _by_head(self, rows_NE: np.ndarray) -> np.ndarray:
        return rows_NE.reshape(len(rows_NE), self._heads, -1).transpose(1, 0, 2)

    def shares(self, embedding_BE: np.ndarray) -> Shares:
        """Return what each prototype did for the images with these embeddings."""
        weight_EE, bias_E = self._query
        query_ABK = self._by_head(embedding_BE.astype(np.float64) @ weight_EE.T + bias_E)
        scores_ABP = query_ABK @ self._keys_APK.transpose(0, 2, 1) / np.sqrt(query_ABK.shape[-1])
        scores_ABP -= scores_ABP.max(axis=-1, keepdims=True)
        attention_ABP = np.exp(scores_ABP)
        attention_ABP /= attention_ABP.sum(axis=-1, keepdims=True)
        contribution_BP = np.einsum("abp,ap->bp", attention_ABP, self._moves_AP)
        return Shares(attention_ABP.mean(axis=0), contribution_BP, self._bias)
