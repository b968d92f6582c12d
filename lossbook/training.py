"""Training: ``fit`` is the plain loop, ``fit_replicas`` trains many replicas of a model at once.

Replicas (seeds times knob values) are stacked along a new first dimension and the loss runs under
``torch.func.vmap``, so that one step of all replicas costs little more than a step of one.
"""

from __future__ import annotations

import copy
import math
import numbers
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lossbook._checks import in_range, one_of, positive

if TYPE_CHECKING:
    import pandas

Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Sampler = Callable[[torch.Generator], Batch]
Loss = Callable[..., Tensor]
Evaluate = Callable[[nn.Module], Mapping[str, Tensor | float]]

OPTIMIZERS = ("adam", "sgd")
OPTIMIZER_KNOBS = ("learning_rate", "weight_decay")
COLUMNS = ("replica", "seed", "step", "loss")
# How often to look whether any replica is left: on a GPU each look waits for the device.
LOOK_EVERY = 20


@dataclass(repr=False)
class History:
    """What a training run left behind.

    Attributes:
        frame: one row per (replica, step) with the columns "replica", "seed", the knobs, "step"
            (1, 2, ...), "loss" (before that step's update) and what ``evaluate`` returned
            (after the update; NaN at steps without an evaluation).
        replicas: one row per replica: "replica", "seed", the knobs, "stopped_at" (the step whose
            loss or gradient was not finite; missing if there was none) and "reason".
        interrupted: whether Ctrl-C ended the training early.
        parameters: the trained parameters, each with a first dimension of R replicas.
        buffers: the buffers, likewise.
    """

    frame: pandas.DataFrame
    replicas: pandas.DataFrame
    interrupted: bool
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    _template: nn.Module

    def __repr__(self) -> str:
        replicas = "1 replica" if len(self) == 1 else f"{len(self)} replicas"
        stopped = int(self.replicas["stopped_at"].notna().sum())
        state = [f"{stopped} stopped"] * (stopped > 0) + ["interrupted"] * self.interrupted
        steps = 0 if self.frame.empty else self.frame["step"].max()
        return f"<History: {', '.join([replicas, f'{steps} steps', *state])}>"

    def __len__(self) -> int:
        """Number of replicas."""
        return len(self.replicas)

    @property
    def final(self) -> pandas.DataFrame:
        """The last row of each replica; a stopped replica has no evaluation there."""
        return self.frame.groupby("replica").tail(1).reset_index(drop=True)

    @torch.no_grad()
    def forward(self, inputs: Tensor | tuple[Tensor, ...], per_replica: bool = False) -> Any:
        """Run all replicas in eval mode, without gradients.

        Args:
            inputs: a tensor, or a tuple of positional arguments.
            per_replica: whether the inputs have a first dimension of R, one entry per replica;
                else all replicas see the same inputs.

        Returns:
            What the model returns, with a first dimension of R replicas.
        """
        state = (*self.parameters.values(), *self.buffers.values())
        device = state[0].device if state else torch.device("cpu")
        inputs = tuple(x.to(device) for x in (inputs if isinstance(inputs, tuple) else (inputs,)))
        if per_replica and any(len(x) != len(self) for x in inputs):
            raise ValueError(
                f"inputs must have a first dimension of {len(self)} replicas, "
                f"got shapes {[tuple(x.shape) for x in inputs]}"
            )
        call = _stateful(self._template, lambda model, inputs: model(*inputs))
        with _eval_mode(self._template):
            if len(self) > 1:
                dims = (0, 0, 0 if per_replica else None)
                return _vmap(call, dims)(self.parameters, self.buffers, inputs)[0]
            # Models that fit() trained need not run under vmap.
            state = ({k: v[0] for k, v in s.items()} for s in (self.parameters, self.buffers))
            outputs = call(*state, tuple(x[0] for x in inputs) if per_replica else inputs)[0]
            return _map(lambda output: output.unsqueeze(0), outputs)

    def model(self, replica: int = 0) -> nn.Module:
        """Return one replica as an independent module in eval mode."""
        if not -len(self) <= replica < len(self):
            raise ValueError(f"replica must be less than {len(self)}, got {replica}")
        model = copy.deepcopy(self._template).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.parameters[name][replica])
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name][replica])
        return model


