"""Training one model: the plain loop."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lossbook._checks import in_range
from lossbook.training.arguments import (
    Evaluate,
    Loss,
    autocast,
    check_evaluate,
    check_rates,
    check_schedule,
    tensors_of,
)
from lossbook.training.batches import (
    Batch,
    Sampler,
    batch_stream,
    check_data,
    check_tensors,
    to_device,
)
from lossbook.training.checkpoints import ModelState, RandomState, checkpointing
from lossbook.training.history import COLUMNS, History, Recorder, describe_stop
from lossbook.training.optimizers import torch_optimizer
from lossbook.training.progress import progress_bar
from lossbook.training.replicas import check_scalar, replica_rows
from lossbook.training.stacking import device_of, eval_mode, isolated_rng, stack_models


def fit(
    model: nn.Module,
    loss: Loss,
    data: Batch | Sampler | DataLoader,
    *,
    steps: int,
    batch_size: int | None = None,
    optimizer: str | Callable[[Any], torch.optim.Optimizer] = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    precision: str = "float32",
    seed: int = 0,
    knobs: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    held_out: Batch | None = None,
    every: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> History:
    """Train one model in place, on its own device, and leave it in eval mode.

    Args:
        model: the model.
        loss: ``loss(model, batch, **knobs)`` returns a scalar.
        data: a tensor, tuple or dict of tensors with one first dimension, of which shuffled
            minibatches are taken (the last, incomplete one of an epoch is dropped), a function of a
            ``torch.Generator`` that returns a batch, or a DataLoader, which is gone through again
            and again.
        steps: number of updates, at least 1.
        batch_size: size of a minibatch of tensors; None takes all of the data at each step.
        optimizer: "adam" (with decoupled weight decay: AdamW), "sgd", or a function that makes a
            torch optimizer of the parameters (learning_rate, weight_decay and momentum are then
            its own business).
        learning_rate: greater than 0.
        weight_decay: 0 or greater.
        momentum: of "sgd", in [0, 1).
        clip_norm: the largest norm of the gradient over all parameters, greater than 0.
        precision: "float32", or "bfloat16" to run model and loss under torch's autocast: products
            of matrices in bfloat16, sums and exponentials in float32. Weights, the optimizer and
            ``evaluate`` stay as they are.
        seed: seeds the batches and the randomness of the loss; torch's global state is unchanged.
        knobs: keyword arguments of the loss; numbers among them become columns of the frame.
        evaluate: ``evaluate(model)`` returns a dict of scalars; runs in eval mode, no gradients.
        held_out: data to evaluate on; ``evaluate(model, held_out)`` is then called.
        every: number of steps between evaluations; there is always one at the end.
        checkpoint: a file with the state of the run. The same call goes on where the file stands,
            and ends, on the same machine, with the same bits as a run that was never interrupted.
            A call with more steps goes on further, one with other arguments or modules is refused;
            that code inside them has changed is not seen, nor what a loader or a sampler holds.
            What lies outside the model, the optimizer, the data and torch's random state is not in
            the file: make a loss's memory bank a part of the model.
        checkpoint_seconds: how often the file is written, besides at the end, at Ctrl-C and at
            SIGTERM (these only in the main thread, which a sweep's worker is not); 0 writes it at
            every step. After an exception the file is the last one written.
        progress: whether to show a progress bar.

    Returns:
        The ``History``, with one replica; after Ctrl-C what there is so far.

    Raises:
        FloatingPointError: at the first loss or gradient that is not finite, before the update;
            its attribute ``history`` holds what was recorded.
        ValueError: for arguments out of range, data that does not fit together, or a checkpoint
            that can't be read or is of another run.
    """
    knobs = dict(knobs or {})
    check_schedule(steps, every, clip_norm, momentum)
    check_rates([learning_rate], [weight_decay])
    in_range("checkpoint_seconds", checkpoint_seconds, at_least=0)
    check_data("data", data, batch_size, loader=True)
    if held_out is not None:
        check_evaluate(evaluate)
        check_tensors("held_out", held_out)
    device = device_of(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    update = torch_optimizer(optimizer, trainable, learning_rate, weight_decay, momentum)
    recorder = Recorder(replica_rows([seed], [_plain(knobs)]), every, steps, device)
    batches = batch_stream(to_device(data, device), seed, device, batch_size)
    tests = () if held_out is None else (to_device(held_out, device),)
    settings = {"seed": seed, **_plain(knobs), "learning_rate": learning_rate}
    parts = {
        "model": ModelState(model),
        "optimizer": update,
        "batches": batches,
        "recorder": recorder,
        "random": RandomState(device),
    }
    arguments = {
        "seed": seed,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "clip_norm": clip_norm,
        "precision": precision,
        "optimizer": optimizer if isinstance(optimizer, str) else update.defaults,
        "knobs": knobs,
        "every": every,
        "loss": loss,
        "evaluate": evaluate,
        "held_out": held_out,
        "data": data,
        "device": device.type,
        **{f"parameter {name}": list(p.shape) for name, p in model.named_parameters()},
        **{f"module {name}": _kind(module) for name, module in model.named_modules()},
    }
    low_precision = autocast(precision, device)
    model.train()
    failure = None

    with (
        isolated_rng(seed, device),
        recorder.catch_interrupt(),
        checkpointing(checkpoint, checkpoint_seconds, parts, arguments) as keep,
        progress_bar(steps, progress) as bar,
    ):
        for step in range(len(recorder.losses) + 1, steps + 1):
            update.zero_grad()
            with low_precision:
                value = check_scalar(loss(model, next(batches), **knobs))
            value.backward()
            norm = nn.utils.clip_grad_norm_(trainable, clip_norm or math.inf)
            finite = torch.isfinite(value.detach()) & torch.isfinite(norm)
            recorder.add_step(value.detach().reshape(1), finite.reshape(1))
            if not finite:
                failure = describe_stop(step, value.item(), settings)
                break
            update.step()
            if evaluate is not None and recorder.is_due(step):
                with torch.no_grad(), eval_mode(model):
                    scores = tensors_of(evaluate)(model, *tests)
                recorder.add_scores(step, {k: v.reshape(1) for k, v in scores.items()})
            bar(step)
            keep(step == steps)

    update.zero_grad()
    model.eval()
    parameters, buffers = stack_models([model])
    history = recorder.history(parameters, buffers, model)
    if failure:
        error = FloatingPointError(failure)
        error.history = history
        raise error
    return history


def _kind(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"


def _plain(knobs: dict[str, Any]) -> dict[str, Any]:
    """Return those knobs that fit into a table's cell."""
    plain = {
        name: value.item() if isinstance(value, Tensor) and value.dim() == 0 else value
        for name, value in knobs.items()
    }
    return {
        name: value
        for name, value in plain.items()
        if isinstance(value, (numbers.Number, str)) and name not in COLUMNS
    }
