"""Part 3: metric learning and retrieval."""

from lossbook.metric_learning.pair_weighting import (
    metrix_loss,
    multi_similarity_loss,
    multi_similarity_mask,
    pair_weights,
    soft_pair_loss,
    unpg_loss,
    utilization,
    whisker_mask,
)

__all__ = [
    "metrix_loss",
    "multi_similarity_loss",
    "multi_similarity_mask",
    "pair_weights",
    "soft_pair_loss",
    "unpg_loss",
    "utilization",
    "whisker_mask",
]