def replica_seed(seed: int, i: int) -> int:
    """Return the seed of the i-th seed of a run; runs with different ``seed`` share none."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0])


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
    _check_data("data", data, batch_size)
    device = _device(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    update = _torch_optimizer(optimizer, trainable, learning_rate, weight_decay, momentum)
    recorder = _Recorder(_rows([seed], [_plain(knobs)]), every, steps)
    batches = _batches(_to(data, device), seed, device, batch_size)
    settings = {"seed": seed, **_plain(knobs), "learning_rate": learning_rate}
    model.train()
    failure = None

    with _isolated_rng(seed, device), recorder.catch_interrupt(), _progress(steps, progress) as bar:
        for step in range(1, steps + 1):
            update.zero_grad()
            value = _scalar(loss(model, next(batches), **knobs))
            value.backward()
            norm = nn.utils.clip_grad_norm_(trainable, clip_norm or math.inf)
            finite = torch.isfinite(value.detach()) & torch.isfinite(norm)
            recorder.add_step(value.detach().reshape(1), finite.reshape(1))
            if not finite:
                failure = _reason(step, value.item(), settings)
                break
            update.step()
            if evaluate is not None and recorder.is_due(step):
                with torch.no_grad(), _eval_mode(model):
                    scores = _tensors_of(evaluate)(model)
                recorder.add_scores(step, {k: v.reshape(1) for k, v in scores.items()})
            bar(step)

    update.zero_grad()
    model.eval()
    parameters, buffers = _stack_models([model])
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
    grid: Mapping[str, Sequence[float]] | None = None,
    steps: int,
    batch_size: int | None = None,
    optimizer: str = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    evaluate: Evaluate | None = None,
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
    settings = _grid_settings(grid or {})
    rates = [
        [setting.get(name, default) for setting in settings]
        for name, default in zip(OPTIMIZER_KNOBS, (learning_rate, weight_decay), strict=True)
    ]
    in_range("seeds", seeds, at_least=1)
    one_of("optimizer", optimizer, OPTIMIZERS)
    _check_schedule(steps, every, clip_norm, momentum)
    _check_rates(*rates)
    datasets = _per_seed_data(data, seeds, batch_size, device)

    run_seeds = [replica_seed(seed, i) for i in range(seeds)]
    models = [_make(make_model, run_seed, device) for run_seed in run_seeds]
    template = models[0]
    loss_knobs = [
        {name: value for name, value in setting.items() if name not in OPTIMIZER_KNOBS}
        for setting in settings
    ]
    _try_settings(template, loss, datasets[0], batch_size, run_seeds[0], loss_knobs, device)

    copies = len(settings)
    parameters, buffers = _stack_models(models, copies)
    trainable = [
        parameters[name].requires_grad_()
        for name, parameter in template.named_parameters()
        if parameter.requires_grad
    ]
    del models
    dtype = next((p.dtype for p in parameters.values() if p.is_floating_point()), None)
    numbers = partial(torch.tensor, dtype=dtype, device=device)
    knobs = {name: numbers([k[name] for k in loss_knobs] * seeds) for name in loss_knobs[0]}
    rates = (numbers(values * seeds) for values in rates)
    update = StackedOptimizer(trainable, optimizer, *rates, momentum=momentum)
    batches, batch_dim = _replica_batches(datasets, batch_size, run_seeds, copies, device)
    losses_of = _vmap(_stateful(template, _unpacked(loss)), (0, 0, batch_dim, 0))
    scores_of = evaluate and _vmap(_stateful(template, _tensors_of(evaluate)), (0, 0))
    recorder = _Recorder(_rows(range(seeds), settings), every, steps)
    active = torch.ones(len(recorder.rows), dtype=torch.bool, device=device)

    with _isolated_rng(seed, device), recorder.catch_interrupt(), _progress(steps, progress) as bar:
        for step in range(1, steps + 1):
            before = {name: buffer.clone() for name, buffer in buffers.items()}
            losses, after = losses_of(parameters, buffers, next(batches), knobs)
            gradients = torch.autograd.grad(losses.sum(), trainable, allow_unused=True)
            losses = losses.detach()
            active = active & torch.isfinite(losses) & _all_finite(gradients, losses)
            if clip_norm is not None:
                gradients = _clip(gradients, clip_norm)
            update.step(gradients, active)
            buffers = {
                name: torch.where(_column(active, old), after[name].detach(), old)
                for name, old in before.items()
            }
            recorder.add_step(losses, active)
            if step % LOOK_EVERY == 0 and not active.any():
                break
            if scores_of and recorder.is_due(step):
                with torch.no_grad(), _eval_mode(template):
                    recorder.add_scores(step, scores_of(parameters, buffers)[0])
            bar(step)

    history = recorder.history(
        {name: parameter.detach() for name, parameter in parameters.items()}, buffers, template
    )
    _warn_of_stopped(history)
    return history


class StackedOptimizer:
    """Adam or SGD on stacked parameters, where each replica has its own learning rate.

    The same updates as ``torch.optim.AdamW`` and ``torch.optim.SGD``, which act elementwise but
    take one learning rate for all.

    Args:
        parameters: tensors with a first dimension of R replicas.
        name: "adam" (decoupled weight decay) or "sgd" (with momentum).
        learning_rate: shape (R,).
        weight_decay: shape (R,).
        momentum: of "sgd".
        betas: decay rates of Adam's two moments.
        epsilon: added to the root of Adam's second moment.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        name: str,
        learning_rate: Tensor,
        weight_decay: Tensor,
        *,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ):
        one_of("name", name, OPTIMIZERS)
        self.parameters = parameters
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.decays = bool((weight_decay != 0).any())
        self.momentum, self.betas, self.epsilon = momentum, betas, epsilon
        self.update = self._adam if name == "adam" else self._sgd
        moments = 2 if name == "adam" else 1
        self.moments = [[torch.zeros_like(p) for _ in range(moments)] for p in parameters]
        self.counts = [0] * len(self.parameters)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], active: Tensor) -> None:
        """Update the replicas where ``active``, shape (R,), is true; others stay as they are.

        Gradients of other replicas may hold anything; a gradient of None leaves its parameter.
        """
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if gradient is None:
                continue
            self.counts[i] += 1
            on = _column(active, parameter)
            gradient = torch.where(on, gradient, 0.0)
            rate = _column(self.learning_rate, parameter) * on
            decay = _column(self.weight_decay, parameter)
            self.update(parameter, gradient, rate, decay, on, self.counts[i], *self.moments[i])

    def _adam(self, parameter, gradient, rate, decay, on, count, mean, square):
        first, second = self.betas
        moves = on.to(parameter.dtype)
        mean.lerp_(gradient, (1 - first) * moves)
        square.lerp_(gradient * gradient, (1 - second) * moves)
        if self.decays:
            parameter.mul_(1 - rate * decay)
        scale = (square / (1 - second**count)).sqrt_().add_(self.epsilon)
        parameter.sub_(mean / scale * (rate / (1 - first**count)))

    def _sgd(self, parameter, gradient, rate, decay, on, count, velocity):
        if self.decays:
            gradient = gradient + decay * parameter * on
        torch.where(on, self.momentum * velocity + gradient, velocity, out=velocity)
        parameter.sub_(velocity * rate)


