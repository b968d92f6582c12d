"""A run that is killed and goes on ends like one that was never interrupted, to the last bit."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lossbook.training import fit, fit_replicas

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
STEPS = 23


class Model(nn.Module):
    """Has dropout, batch statistics, and buffers that are replaced and not in its state_dict."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        logits = self.layers(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * logits.detach().mean(0)
            self.calls += 1
        return logits - self.mean


def made():
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return Model()


def cross_entropy(model, batch, temperature=1.0):
    inputs, labels = batch
    return F.cross_entropy(model(inputs) / temperature, labels)


def failing_at(step):
    """Cross-entropy that raises when it is called for the step-th time."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) == step:
            raise RuntimeError("the machine is gone")
        return cross_entropy(model, batch)

    loss.__qualname__ = cross_entropy.__qualname__
    return loss


def accuracy(model):
    return {"accuracy": (model(X).argmax(1) == Y).float().mean()}


class Augmented(Dataset):
    """Samples with noise from torch's global random state, as a transform draws it."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.1 * torch.randn(5), Y[i]


def sampled(generator):
    rows = torch.randint(len(X), (16,), generator=generator)
    return X[rows], Y[rows]


def assert_same_bits(first, second):
    pandas.testing.assert_frame_equal(first.frame, second.frame, check_exact=True)
    for name, tensor in {**first.parameters, **first.buffers}.items():
        assert torch.equal(tensor, {**second.parameters, **second.buffers}[name]), name


DATA = {
    "minibatches": lambda: {"data": (X, Y), "batch_size": 24},
    "whole": lambda: {"data": (X, Y)},
    "function": lambda: {"data": sampled},
    "loader": lambda: {"data": DataLoader(Augmented(), 24, shuffle=True)},
    "seeded loader": lambda: {
        "data": DataLoader(Augmented(), 24, shuffle=True, generator=torch.Generator())
    },
    "loader with workers": lambda: {
        "data": DataLoader(Augmented(), 16, shuffle=True, num_workers=2)
    },
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("at", [1, 4, 21])
def test_a_crashed_run_ends_with_the_same_bits(tmp_path, kind, at):
    options = {"steps": STEPS, "evaluate": accuracy, "every": 5, "seed": 7, "clip_norm": 1.0}
    whole = fit(made(), cross_entropy, **DATA[kind](), **options)
    options |= {"checkpoint": tmp_path / "new" / "run.pt", "checkpoint_seconds": 0}
    with pytest.raises(RuntimeError, match="the machine is gone"):
        fit(made(), failing_at(at + 1), **DATA[kind](), **options)
    resumed = fit(made(), cross_entropy, **DATA[kind](), **options)
    assert_same_bits(resumed, whole)
    assert whole.buffers["calls"].item() == STEPS


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["minibatches", "loader"])
def test_a_crashed_run_on_a_gpu_ends_with_the_same_bits(tmp_path, kind):
    options = {**DATA[kind](), "steps": STEPS, "evaluate": accuracy_on_gpu, "every": 5}
    whole = fit(made().cuda(), cross_entropy, **options)
    options |= {"checkpoint": tmp_path / "run.pt", "checkpoint_seconds": 0}
    with pytest.raises(RuntimeError, match="the machine is gone"):
        fit(made().cuda(), failing_at(8), **options)
    assert_same_bits(fit(made().cuda(), cross_entropy, **options), whole)


def accuracy_on_gpu(model):
    return {"accuracy": (model(X.cuda()).argmax(1).cpu() == Y).float().mean()}


