"""Training many seeds: all at once, one after the other, in two processes."""

import multiprocessing
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.arms import Arm, Step
from lossbook import data, models
from lossbook.training import fit, fit_replicas, replica_seed

TITLE = "Training many seeds"
ABOUT = """\
Seconds to train so many replicas on scikit-learn's digits with Adam and batches of 64: an MLP
(64-128-10) for 100 steps, a convnet (two 3 x 3 convolutions of 16 and 32 channels, each with ReLU
and max pooling, and a linear layer) for 30 steps. All ways end with the same losses
(tests/test_benchmarks.py). The two processes are there, with torch imported and one thread each,
before the clock starts."""
SIZES, SMALL = (1, 4, 16, 64), (1, 4)
BATCH = 64
STEPS = {"MLP": 100, "convnet": 30}
PROCESSES = "two processes"


def mlp() -> nn.Module:
    return models.mlp((64, 128, 10))


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


MODELS = {"MLP": mlp, "convnet": convnet}


def loss(model, batch):
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def together(model: str, seeds: int, train, device: torch.device) -> list[float]:
    """The last loss of each replica, trained with fit_replicas."""
    history = fit_replicas(
        MODELS[model],
        loss,
        train,
        seeds=seeds,
        steps=STEPS[model],
        batch_size=BATCH,
        device=device,
        progress=False,
    )
    return last_losses(history)


def in_turn(model: str, seeds: range, train, device: torch.device) -> list[float]:
    """The last loss of each replica, trained with a loop of fit."""
    losses = []
    for i in seeds:
        torch.manual_seed(replica_seed(0, i))
        history = fit(
            MODELS[model]().to(device),
            loss,
            train,
            steps=STEPS[model],
            batch_size=BATCH,
            seed=replica_seed(0, i),
            progress=False,
        )
        losses += last_losses(history)
    return losses


def last_losses(history) -> list[float]:
    frame = history.frame
    return frame[frame["step"] == frame["step"].max()]["loss"].tolist()


def build_together(model: str, seeds: int, device: torch.device) -> Step:
    train = data.digits().train
    return Step(lambda: together(model, seeds, train, device))


def build_in_turn(model: str, seeds: int, device: torch.device) -> Step:
    train = data.digits().train
    return Step(lambda: in_turn(model, range(seeds), train, device))


def build_in_processes(model: str, seeds: int, device: torch.device) -> Step:
    train = data.digits().train
    pool = multiprocessing.get_context("spawn").Pool(2, torch.set_num_threads, (1,))
    halves = range(0, seeds, 2), range(1, seeds, 2)

    def run():
        return pool.starmap(in_turn, [(model, half, train, device) for half in halves], 1)

    pool.starmap(in_turn, 2 * [(model, range(1), train, device)], 1)
    return Step(run)


def arms(small: bool = False, device: str = "cpu") -> list[Arm]:
    """Each way for each model and number of replicas; on a CPU with one thread and with two."""
    ways = {"fit_replicas": build_together, "loop": build_in_turn}
    named = [(way, build, None) for way, build in ways.items()]
    if device == "cpu":
        threads = {1: "1 thread", 2: "2 threads"}
        named = [(f"{w}, {text}", b, t) for w, b in ways.items() for t, text in threads.items()]
    named.append((PROCESSES, build_in_processes, 1))
    return [
        Arm(model, seeds, name, partial(build, model, seeds), threads=threads, memory=False)
        for model in MODELS
        for seeds in (SMALL if small else SIZES)
        for name, build, threads in named
        if name != PROCESSES or seeds > 1
    ]
