"""Data that needs no download: scikit-learn's digits and seeded generators.

Everything is a tensor in memory. Larger real data sets come by name through :func:`load`, one's own
pictures through :func:`image_folder`.
"""

from lossbook.data.real import Splits, digits, image_folder, load, split, split_classes
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
    "image_folder",
    "load",
    "markov_texts",
    "ngram_log_probabilities",
    "paired_views",
    "shift_and_noise",
    "split",
    "split_classes",
    "two_moons",
]