def adagrad(parameters):
    return torch.optim.Adagrad(parameters, lr=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", adagrad])
def test_every_optimizer_goes_on(tmp_path, optimizer):
    options = {"data": (X, Y), "steps": 9, "batch_size": 16, "optimizer": optimizer}
    whole = fit(made(), cross_entropy, **options)
    options |= {"checkpoint": tmp_path / "run.pt", "checkpoint_seconds": 0}
    with pytest.raises(RuntimeError, match="the machine is gone"):
        fit(made(), failing_at(5), **options)
    assert_same_bits(fit(made(), cross_entropy, **options), whole)


# Real processes, real signals

SCRIPT = """
    import pathlib, sys, time
    sys.path.insert(0, {tests!r})
    import test_checkpoints as t

    def cross_entropy(model, batch):
        time.sleep(0.005)
        if model.calls == 20:
            pathlib.Path({path!r} + ".trains").touch()
        return t.cross_entropy(model, batch)

    t.fit(t.made(), cross_entropy, **t.LONG, checkpoint={path!r}, checkpoint_seconds={seconds})
"""
LONG = {"data": (X, Y), "steps": 300, "batch_size": 24, "evaluate": accuracy, "every": 7}


def started(path, seconds):
    """Start a run of about two seconds in another process."""
    code = SCRIPT.format(tests=os.path.dirname(__file__), path=str(path), seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])


def steps_in(path):
    if not path.exists():
        return 0
    return len(torch.load(path, weights_only=True)["states"]["recorder"]["losses"])


def wait_until(process, holds, *arguments):
    for _ in range(3000):
        if holds(*arguments):
            return
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.01)
    raise AssertionError("the run did not get there within 30 s")


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_with_the_same_bits(tmp_path):
    path, reached = tmp_path / "run.pt", 0
    for wait in torch.rand(2).tolist():
        process = started(path, seconds=0)
        try:
            wait_until(process, lambda before: steps_in(path) > before, reached)
            time.sleep(0.3 * wait)
        finally:
            process.kill()
            process.wait()
        reached = steps_in(path)
        assert reached < LONG["steps"], f"killed too late, {wait:.2f} of 0.3 s after a new step"
    resumed = fit(made(), cross_entropy, **LONG, checkpoint=path)
    assert_same_bits(resumed, fit(made(), cross_entropy, **LONG))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without a signal")
def test_a_run_that_is_terminated_keeps_its_last_step(tmp_path):
    path = tmp_path / "run.pt"
    process = started(path, seconds=1000)
    try:
        wait_until(process, (tmp_path / "run.pt.trains").exists)
        process.terminate()
        assert process.wait(30) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert 20 < steps_in(path) < LONG["steps"]
    resumed = fit(made(), cross_entropy, **LONG, checkpoint=path)
    assert_same_bits(resumed, fit(made(), cross_entropy, **LONG))


def interrupted_at(step):
    def loss(model, batch):
        if model.calls == step - 1 and model.training:
            signal.raise_signal(signal.SIGINT)
        return cross_entropy(model, batch)

    loss.__qualname__ = cross_entropy.__qualname__
    return loss


def test_ctrl_c_finishes_the_step_and_keeps_it(tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    options = {"data": (X, Y), "steps": 9, "checkpoint": tmp_path / "run.pt"}
    history = fit(made(), interrupted_at(4), **options)
    assert history.interrupted and history.frame["step"].tolist() == [1, 2, 3, 4]
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    resumed = fit(made(), cross_entropy, **options)
    assert not resumed.interrupted
    assert_same_bits(resumed, fit(made(), cross_entropy, data=(X, Y), steps=9))


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    def loss(model, batch):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second Ctrl-C was held back as well")

    history = fit(made(), loss, (X, Y), steps=3, checkpoint=tmp_path / "run.pt")
    assert history.interrupted and history.frame.empty
    assert not (tmp_path / "run.pt").exists()


def test_threads_keep_checkpoints_too(tmp_path):
    options = {"data": (X, Y), "steps": 3, "checkpoint": tmp_path / "run.pt"}
    thread = threading.Thread(target=fit, args=(made(), cross_entropy), kwargs=options)
    thread.start()
    thread.join()
    assert steps_in(tmp_path / "run.pt") == 3


# What a file is good for


def test_the_clock_decides_when_the_file_is_written(tmp_path, monkeypatch):
    now, written = [0.0], []

    def loss(model, batch):
        now[0] += 1
        return cross_entropy(model, batch)

    save = torch.save
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch, "save", lambda *args: written.append(now[0]) or save(*args))
    path = tmp_path / "run.pt"
    fit(made(), loss, (X, Y), steps=10, checkpoint=path, checkpoint_seconds=4)
    assert written == [4, 8, 10]


