"""Data that needs no download: scikit-learn's digits and seeded generators.

Everything is a tensor in memory. Larger real data sets come by name through :func:`load`.
"""

from lossbook.data.real import Splits, digits, load, split
from lossbook.data.synthetic import gaussian_mixture, glyphs, two_moons
from lossbook.data.text import decode, documentation, markov_texts, ngram_log_probabilities
from lossbook.data.views import balanced_batches, flip_labels, paired_views, shift_and_noise

__all__ = [
    "Splits",
    "balanced_batches",
    "decode",
    "digits",
    "documentation",
    "flip_labels",
    "gaussian_mixture",
    "glyphs",
    "load",
    "markov_texts",
    "ngram_log_probabilities",
    "paired_views",
    "shift_and_noise",
    "split",
    "two_moons",
]
