"""Every objective of the catalog and the baselines, with inputs built from its signature.

What stands out (a Python loop over samples, a matrix that nobody needs) shows as an exponent of
growth or as operators whose number grows with n.
"""

from functools import partial

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.arms import Arm, Step
from tests.conformance import Case, Objective, dimensions, listed

TITLE = "Every objective"
ABOUT = """\
Forward and backward pass of every function that the catalog lists, and of the standard losses, on n
samples of 128 dimensions, 100 classes and 1,000 outputs, at their defaults. An exponent of 1 is
growth in proportion to n, 2 is that of a matrix of all pairs. More operators at the larger size
means a loop in Python: over chunks where memory has to stay small, never over samples.

What stays slow or quadratic, and why: Mann-Whitney retrieval compares each positive with the
negatives of all queries, and Metrix mixes each positive with each negative: that is their formula.
UNPG needs quartiles over all pairs, the kernel and Hilbert classifiers all distances, two-way
partial AUC and uniformity a log of a sum over all pairs. The pair losses hold 2,048 x 2,048
similarities since the dense way still pays at that size; above it they take chunks."""
SIZES, SMALL = (512, 2048), (64, 256)
CLASSES, DIMENSIONS, LABELS = 100, 128, 1000
MODEL_CLASSES = 6  # of the model in tests/conformance.py


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """Each objective at its defaults, at both sizes."""
    return [
        Arm(objective.path, n, "lossbook", partial(build, objective.path, n))
        for objective in listed()
        if objective.is_function_of_tensors
        for n in (SMALL if small else SIZES)
    ]


def build(path: str, n: int, device: torch.device) -> Step:
    objective = Objective(path)
    inputs = objective.inputs(Case(sizes(objective, n), n_labels(objective)), torch.float32)
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    leaves = [
        tensor.requires_grad_()
        for tensor in inputs.values()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    ]

    def run():
        results = [x for x in tree_leaves(objective(inputs)) if x.requires_grad]
        if results:  # masks have no gradient
            sum(x.sum() for x in results).backward()

    return Step(run, leaves)


def n_labels(objective: Objective) -> int:
    if "model" in objective.data:
        return MODEL_CLASSES
    return objective.knobs.get("n_classes", CLASSES)


def sizes(objective: Objective, n: int) -> dict[str, int]:
    """n samples, and as many entries of what has no samples."""
    symbols = {s for hint in objective.tensors.values() for s in dimensions(hint)}
    found = {"n": n, "q": n, "c": CLASSES, "d": DIMENSIONS, "l": LABELS}
    if not {"m", "n", "c"} <= symbols:  # there, m counts transformations
        found["m"] = n
    if "n" not in symbols:
        found |= {"...": n, "*batch": n}
    return found