class _Recorder:
    """Collects losses and scores as tensors; reads them only at the end, in one transfer."""

    def __init__(self, rows: list[dict[str, Any]], every: int | None, steps: int):
        self.rows = rows
        self.every = every or steps
        self.steps = steps
        self.losses: list[Tensor] = []
        self.active: list[Tensor] = []
        self.scores: list[tuple[int, dict[str, Tensor]]] = []
        self.interrupted = False

    @contextmanager
    def catch_interrupt(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def add_step(self, losses: Tensor, active: Tensor) -> None:
        self.losses.append(losses)
        self.active.append(active)

    def is_due(self, step: int) -> bool:
        return step == self.steps or step % self.every == 0

    def add_scores(self, step: int, scores: dict[str, Tensor]) -> None:
        taken = set(scores) & {*COLUMNS, *self.rows[0]}
        if taken:
            raise ValueError(f"evaluate must not return the names {sorted(taken)}")
        self.scores.append((step, scores))

    def history(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], template: nn.Module
    ) -> History:
        import pandas

        size, steps = len(self.rows), min(len(self.losses), len(self.active))
        losses, active = np.zeros((size, steps)), np.ones((size, steps), dtype=bool)
        if steps:
            losses = torch.stack(self.losses[:steps], 1).cpu().double().numpy()
            active = torch.stack(self.active[:steps], 1).cpu().numpy()
        # A stopped replica keeps the row of the step that stopped it.
        kept = np.concatenate([np.ones((size, 1), dtype=bool), active[:, :-1]], 1)[:, :steps]
        replica, step = np.nonzero(kept)

        replicas = pandas.DataFrame({"replica": range(size)}).join(pandas.DataFrame(self.rows))
        frame = replicas.iloc[replica].reset_index(drop=True)
        frame["step"], frame["loss"] = step + 1, losses[replica, step]
        for name in dict.fromkeys(name for _, scores in self.scores for name in scores):
            column = np.full((size, steps), np.nan)
            for at, scores in self.scores:
                if at <= steps and name in scores:
                    values = scores[name].detach().cpu().double().numpy()
                    column[:, at - 1] = np.where(active[:, at - 1], values, np.nan)
            frame[name] = column[replica, step]

        stopped = [None if row.all() else int(row.argmin()) + 1 for row in active]
        replicas["stopped_at"] = pandas.array(stopped, dtype="Int64")
        replicas["reason"] = [
            None if at is None else _reason(at, losses[i, at - 1], self.rows[i])
            for i, at in enumerate(stopped)
        ]
        return History(frame, replicas, self.interrupted, parameters, buffers, template)


