"""Training: ``fit`` is the plain loop, ``fit_replicas`` trains many replicas of a model at once."""

from lossbook.training.fitting import fit
from lossbook.training.fitting_replicas import fit_replicas
from lossbook.training.history import History
from lossbook.training.optimizers import StackedOptimizer
from lossbook.training.replicas import replica_seed

__all__ = ["History", "StackedOptimizer", "fit", "fit_replicas", "replica_seed"]
