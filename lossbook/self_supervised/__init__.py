"""Part 2: contrastive and self-supervised learning."""

from lossbook.self_supervised.temperature import (
    hard_contrastive_loss,
    penalty_entropy,
    relative_penalty,
    simple_contrastive_loss,
    tolerance,
    uniformity,
)

__all__ = [
    "hard_contrastive_loss",
    "penalty_entropy",
    "relative_penalty",
    "simple_contrastive_loss",
    "tolerance",
    "uniformity",
]
