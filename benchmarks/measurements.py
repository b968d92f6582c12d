"""Measure, print, and write `benchmarks/results/bench.csv`.

Times are medians over repeats after a warm-up, forward and backward. Machines differ and are noisy:
read the ratios, which compare two arms of one run. Peak memory is what the process's resident set
grew by, each arm in a fresh process.
"""

import csv
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from lossbook.baselines import nt_xent_loss
from lossbook.models import mlp
from lossbook.notebooks import replacing
from lossbook.training import fit, fit_replicas, replica_seed

RESULTS = Path(__file__).parent / "results"


def replicas_against_a_loop(n_seeds: int = 16, steps: int = 200) -> tuple[str, float, float]:
    """Seconds for many small networks at once, and one after the other."""
    from lossbook import data

    train = data.digits().train

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def make():
        return mlp((64, 128, 10))

    def together():
        fit_replicas(make, loss, train, seeds=n_seeds, steps=steps, batch_size=64)

    def in_turn():
        for i in range(n_seeds):
            fit(make(), loss, train, steps=steps, batch_size=64, seed=replica_seed(0, i))

    return f"{n_seeds} MLPs: fit_replicas / loop of fit", median(together, 3), median(in_turn, 3)


def nt_xent_time(n: int = 128) -> tuple[str, float, float]:
    """Seconds of NT-Xent, here and in pytorch-metric-learning, two views of n samples.

    The peer holds a tensor of (2n)^3 entries: 34 GB at n = 1,024.
    """
    from pytorch_metric_learning.losses import NTXentLoss

    peer, labels = NTXentLoss(temperature=0.5), torch.arange(n).repeat(2)

    def ours():
        z1, z2 = views(n)
        nt_xent_loss(z1, z2, temperature=0.5).backward()

    def theirs():
        peer(torch.cat(views(n)), labels).backward()

    name = f"NT-Xent, n = {n}: seconds / pytorch-metric-learning"
    return name, median(ours, 5), median(theirs, 5)


def nt_xent_memory(n: int = 8192) -> tuple[str, float, float]:
    """Peak bytes of NT-Xent, a chunk of rows at a time and with the whole matrix."""
    chunked, dense = in_fresh_process(n, None), in_fresh_process(n, 2 * n)
    return f"NT-Xent, n = {n}: peak bytes, chunked / dense", chunked, dense


def views(n: int, dimensions: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    z1, z2 = F.normalize(torch.randn(2, n, dimensions, requires_grad=True), dim=-1)
    return z1, z2


def median(function: Callable[[], None], repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def in_fresh_process(n: int, chunk_size: int | None) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(peak_bytes, (n, chunk_size))


def peak_bytes(n: int, chunk_size: int | None) -> float:
    z1, z2 = views(n)
    before = peak_resident()
    nt_xent_loss(z1, z2, chunk_size=chunk_size).backward()
    return peak_resident() - before


def peak_resident() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write(rows: list[tuple[str, float, float, float]]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / "bench.csv"
    with replacing(target) as stream:
        writer = csv.writer(stream)
        writer.writerow(("measurement", "first", "second", "ratio"))
        writer.writerows(rows)
    return target


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows = []
    for measure in (replicas_against_a_loop, nt_xent_time, nt_xent_memory):
        name, first, second = measure()
        rows.append((name, first, second, first / second))
        print(f"{name:60} {first:12.4g} {second:12.4g}   ratio {first / second:.3f}", flush=True)
    print(f"written to {write(rows)}")