def test_a_finished_run_returns_at_once_and_more_steps_go_on(tmp_path):
    def options(steps):
        return {"data": (X, Y), "batch_size": 24, "steps": steps, "evaluate": accuracy}

    path = tmp_path / "run.pt"
    first = fit(made(), cross_entropy, **options(10), checkpoint=path)
    model = made()
    again = fit(model, failing_at(1), **options(10), checkpoint=path)
    assert_same_bits(again, first)
    assert not model.training and torch.equal(model.mean, first.buffers["mean"][0])
    more = fit(made(), cross_entropy, **options(17), checkpoint=path)
    assert_same_bits(more, fit(made(), cross_entropy, **options(17)))
    with pytest.raises(ValueError, match="steps must be at least the 17 of the checkpoint, got 16"):
        fit(made(), cross_entropy, **options(16), checkpoint=path)


def test_a_run_that_turns_infinite_does_so_again(tmp_path):
    def loss(model, batch):
        return cross_entropy(model, batch) + torch.where(model.calls == 5, torch.inf, 0.0)

    options = {"data": (X, Y), "steps": 9, "checkpoint": tmp_path / "run.pt"}
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="loss is inf at step 5") as caught:
            fit(made(), loss, **options, checkpoint_seconds=0)
        assert len(caught.value.history.frame) == 5
        assert steps_in(tmp_path / "run.pt") == 4


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    def save(state, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "run.pt"
    fit(made(), cross_entropy, (X, Y), steps=3, checkpoint=path)
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        fit(made(), cross_entropy, (X, Y), steps=5, checkpoint=path)
    assert os.listdir(tmp_path) == ["run.pt"] and steps_in(path) == 3


def other_loss(model, batch):
    return cross_entropy(model, batch)


class Wide(Model):
    def __init__(self):
        super().__init__()
        self.layers[4] = nn.Linear(8, 4)


def with_tanh():
    model = made()
    model.layers[2] = nn.Tanh()
    return model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**64 - 2}, f"seed was {2**64 - 1} and is {2**64 - 2}; repeat that run's"),
        ({"learning_rate": 0.1}, "learning_rate was 0.001 and is 0.1;"),
        ({"batch_size": 16}, "batch_size was 24 and is 16;"),
        ({"optimizer": "sgd"}, "optimizer was adam and is sgd;"),
        ({"optimizer": adagrad}, "optimizer was adam and is {'lr': 0.1,"),
        ({"weight_decay": 0.1, "clip_norm": 2.0}, "weight_decay was 0.0 and is 0.1, clip_norm was"),
        ({"knobs": {"temperature": 0.5}}, "knobs was {'temperature': 2.0} and is"),
        ({"every": 2}, "every was None and is 2;"),
        ({"loss": other_loss}, "loss was cross_entropy and is other_loss;"),
        ({"model": with_tanh()}, r"module layers.2 was ReLU\(\) and is Tanh\(\);"),
        ({"data": (X, 2 - Y)}, r"data was \['torch.float32 \[64, 5\] \w{8}', 'torch.int64 \[64\]"),
        ({"model": Wide()}, r"parameter layers.4.weight was \[3, 8\] and is \[4, 8\], parameter"),
        ({"momentum": 0.5, "seed": 1, "every": 2, "batch_size": 9}, r"is 0\.5 and 1 more;"),
    ],
)
@pytest.mark.no_typecheck
def test_the_file_of_another_run_is_refused(tmp_path, changes, message):
    arguments = {
        "model": made(),
        "loss": cross_entropy,
        "data": (X, Y),
        "steps": 2,
        "batch_size": 24,
        "seed": 2**64 - 1,
        "knobs": {"temperature": 2.0},
        "checkpoint": tmp_path / "run.pt",
    }
    fit(**arguments)
    model = changes.get("model") or made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="is of another run: .*" + message):
        fit(**(arguments | {"model": model} | changes))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_numpy_and_tensor_knobs_are_told_apart_by_value(tmp_path):
    for kind in (np.float32, torch.tensor):
        path = tmp_path / f"{kind.__name__}.pt"
        options = {"data": (X, Y), "steps": 2, "checkpoint": path}
        for _ in range(2):
            fit(made(), cross_entropy, knobs={"temperature": kind(0.5)}, **options)
        with pytest.raises(ValueError, match="knobs was"):
            fit(made(), cross_entropy, knobs={"temperature": kind(0.25)}, **options)


