"""Cross-entropy of a linear head over a large vocabulary: this package and torch."""

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.arms import Arm, Step, forward_and_backward
from lossbook.classification import linear_cross_entropy

TITLE = "Large vocabularies"
ABOUT = """\
Forward and backward pass of cross-entropy on N tokens of 256 dimensions and V words, in single
precision, with gradients by embeddings and weight. "full logits" is `F.cross_entropy(E @ W.T, y)`;
the others are `F.linear_cross_entropy` of torch with `options=None`, with its own choice of options
(one or a few tokens at a time, for memory), and with 128 tokens at a time. Cells: median
(quartiles), peak memory beyond the inputs, gradients included; extra memory, in the figure, is
without them. Roofline: the time of three products of embeddings and weight at the machine's own
rate. On a CPU, larger sizes are left out, and torch's own choice but for the smallest V: they take
minutes."""
DIMENSIONS, ROWS = 256, 128
SIZES = {32_768: (512, 2048, 8192), 131_072: (512, 2048), 262_144: (512,)}
CUDA_SIZES = dict.fromkeys(SIZES, (512, 2048, 8192))
SMALL = {4096: (64, 2048)}


def full(embeddings, weight, labels):
    return F.cross_entropy(embeddings @ weight.T, labels)


def torch_whole(embeddings, weight, labels):
    return F.linear_cross_entropy(embeddings, weight, labels, options=None)


def torch_chosen(embeddings, weight, labels):
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(embeddings, weight, labels, options=options)


def torch_rows(embeddings, weight, labels):
    options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=ROWS)
    return F.linear_cross_entropy(embeddings, weight, labels, options=options)


OURS, FULL, CHOSEN = "lossbook", "full logits", "torch, its options"
HEADS = {
    OURS: linear_cross_entropy,
    FULL: full,
    "torch, options=None": torch_whole,
    CHOSEN: torch_chosen,
    f"torch, {ROWS} rows": torch_rows,
}


def build(v: int, n: int, head: str, device: torch.device) -> Step:
    torch.manual_seed(0)
    embeddings = torch.randn(n, DIMENSIONS).to(device).requires_grad_()
    weight = (torch.randn(v, DIMENSIONS) / DIMENSIONS**0.5).to(device).requires_grad_()
    labels = torch.randint(v, (n,)).to(device)
    return forward_and_backward(lambda: HEADS[head](embeddings, weight, labels), embeddings, weight)


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """Each head at each size; on a CPU without those that take minutes."""
    sizes = SMALL if small else CUDA_SIZES if device == "cuda" else SIZES
    return [
        Arm(
            case=f"V = {v:,}",
            size=n,
            name=head,
            build=partial(build, v, n, head),
            flops=6 * n * v * DIMENSIONS,
            moved_bytes=2 * 4 * (n + v) * DIMENSIONS,
        )
        for v, tokens in sizes.items()
        for n in tokens
        for head in HEADS
        if head != CHOSEN or v == min(sizes) or device == "cuda"
    ]