class _Bound(nn.Module):
    """Calls ``function(model, ...)`` as its forward, so that functional_call reaches the model."""

    def __init__(self, model: nn.Module, function: Callable):
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *arguments):
        return self.function(self.model, *arguments)


def _stateful(model: nn.Module, function: Callable) -> Callable:
    """Return ``call(parameters, buffers, *arguments)`` -> (function's result, new buffers)."""
    bound = _Bound(model, function)

    def call(parameters, buffers, *arguments):
        state = {f"model.{name}": tensor for name, tensor in {**parameters, **buffers}.items()}
        result = torch.func.functional_call(bound, state, arguments)
        # functional_call writes buffers that the model replaced back into its state.
        return result, {name: state[f"model.{name}"] for name in buffers}

    return call


def _stack_models(
    models: list[nn.Module], copies: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return stacked parameters and buffers, each model's repeated ``copies`` times."""
    parameters, buffers = torch.func.stack_module_state(models)
    return (
        {name: _repeat(stacked.detach(), copies) for name, stacked in parameters.items()},
        {name: _repeat(stacked.detach(), copies) for name, stacked in buffers.items()},
    )


def _vmap(call: Callable, in_dims: tuple[Any, ...]) -> Callable:
    mapped = torch.func.vmap(call, in_dims=in_dims, randomness="different")

    def explained(*arguments):
        try:
            return mapped(*arguments)
        except RuntimeError as error:
            error.add_note(
                "This ran under torch.func.vmap, where code can't branch on the values of tensors "
                "or call .item(); lossbook.training.fit trains one model without vmap."
            )
            raise

    return explained


def _unpacked(loss: Loss) -> Callable:
    return lambda model, batch, knobs: _scalar(loss(model, batch, **knobs))


def _tensors_of(evaluate: Evaluate) -> Callable:
    def scores(model):
        tensors = {name: torch.as_tensor(value) for name, value in evaluate(model).items()}
        for name, tensor in tensors.items():
            if tensor.dim() != 0:
                raise ValueError(
                    f"evaluate must return scalars, got shape {tuple(tensor.shape)} for {name!r}"
                )
        return tensors

    return scores


def _scalar(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 0:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"loss must return a scalar tensor, got {got}")
    return value


def _column(per_replica: Tensor, like: Tensor) -> Tensor:
    """Reshape (R,) to (R, 1, ...), to broadcast against a stacked tensor."""
    return per_replica.reshape(-1, *[1] * (like.dim() - 1))


def _all_finite(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Say for each replica whether all of its gradients are finite: no sync with the device."""
    # 0 * g sums to zero unless an element is infinite or NaN; faster than isfinite().all().
    sums = [(g * 0).reshape(len(like), -1).sum(1) for g in gradients if g is not None]
    return (torch.stack(sums) == 0).all(0)


def _clip(gradients: Sequence[Tensor | None], clip_norm: float) -> list[Tensor | None]:
    """Scale each replica's gradient to a norm of at most clip_norm, over all parameters."""
    present = [gradient for gradient in gradients if gradient is not None]
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in present]
    norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    # The same guard against a norm of zero as torch.nn.utils.clip_grad_norm_.
    scale = (clip_norm / (norm + 1e-6)).clamp(max=1.0)
    return [None if g is None else g * _column(scale, g) for g in gradients]


def _torch_optimizer(optimizer, parameters, learning_rate, weight_decay, momentum):
    if callable(optimizer):
        return optimizer(parameters)
    one_of("optimizer", optimizer, OPTIMIZERS)
    if optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(
        parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
    )


def _make(make_model: Callable[[], nn.Module], seed: int, device: torch.device) -> nn.Module:
    with _isolated_rng(seed, device):
        model = make_model()
    if not isinstance(model, nn.Module):
        raise ValueError(f"make_model must return a torch.nn.Module, got {type(model).__name__}")
    return model.to(device).train()


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global random state, and restore it afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _grid_settings(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    values = {name: _grid_values(name, of) for name, of in grid.items()}
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def _grid_values(name: str, values: Sequence[float]) -> list[float]:
    if name in COLUMNS:
        raise ValueError(f"grid must not have a knob called {name!r}")
    if isinstance(values, (str, numbers.Number)) or not hasattr(values, "__iter__"):
        raise ValueError(f"grid[{name!r}] must be a list of numbers, got {values!r}")
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    if not plain:
        raise ValueError(f"grid[{name!r}] must have at least one value, got none")
    for value in plain:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(
                f"grid[{name!r}] must hold numbers, got {value!r}; loop outside fit_replicas "
                "over knobs that are not numbers"
            )
    return plain


def _try_settings(template, loss, dataset, batch_size, seed, settings, device) -> None:
    """Call the loss once with plain numbers: under vmap an objective can't check its knobs."""
    batch = next(_batches(dataset, seed, device, batch_size))
    for knobs in settings:
        model = copy.deepcopy(template)
        with torch.no_grad(), _isolated_rng(seed, device):
            _scalar(loss(model, batch, **knobs))


def _rows(seeds: Sequence[int], settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"seed": seed, **setting} for seed in seeds for setting in settings]


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


def _reason(step: int, loss: float, settings: Mapping[str, Any]) -> str:
    what = "loss" if not math.isfinite(loss) else f"gradient at loss {loss:.4g}"
    value = f"{loss}" if not math.isfinite(loss) else "not finite"
    where = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{what} is {value} at step {step} ({where})"


def _warn_of_stopped(history: History) -> None:
    reasons = history.replicas["reason"].dropna()
    if len(reasons):
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        warnings.warn(
            f"{len(reasons)} of {len(history)} replicas stopped: {'; '.join(reasons[:3])}{more}",
            RuntimeWarning,
            stacklevel=3,
        )


def _fields(batch: Batch) -> list[Any]:
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple) else [batch]


