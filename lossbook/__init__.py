"""Training objectives from 215 papers: each a tested PyTorch function, taught in a notebook.

Import an objective from the module of its notebook::

    from lossbook.metric_learning.pair_weighting import multi_similarity_loss

Nothing is imported until it is asked for, so ``import lossbook`` costs almost nothing.
"""

__version__ = "0.1.0"
