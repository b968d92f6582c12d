"""Many runs of a notebook or of a function, on all cores or on a cluster, and what they say.

In a notebook or a script only :func:`log` is of interest; the rest is what ``lossbook sweep``,
``lossbook report`` and ``lossbook run --all`` are made of.
"""

from lossbook.sweeps.logged import log

__all__ = ["log"]