def _map(function: Callable[..., Tensor], *batches: Batch) -> Batch:
    """Apply function to the corresponding tensors of batches."""
    first = batches[0]
    if isinstance(first, dict):
        return {key: function(*(batch[key] for batch in batches)) for key in first}
    if isinstance(first, tuple):
        values = [function(*tensors) for tensors in zip(*batches, strict=True)]
        return type(first)(*values) if hasattr(first, "_fields") else tuple(values)
    if not isinstance(first, Tensor):
        raise ValueError(
            f"expected a tensor, or a tuple or dict of tensors, got {type(first).__name__}"
        )
    return function(*batches)


def _select(batch: Batch, index: Tensor) -> Batch:
    return _map(lambda tensor: tensor[index], batch)


def _to(data: Batch | Sampler, device: torch.device) -> Batch | Sampler:
    return data if callable(data) else _map(lambda tensor: tensor.to(device), data)


def _repeat(stacked: Tensor, copies: int) -> Tensor:
    return stacked.repeat_interleave(copies, 0) if copies > 1 else stacked


def _generator(seed: int) -> torch.Generator:
    # Hashed, since torch.manual_seed(seed) draws the initial weights: a sampler that draws
    # normals would otherwise repeat them.
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _shuffled(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of minibatches, epoch after epoch, without the incomplete last one."""
    while True:
        order = torch.randperm(n, generator=generator)
        yield from order[: n - n % batch_size].split(batch_size)


def _batches(
    data: Batch | Sampler, seed: int, device: torch.device, batch_size: int | None = None
) -> Iterator[Batch]:
    generator = _generator(seed)
    if callable(data):
        while True:
            yield _map(lambda tensor: tensor.to(device), data(generator))
    if batch_size is None:
        yield from repeat(data)
    for index in _shuffled(len(_fields(data)[0]), batch_size, generator):
        yield _select(data, index.to(device))


def _replica_batches(
    datasets: list[Batch | Sampler],
    batch_size: int | None,
    seeds: list[int],
    copies: int,
    device: torch.device,
) -> tuple[Iterator[Batch], Any]:
    """Return the batches of all replicas, and which of their dimensions counts replicas."""
    if callable(datasets[0]):
        streams = [_batches(*pair, device) for pair in zip(datasets, seeds, strict=True)]
        return (_map(_stack(copies), *batches) for batches in zip(*streams, strict=True)), 0
    if batch_size is None:
        # What all seeds share is neither stacked nor repeated.
        dims = _map(lambda *tensors: None if _same(tensors) else 0, *datasets)
        stack = _stack(copies)
        batch = _map(lambda *tensors: tensors[0] if _same(tensors) else stack(*tensors), *datasets)
        return repeat(batch), dims
    return _replica_minibatches(datasets, batch_size, seeds, copies, device), 0


def _replica_minibatches(
    datasets: list[Batch], batch_size: int, seeds: list[int], copies: int, device: torch.device
) -> Iterator[Batch]:
    streams = [
        _shuffled(len(_fields(dataset)[0]), batch_size, _generator(seed))
        for dataset, seed in zip(datasets, seeds, strict=True)
    ]
    for indices in zip(*streams, strict=True):
        yield _map(_take(torch.stack(indices).to(device), copies), *datasets)


def _take(indices: Tensor, copies: int) -> Callable[..., Tensor]:
    """Return a function that takes each seed's indices, shape (seeds, n), from its tensor."""
    repeated = _repeat(indices, copies)

    def take(*tensors):
        if _same(tensors):
            return tensors[0][repeated]
        return _stack(copies)(*(t[index] for t, index in zip(tensors, indices, strict=True)))

    return take


def _stack(copies: int) -> Callable[..., Tensor]:
    return lambda *tensors: _repeat(torch.stack(tensors), copies)


def _same(tensors: Sequence[Tensor]) -> bool:
    return all(tensor is tensors[0] for tensor in tensors)


def _per_seed_data(
    data: Any, seeds: int, batch_size: int | None, device: torch.device
) -> list[Batch | Sampler]:
    """Return one dataset per seed, on the device; a tensor that occurs twice is moved once."""
    if not isinstance(data, list):
        _check_data("data", data, batch_size)
        return [_to(data, device)] * seeds
    if len(data) != seeds:
        raise ValueError(f"data must have one entry for each of {seeds} seeds, got {len(data)}")
    for i, dataset in enumerate(data):
        _check_data(f"data[{i}]", dataset, batch_size)
    if len({callable(dataset) for dataset in data}) > 1:
        raise ValueError("data must hold either tensors for every seed or functions for every seed")
    if batch_size is None and not callable(data[0]):
        shapes = {tuple(tuple(tensor.shape) for tensor in _fields(dataset)) for dataset in data}
        if len(shapes) > 1:
            raise ValueError(
                "data of different seeds must have the same shapes when batch_size is None, "
                f"got {sorted(shapes)}"
            )
    moved: dict[int, Tensor] = {}

    def move(tensor):
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor.to(device)
        return moved[id(tensor)]

    return [dataset if callable(dataset) else _map(move, dataset) for dataset in data]


def _check_data(name: str, data: Batch | Sampler, batch_size: int | None) -> None:
    if callable(data):
        if batch_size is not None:
            raise ValueError("batch_size must be None when data is a function that makes batches")
        return
    if not isinstance(data, (Tensor, tuple, dict)):
        raise ValueError(
            f"{name} must be a tensor, a tuple or dict of tensors, or a function of a generator, "
            f"got {type(data).__name__}"
        )
    fields = _fields(data)
    for field in fields:
        if not isinstance(field, Tensor) or field.dim() == 0:
            raise ValueError(f"{name} must hold tensors with a first dimension, got {field!r}")
    lengths = sorted({len(field) for field in fields})
    if not lengths or lengths == [0]:
        raise ValueError(f"{name} must not be empty")
    if len(lengths) > 1:
        raise ValueError(f"tensors in {name} must have one first dimension, got {lengths}")
    if batch_size is not None and not 1 <= batch_size <= lengths[0]:
        raise ValueError(
            f"batch_size must be between 1 and the {lengths[0]} samples of {name}, got {batch_size}"
        )


def _check_schedule(
    steps: int, every: int | None, clip_norm: float | None, momentum: float
) -> None:
    in_range("steps", steps, at_least=1)
    in_range("momentum", momentum, at_least=0, below=1)
    if every is not None:
        in_range("every", every, at_least=1)
    if clip_norm is not None:
        positive("clip_norm", clip_norm)


def _check_rates(learning_rates: list[float], weight_decays: list[float]) -> None:
    for value in learning_rates:
        positive("learning_rate", value)
    for value in weight_decays:
        in_range("weight_decay", value, at_least=0)


@contextmanager
def _progress(steps: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that shows how many steps are done; nothing is left when it ends.

    In a kernel the bar is plain HTML that is blanked at the end: a widget would stay in the saved
    notebook as an error. On a terminal it is tqdm's. Bars of short runs never appear.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not wanted or os.environ.get("LOSSBOOK_PROGRESS") == "0":
        yield lambda step: None
    elif hasattr(shell, "kernel"):
        bar = _NotebookBar(steps)
        try:
            yield bar.show
        finally:
            bar.clear()
    else:
        from tqdm import tqdm

        hidden = not sys.stderr.isatty()
        with tqdm(total=steps, leave=False, delay=1, unit="step", disable=hidden) as bar:
            yield lambda step: bar.update(step - bar.n)


class _NotebookBar:
    """A progress bar in a notebook's output, first shown after a second, then twice a second."""

    def __init__(self, steps: int):
        self.steps = steps
        self.next_time = time.monotonic() + 1
        self.handle = None

    def show(self, step: int) -> None:
        if time.monotonic() < self.next_time:
            return
        self.next_time = time.monotonic() + 0.5
        text = f"step {step} of {self.steps}"
        self._send(
            {
                "text/html": f'<progress max="{self.steps}" value="{step}"></progress> {text}',
                "text/plain": text,
            }
        )

    def clear(self) -> None:
        if self.handle is not None:
            self._send({"text/html": "", "text/plain": ""})

    def _send(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)