def test_losses_made_by_one_function_are_told_apart(tmp_path):
    def weighted(loss, weight):
        return lambda model, batch: weight * loss(model, batch)

    options = {"data": (X, Y), "steps": 2}
    made_by = {
        "closure": (weighted(cross_entropy, 1.0), weighted(other_loss, 1.0), "of other_loss;"),
        "partial": (
            partial(cross_entropy, temperature=1.0),
            partial(cross_entropy, temperature=0.5),
            r"\{'temperature': 0.5\}\];",
        ),
    }
    for name, (first, second, message) in made_by.items():
        path = tmp_path / name
        for _ in range(2):
            fit(made(), first, **options, checkpoint=path)
        with pytest.raises(ValueError, match=message):
            fit(made(), second, **options, checkpoint=path)


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "run.pt"
    options = {"data": (X, Y), "steps": 2, "checkpoint": path}
    fit(made(), cross_entropy, **options)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"run\.pt can't be read; delete it to start anew"):
        fit(made(), cross_entropy, **options)
    torch.save(made().state_dict(), path)
    with pytest.raises(ValueError, match="checkpoint must be a file that fit wrote, .*run.pt is"):
        fit(made(), cross_entropy, **options)
    with pytest.raises(ValueError, match="can't be read"):
        fit(made(), cross_entropy, (X, Y), steps=2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="checkpoint_seconds must be at least 0, got -1"):
        fit(made(), cross_entropy, (X, Y), steps=2, checkpoint_seconds=-1)


# A DataLoader


def test_a_loader_is_gone_through_again_and_again_and_shuffled_anew():
    seen = []

    def loss(model, batch):
        seen.append(batch[1])
        return cross_entropy(model, batch)

    loader = DataLoader(TensorDataset(X, torch.arange(64) % 3), 24, shuffle=True)
    fit(made(), loss, loader, steps=6)
    assert [len(labels) for labels in seen] == [24, 24, 16] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.sort()[0], (torch.arange(64) % 3).sort()[0])
    assert torch.equal(first.sort()[0], second.sort()[0]) and not torch.equal(first, second)


def test_a_loader_leaves_the_randomness_of_the_loss_alone():
    plain = fit(made(), cross_entropy, DataLoader(TensorDataset(X, Y), 64), steps=5)
    whole = fit(made(), cross_entropy, (X, Y), steps=5)
    assert_same_bits(plain, whole)


def test_the_seed_decides_what_a_loader_gives():
    def frame(seed):
        loader = DataLoader(Augmented(), 16, shuffle=True)
        return fit(made(), cross_entropy, loader, steps=5, seed=seed).frame["loss"]

    assert frame(0).equals(frame(0)) and not frame(0).equals(frame(1))


def test_a_loader_may_give_more_than_tensors():
    class Named(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return {"inputs": X[i], "labels": Y[i], "file": f"{i}.png"}

    def loss(model, batch):
        assert batch["file"][0].endswith(".png")
        return cross_entropy(model, (batch["inputs"], batch["labels"]))

    assert len(fit(made(), loss, DataLoader(Named(), 4), steps=3).frame) == 3


@pytest.mark.no_typecheck
def test_loaders_that_do_not_fit_are_refused():
    loader = DataLoader(TensorDataset(X, Y), 16)
    with pytest.raises(ValueError, match="batch_size must be None when data makes its own"):
        fit(made(), cross_entropy, loader, steps=2, batch_size=8)
    with pytest.raises(ValueError, match="or a function of a generator, got DataLoader"):
        fit_replicas(made, cross_entropy, loader, steps=2)
    small = DataLoader(TensorDataset(X, Y), 100, drop_last=True)
    with pytest.raises(ValueError, match="at least one batch, got an epoch without any"):
        fit(made(), cross_entropy, small, steps=2)
