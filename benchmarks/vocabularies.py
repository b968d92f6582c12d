"""Cross-entropy of a linear head over a large vocabulary: this package and torch."""

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.arms import Arm, Step, forward_and_backward
from lossbook.classification import linear_cross_entropy

TITLE = "Large vocabularies"
ABOUT = """\
Forward and backward pass of cross-entropy on N tokens of 256 dimensions and V words, in single
precision (on a GPU also in bfloat16), with gradients by embeddings and weight. "full logits" is
`F.cross_entropy(E @ W.T, y)`; torch's are `F.linear_cross_entropy` with `options=None`, with its
own choice of options (one or a few tokens at a time, for memory), and with 128 tokens at a time,
where torch has it. On a GPU the Triton kernels of `cut-cross-entropy` (bfloat16 only) and
`liger-kernel` take part, where they are installed. Cells: median (quartiles), peak memory beyond
the inputs, gradients included; extra memory, in the figure, is without them. Roofline: the time of
three products of embeddings and weight at the machine's own rate in single precision. On a CPU,
larger sizes are left out, and torch's own choice but for the smallest V: they take minutes."""
DIMENSIONS, ROWS = 256, 128
HALF = ", bfloat16"
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


def cut_cross_entropy(embeddings, weight, labels):
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(embeddings, weight, labels)


def liger(embeddings, weight, labels):
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(weight, embeddings, labels)


OURS, FULL, CHOSEN = "lossbook", "full logits", "torch, its options"
CUT, LIGER = "cut-cross-entropy", "liger-kernel"
HEADS = {OURS: linear_cross_entropy, FULL: full}
if hasattr(F, "linear_cross_entropy"):
    HEADS |= {
        "torch, options=None": torch_whole,
        CHOSEN: torch_chosen,
        f"torch, {ROWS} rows": torch_rows,
    }
TRITON = {CUT: cut_cross_entropy, LIGER: liger}


def build(v: int, n: int, head: str, device: torch.device, half: bool = False) -> Step:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if half else torch.float32
    embeddings = torch.randn(n, DIMENSIONS).to(device, dtype).requires_grad_()
    weight = (torch.randn(v, DIMENSIONS) / DIMENSIONS**0.5).to(device, dtype).requires_grad_()
    labels = torch.randint(v, (n,)).to(device)
    loss = {**HEADS, **TRITON}[head]
    return forward_and_backward(lambda: loss(embeddings, weight, labels), embeddings, weight)


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """Each head at each size; on a CPU without those that take minutes."""
    gpu = device == "cuda"
    sizes = SMALL if small else CUDA_SIZES if gpu else SIZES
    return [
        Arm(
            case=f"V = {v:,}{HALF if half else ''}",
            size=n,
            name=head,
            build=partial(build, v, n, head, half=half),
            flops=None if half else 6 * n * v * DIMENSIONS,
            moved_bytes=2 * (2 if half else 4) * (n + v) * DIMENSIONS,
        )
        for half in ((False, True) if gpu else (False,))
        for v, tokens in sizes.items()
        for n in tokens
        for head in [*HEADS, *(TRITON if gpu else ())]
        if (gpu or head != CHOSEN or v == min(sizes)) and (half or head != CUT)
    ]
