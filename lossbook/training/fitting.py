"""Training: ``fit`` is the plain loop, ``fit_replicas`` trains many replicas of a model at once.

Replicas (seeds times knob values) are stacked along a new first dimension and the loss runs under
``torch.func.vmap``, so that one step of all replicas costs little more than a step of one.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbook._checks import in_range, one_of, positive
from lossbook.training.batches import (
    Batch,
    Sampler,
    batch_stream,
    check_data,
    check_tensors,
    per_seed_data,
    per_seed_held_out,
    replica_batches,
    to_device,
    whole_batch,
)
from lossbook.training.history import COLUMNS, History, Recorder, describe_stop, warn_of_stopped
from lossbook.training.optimizers import (
    OPTIMIZERS,
    StackedOptimizer,
    all_finite,
    as_column,
    clip_per_replica,
    torch_optimizer,
)
from lossbook.training.progress import progress_bar
from lossbook.training.replicas import (
    check_scalar,
    grid_settings,
    make_module,
    replica_rows,
    replica_seed,
)
from lossbook.training.stacking import (
    device_of,
    eval_mode,
    isolated_rng,
    stack_models,
    stateful,
    vmap_replicas,
)

Loss = Callable[..., Tensor]
Evaluate = Callable[..., Mapping[str, Tensor | float]]
OPTIMIZER_KNOBS = ("learning_rate", "weight_decay")
# How often to look whether any replica is left: on a GPU each look waits for the device.
LOOK_EVERY = 20


def fit(
    model: nn.Module,
    loss: Loss,
    data: Batch | Sampler,
    *,
    steps: int,
    batch_size: int | None = None,
    optimizer: str | Callable[[Any], torch.optim.Optimizer] = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    seed: int = 0,
    knobs: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    held_out: Batch | None = None,
    every: int | None = None,
    progress: bool = True,
) -> History:
    """Train one model in place, on its own device, and leave it in eval mode.

    Args:
        model: the model.
        loss: ``loss(model, batch, **knobs)`` returns a scalar.
        data: a tensor, tuple or dict of tensors with one first dimension, of which shuffled
            minibatches are taken (the last, incomplete one of an epoch is dropped), or a function
            of a ``torch.Generator`` that returns a batch.
        steps: number of updates, at least 1.
        batch_size: size of a minibatch; None takes all of the data at each step.
        optimizer: "adam" (with decoupled weight decay: AdamW), "sgd", or a function that makes a
            torch optimizer of the parameters (learning_rate, weight_decay and momentum are then
            its own business).
        learning_rate: greater than 0.
        weight_decay: 0 or greater.
        momentum: of "sgd", in [0, 1).
        clip_norm: the largest norm of the gradient over all parameters, greater than 0.
        seed: seeds the batches and the randomness of the loss; torch's global state is unchanged.
        knobs: keyword arguments of the loss; numbers among them become columns of the frame.
        evaluate: ``evaluate(model)`` returns a dict of scalars; runs in eval mode, no gradients.
        held_out: data to evaluate on; ``evaluate(model, held_out)`` is then called.
        every: number of steps between evaluations; there is always one at the end.
        progress: whether to show a progress bar.

    Returns:
        The ``History``, with one replica; after Ctrl-C what there is so far.

    Raises:
        FloatingPointError: at the first loss or gradient that is not finite, before the update;
            its attribute ``history`` holds what was recorded.
        ValueError: for arguments out of range, or data that does not fit together.
    """
    knobs = dict(knobs or {})
    _check_schedule(steps, every, clip_norm, momentum)
    _check_rates([learning_rate], [weight_decay])
    check_data("data", data, batch_size)
    if held_out is not None:
        _check_evaluate(evaluate)
        check_tensors("held_out", held_out)
    device = device_of(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    update = torch_optimizer(optimizer, trainable, learning_rate, weight_decay, momentum)
    recorder = Recorder(replica_rows([seed], [_plain(knobs)]), every, steps)
    batches = batch_stream(to_device(data, device), seed, device, batch_size)
    tests = () if held_out is None else (to_device(held_out, device),)
    settings = {"seed": seed, **_plain(knobs), "learning_rate": learning_rate}
    model.train()
    failure = None

    with (
        isolated_rng(seed, device),
        recorder.catch_interrupt(),
        progress_bar(steps, progress) as bar,
    ):
        for step in range(1, steps + 1):
            update.zero_grad()
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
                    scores = _tensors_of(evaluate)(model, *tests)
                recorder.add_scores(step, {k: v.reshape(1) for k, v in scores.items()})
            bar(step)

    update.zero_grad()
    model.eval()
    parameters, buffers = stack_models([model])
    history = recorder.history(parameters, buffers, model)
    if failure:
        error = FloatingPointError(failure)
        error.history = history
        raise error
    return history


def fit_replicas(
    make_model: Callable[[], nn.Module],
    loss: Loss,
    data: Batch | Sampler | list[Batch] | list[Sampler],
    *,
    seeds: int = 5,
    seed: int = 0,
    grid: Mapping[str, Iterable[float]] | None = None,
    steps: int,
    batch_size: int | None = None,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    evaluate: Evaluate | None = None,
    held_out: Batch | list[Batch] | None = None,
    every: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> History:
    """Train seeds times the product of ``grid`` replicas of a model at once, under vmap.

    Replicas of one seed start from the same weights and see the same batches, whatever their
    knobs, so that their results are paired; the randomness inside the loss (dropout) differs
    between all replicas. A replica whose loss or gradient is not finite stops alone, before that
    update, and is reported. ``fit`` with ``seed=replica_seed(seed, i)`` does what replicas of the
    i-th seed do.

    Args:
        make_model: makes a model with fresh weights from torch's global random state.
        loss: ``loss(model, batch, **knobs)`` returns a scalar, where ``model`` is the module with
            one replica's parameters, and knobs from the grid are 0-dimensional tensors. Must not
            branch on the values of tensors.
        data: as in :func:`fit`, or a list of such, one per seed (splits, label noise).
        seeds: number of seeds, at least 1.
        seed: the run's seed, from which those of the replicas derive (see :func:`replica_seed`).
        grid: knob name -> numbers. "learning_rate" and "weight_decay" go to the optimizer, all
            others to the loss. Loop outside over knobs that change the structure.
        steps: number of updates, at least 1.
        batch_size: size of a minibatch; None takes all of the data at each step.
        optimizer: "adam" (with decoupled weight decay: AdamW) or "sgd".
        learning_rate: greater than 0.
        weight_decay: 0 or greater.
        momentum: of "sgd", in [0, 1).
        clip_norm: the largest norm of a replica's gradient over all its parameters.
        evaluate: ``evaluate(model)`` returns a dict of scalar tensors; runs under vmap in eval
            mode, without gradients.
        held_out: data to evaluate on: a tensor, tuple or dict, or a list of such, one per seed and
            all of one shape; ``evaluate(model, held_out)`` is then called with its own seed's.
        every: number of steps between evaluations; there is always one at the end.
        device: where the replicas train; data and models are moved there.
        progress: whether to show a progress bar.

    Returns:
        The ``History``. Replicas are ordered by seed, then by the product of the grid; the column
        "seed" counts seeds from 0.

    Raises:
        ValueError: for arguments out of range, data that does not fit together, grid values that
            are not numbers, or that the loss itself refuses.
    """
    device = torch.device(device)
    settings = grid_settings(grid or {})
    rates = [
        [setting.get(name, default) for setting in settings]
        for name, default in zip(OPTIMIZER_KNOBS, (learning_rate, weight_decay), strict=True)
    ]
    in_range("seeds", seeds, at_least=1)
    one_of("optimizer", optimizer, OPTIMIZERS)
    _check_schedule(steps, every, clip_norm, momentum)
    _check_rates(*rates)
    datasets = per_seed_data(data, seeds, batch_size, device)
    if held_out is not None:
        _check_evaluate(evaluate)
        held_out = per_seed_held_out(held_out, seeds, device)

    run_seeds = [replica_seed(seed, i) for i in range(seeds)]
    models = [make_module(make_model, run_seed, device) for run_seed in run_seeds]
    template = models[0]
    loss_knobs = [
        {name: value for name, value in setting.items() if name not in OPTIMIZER_KNOBS}
        for setting in settings
    ]
    _try_settings(template, loss, datasets[0], batch_size, run_seeds[0], loss_knobs, device)

    copies = len(settings)
    parameters, buffers = stack_models(models, copies)
    trainable = [
        parameters[name].requires_grad_()
        for name, parameter in template.named_parameters()
        if parameter.requires_grad
    ]
    del models
    dtype = next((p.dtype for p in parameters.values() if p.is_floating_point()), None)
    tensor = partial(torch.tensor, dtype=dtype, device=device)
    knobs = {name: tensor([k[name] for k in loss_knobs] * seeds) for name in loss_knobs[0]}
    rates = (tensor(values * seeds) for values in rates)
    update = StackedOptimizer(trainable, optimizer, *rates, momentum=momentum)
    batches, batch_dim = replica_batches(datasets, batch_size, run_seeds, copies, device)
    losses_of = vmap_replicas(stateful(template, _unpacked(loss)), (0, 0, batch_dim, 0))
    scores_of = evaluate and _scores_of(template, evaluate, held_out, copies)
    recorder = Recorder(replica_rows(range(seeds), settings), every, steps)
    active = torch.ones(len(recorder.rows), dtype=torch.bool, device=device)

    with (
        isolated_rng(seed, device),
        recorder.catch_interrupt(),
        progress_bar(steps, progress) as bar,
    ):
        for step in range(1, steps + 1):
            before = {name: buffer.clone() for name, buffer in buffers.items()}
            losses, after = losses_of(parameters, buffers, next(batches), knobs)
            gradients = torch.autograd.grad(losses.sum(), trainable, allow_unused=True)
            losses = losses.detach()
            active = active & torch.isfinite(losses) & all_finite(gradients, losses)
            if clip_norm is not None:
                gradients = clip_per_replica(gradients, clip_norm)
            update.step(gradients, active)
            buffers = {
                name: torch.where(as_column(active, old), after[name].detach(), old)
                for name, old in before.items()
            }
            recorder.add_step(losses, active)
            if step % LOOK_EVERY == 0 and not active.any():
                break
            if scores_of and recorder.is_due(step):
                with torch.no_grad(), eval_mode(template):
                    recorder.add_scores(step, scores_of(parameters, buffers))
            bar(step)

    history = recorder.history(
        {name: parameter.detach() for name, parameter in parameters.items()}, buffers, template
    )
    warn_of_stopped(history)
    return history


def _unpacked(loss: Loss) -> Callable:
    return lambda model, batch, knobs: check_scalar(loss(model, batch, **knobs))


def _scores_of(
    template: nn.Module, evaluate: Evaluate, held_out: list[Batch] | None, copies: int
) -> Callable:
    """Return ``scores(parameters, buffers)`` of all replicas."""
    call = stateful(template, _tensors_of(evaluate))
    if held_out is None:
        mapped = vmap_replicas(call, (0, 0))
        return lambda parameters, buffers: mapped(parameters, buffers)[0]
    batch, dims = whole_batch(held_out, copies)
    mapped = vmap_replicas(call, (0, 0, dims))
    return lambda parameters, buffers: mapped(parameters, buffers, batch)[0]


def _tensors_of(evaluate: Evaluate) -> Callable:
    def scores(model, *held_out):
        found = evaluate(model, *held_out)
        tensors = {name: torch.as_tensor(value) for name, value in found.items()}
        for name, tensor in tensors.items():
            if tensor.dim() != 0:
                raise ValueError(
                    f"evaluate must return scalars, got shape {tuple(tensor.shape)} for {name!r}"
                )
        return tensors

    return scores


def _try_settings(template, loss, dataset, batch_size, seed, settings, device) -> None:
    """Call the loss once with plain numbers: under vmap an objective can't check its knobs."""
    batch = next(batch_stream(dataset, seed, device, batch_size))
    for knobs in settings:
        model = copy.deepcopy(template)
        with torch.no_grad(), isolated_rng(seed, device):
            check_scalar(loss(model, batch, **knobs))


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


def _check_schedule(
    steps: int, every: int | None, clip_norm: float | None, momentum: float
) -> None:
    in_range("steps", steps, at_least=1)
    in_range("momentum", momentum, at_least=0, below=1)
    if every is not None:
        in_range("every", every, at_least=1)
    if clip_norm is not None:
        positive("clip_norm", clip_norm)


def _check_evaluate(evaluate: Evaluate | None) -> None:
    if evaluate is None:
        raise ValueError("held_out needs evaluate, the function that scores a model on it")


def _check_rates(learning_rates: list[float], weight_decays: list[float]) -> None:
    for value in learning_rates:
        positive("learning_rate", value)
    for value in weight_decays:
        in_range("weight_decay", value, at_least=0)
