"""Training many replicas of a model at once, seeds times knob values.

Replicas are stacked along a new first dimension and the loss runs under ``torch.func.vmap``, so
that one step of all costs little more than a step of one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import nn

from lossbook._checks import in_range, one_of
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
    per_seed_data,
    per_seed_held_out,
    replica_batches,
    whole_batch,
)
from lossbook.training.history import History, Recorder, warn_of_stopped
from lossbook.training.optimizers import (
    OPTIMIZERS,
    StackedOptimizer,
    all_finite,
    as_column,
    clip_per_replica,
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
    eval_mode,
    isolated_rng,
    stack_models,
    stateful,
    vmap_replicas,
)

OPTIMIZER_KNOBS = ("learning_rate", "weight_decay")
# How often to look whether any replica is left: on a GPU each look waits for the device.
LOOK_EVERY = 20


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
    precision: str = "float32",
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
        precision: as in :func:`fit`.
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
    check_schedule(steps, every, clip_norm, momentum)
    check_rates(*rates)
    datasets = per_seed_data(data, seeds, batch_size, device)
    if held_out is not None:
        check_evaluate(evaluate)
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
    low_precision = autocast(precision, device)

    with (
        isolated_rng(seed, device),
        recorder.catch_interrupt(),
        progress_bar(steps, progress) as bar,
    ):
        for step in range(1, steps + 1):
            before = {name: buffer.clone() for name, buffer in buffers.items()}
            with low_precision:
                losses, after = losses_of(parameters, buffers, next(batches), knobs)
            gradients = torch.autograd.grad(losses.sum(), trainable, allow_unused=True)
            gradients = update.join(gradients)
            losses = losses.detach()
            active = active & torch.isfinite(losses) & all_finite(gradients, losses)
            if clip_norm is not None:
                gradients = clip_per_replica(gradients, clip_norm)
            update.step_joined(gradients, active)
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
    call = stateful(template, tensors_of(evaluate))
    if held_out is None:
        mapped = vmap_replicas(call, (0, 0))
        return lambda parameters, buffers: mapped(parameters, buffers)[0]
    batch, dims = whole_batch(held_out, copies)
    mapped = vmap_replicas(call, (0, 0, dims))
    return lambda parameters, buffers: mapped(parameters, buffers, batch)[0]


def _try_settings(template, loss, dataset, batch_size, seed, settings, device) -> None:
    """Call the loss once with plain numbers: under vmap an objective can't check its knobs."""
    batch = next(batch_stream(dataset, seed, device, batch_size))
    for knobs in settings:
        model = copy.deepcopy(template)
        with torch.no_grad(), isolated_rng(seed, device):
            check_scalar(loss(model, batch, **knobs))
