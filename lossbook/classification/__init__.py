"""Part 1: classification losses."""

from lossbook.classification.cross_entropy_family import (
    comp_sum_best_risk,
    comp_sum_loss,
    comp_sum_transform,
    smooth_adversarial_comp_sum_loss,
)

__all__ = [
    "comp_sum_best_risk",
    "comp_sum_loss",
    "comp_sum_transform",
    "smooth_adversarial_comp_sum_loss",
]
