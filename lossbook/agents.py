"""Agents: deep Q-networks that learn in gymnasium's environments, many replicas at once.

Like ``fit_replicas``, but the data come from the agents: each plays in environments of its own,
remembers what it saw, and learns from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lossbook._checks import in_range, positive
from lossbook.models import mlp
from lossbook.training.batches import batch_generator, repeat_replicas
from lossbook.training.history import History, Recorder, warn_of_stopped
from lossbook.training.optimizers import StackedOptimizer, all_finite
from lossbook.training.progress import progress_bar
from lossbook.training.replicas import (
    check_scalar,
    grid_settings,
    make_module,
    replica_rows,
    replica_seed,
)
from lossbook.training.stacking import isolated_rng, stack_models, stateful, vmap_replicas

if TYPE_CHECKING:
    import gymnasium


def fit_agents(
    environment: str | Callable[[], gymnasium.Env],
    loss: Callable[..., Tensor],
    values: Callable[[Tensor], Tensor],
    *,
    outputs: int = 1,
    hidden: Sequence[int] = (64, 64),
    seeds: int = 5,
    seed: int = 0,
    grid: Mapping[str, Iterable[float]] | None = None,
    steps: int,
    n_envs: int = 8,
    batch_size: int = 64,
    memory: int = 10_000,
    discount: float | int = 0.99,
    learning_rate: float | int = 1e-3,
    exploration: float | int = 0.05,
    target_rate: float | int = 0.01,
    reward_noise: float | int = 0.0,
    every: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> History:
    """Train seeds times the product of ``grid`` deep Q-networks at once.

    At each step every agent acts once in each of its environments: at random with a probability
    that falls from 1 to ``exploration`` over the first fifth of the steps, else greedily. Then it
    learns from a batch of remembered transitions, with the targets ``reward + discount * largest
    value of the next state``, where the value comes from a target network that follows the network
    slowly. Agents of one seed start from the same weights and in the same states.

    Args:
        environment: the name of one of gymnasium's environments, or a function that makes one.
            Its actions are discrete; its observations are a Box, which is flattened, or discrete,
            and then one-hot for the network.
        loss: ``loss(outputs, targets, **knobs)`` returns a scalar. It gets the network's outputs
            for the actions taken, (n, outputs), and the targets, (n,), without a gradient; knobs
            from the grid are 0-dimensional tensors.
        values: reads the values from outputs, (..., outputs) -> (...).
        outputs: the network's outputs for each action, at least 1.
        hidden: widths of the network's hidden layers.
        seeds: number of seeds, at least 1.
        seed: the run's seed, from which those of the replicas derive.
        grid: as in :func:`lossbook.training.fit_replicas`; of the optimizer's knobs it may hold
            "learning_rate".
        steps: number of updates, at least 1.
        n_envs: environments of each agent, at least 1.
        batch_size: transitions in a batch, at least 1.
        memory: how many of its last transitions an agent remembers, at least n_envs.
        discount: in [0, 1].
        learning_rate: of Adam, greater than 0.
        exploration: the final probability of a random action, in [0, 1].
        target_rate: the share by which the target network approaches the network at each step,
            in [0, 1].
        reward_noise: standard deviation of the noise that is added to the rewards that agents
            learn from, at least 0.
        every: number of steps between two reports of the return; there is always one at the end.
        device: where the networks learn; the environments run on the CPU.
        progress: whether to show a progress bar.

    Returns:
        The ``History``. Its frame has the column "return": the true rewards since the last report,
        random actions included, divided by the number of episodes that ended (at least 1). Its
        models return (n, actions, outputs).

    Raises:
        ValueError: for an environment that gymnasium doesn't know or that has other actions or
            observations, for sizes out of range, and for knobs that the loss refuses.
    """
    _check_sizes(seeds, outputs, steps, n_envs, batch_size, memory, hidden, every)
    shares = {"discount": discount, "exploration": exploration, "target_rate": target_rate}
    for name, share in shares.items():
        in_range(name, share, at_least=0, at_most=1)
    in_range("reward_noise", reward_noise, at_least=0)
    settings = grid_settings(grid or {})
    for setting in settings:
        positive("learning_rate", setting.get("learning_rate", learning_rate))
    _try_loss(loss, values, outputs, settings)

    device = torch.device(device)
    rows = replica_rows(range(seeds), settings)
    chance = _Chance([replica_seed(seed, i) for i in range(seeds)], len(settings), device)
    players = _Players(environment, chance.replica_seeds, n_envs, device)
    learner = _Learner(players, hidden, outputs, loss, values, rows, learning_rate, chance)
    replay = _Replay(len(rows), memory, players.n_inputs, device)
    recorder = Recorder(rows, every, steps)

    with (
        closing(players),
        isolated_rng(seed, device),
        recorder.catch_interrupt(),
        progress_bar(steps, progress) as bar,
    ):
        for step in range(1, steps + 1):
            epsilon = max(1 - (1 - exploration) * 5 * step / steps, exploration)
            at_random = (chance.uniform(n_envs) * players.n_actions).long()
            greedy = learner.values_of(players.observations).argmax(-1)
            actions = torch.where(chance.uniform(n_envs) < epsilon, at_random, greedy)
            replay.add(*players.play(actions, reward_noise * chance.normal(n_envs)))
            batch = replay.batch(chance.uniform(batch_size))
            recorder.add_step(*learner.learn(*batch, discount, target_rate))
            if recorder.is_due(step):
                recorder.add_scores(step, {"return": players.returns()})
            bar(step)

    history = recorder.history(learner.learned(), {}, learner.template)
    warn_of_stopped(history)
    return history


class _Chance:
    """Random numbers for all replicas; those of one seed get the same."""

    def __init__(self, seeds: list[int], copies: int, device: torch.device):
        self.seeds, self.copies, self.device = seeds, copies, device
        self.generators = [batch_generator(seed) for seed in seeds]

    @property
    def replica_seeds(self) -> list[int]:
        return [seed for seed in self.seeds for _ in range(self.copies)]

    def uniform(self, n: int) -> Tensor:
        return self._spread([torch.rand(n, generator=g) for g in self.generators])

    def normal(self, n: int) -> Tensor:
        return self._spread([torch.randn(n, generator=g) for g in self.generators])

    def _spread(self, draws: list[Tensor]) -> Tensor:
        return repeat_replicas(torch.stack(draws), self.copies).to(self.device)


class _Players:
    """The environments of all replicas, stepped together."""

    def __init__(self, environment, seeds: list[int], n_envs: int, device: torch.device):
        from gymnasium import spaces, vector

        make = _maker(environment)
        self.envs = vector.SyncVectorEnv([make] * (len(seeds) * n_envs))
        self.shape, self.device = (len(seeds), n_envs), device
        self.space = self.envs.single_observation_space
        actions = self.envs.single_action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"environment must have discrete actions, got {actions}")
        if not isinstance(self.space, spaces.Box | spaces.Discrete):
            raise ValueError(
                f"environment must have a Box of observations or discrete ones, got {self.space}"
            )
        self.is_discrete = isinstance(self.space, spaces.Discrete)
        self.n_inputs = int(self.space.n if self.is_discrete else math.prod(self.space.shape))
        self.n_actions, self.first_action = int(actions.n), int(actions.start)
        states = [np.random.SeedSequence(seed).generate_state(n_envs) for seed in seeds]
        observations, _ = self.envs.reset(seed=np.concatenate(states).tolist())
        self.observations = self._tensor(observations)
        self.begins = np.zeros(len(seeds) * n_envs, dtype=bool)
        self._forget()

    def play(self, actions: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Act once everywhere; returns the transitions, and which of them count.

        After the end of an episode an environment ignores one action, and begins anew.
        """
        before, counts = self.observations, ~self.begins
        chosen = actions.flatten().cpu().numpy() + self.first_action
        after, rewards, terminated, truncated, _ = self.envs.step(chosen)
        self.begins = terminated | truncated
        self.observations = self._tensor(after)
        rewards, terminated, counts, ended = (
            torch.as_tensor(array, device=self.device).reshape(self.shape)
            for array in (rewards, terminated, counts, self.begins)
        )
        self.earned += rewards.sum(1)
        self.ended += ended.sum(1)
        not_done = (~terminated).float()
        return before, actions, rewards.float() + noise, not_done, self.observations, counts

    def returns(self) -> Tensor:
        """Rewards per finished episode since the last call, for each replica."""
        returns = self.earned / self.ended.clamp(min=1)
        self._forget()
        return returns

    def close(self) -> None:
        self.envs.close()

    def _forget(self) -> None:
        self.earned = torch.zeros(self.shape[0], dtype=torch.float64, device=self.device)
        self.ended = torch.zeros(self.shape[0], dtype=torch.int64, device=self.device)

    def _tensor(self, observations: np.ndarray) -> Tensor:
        if self.is_discrete:
            observations = np.eye(self.n_inputs)[observations - self.space.start]
        flat = observations.reshape(*self.shape, self.n_inputs)
        return torch.as_tensor(flat, dtype=torch.float32, device=self.device)


class _Replay:
    """Each replica's last transitions, in a ring; one row more takes what does not count."""

    def __init__(self, replicas: int, size: int, n_inputs: int, device: torch.device):
        def empty(*shape, dtype=torch.float32):
            return torch.zeros(replicas, size + 1, *shape, dtype=dtype, device=device)

        actions = empty(dtype=torch.int64)
        self.fields = (empty(n_inputs), actions, empty(), empty(), empty(n_inputs))
        self.size = size
        self.seen = torch.zeros(replicas, 1, dtype=torch.int64, device=device)
        self.replica = torch.arange(replicas, device=device)[:, None]

    def add(self, *transitions: Tensor) -> None:
        *fields, counts = transitions
        place = (self.seen + counts.cumsum(1) - 1) % self.size
        place = torch.where(counts, place, self.size)
        for kept, new in zip(self.fields, fields, strict=True):
            kept[self.replica, place] = new
        self.seen += counts.sum(1, keepdim=True)

    def batch(self, uniform: Tensor) -> list[Tensor]:
        index = (uniform * self.seen.clamp(max=self.size)).long()
        return [kept[self.replica, index] for kept in self.fields]


class _Learner:
    """The networks of all replicas, their target networks and their optimizer."""

    def __init__(self, players, hidden, outputs, loss, values, rows, learning_rate, chance):
        sizes = (players.n_inputs, *hidden, players.n_actions * outputs)
        shape = nn.Unflatten(-1, (players.n_actions, outputs))
        device = players.device
        models = [
            make_module(lambda: mlp(sizes).append(shape), seed, device) for seed in chance.seeds
        ]
        self.template, self.values = models[0], values
        self.parameters, _ = stack_models(models, chance.copies)
        self.target = {name: parameter.clone() for name, parameter in self.parameters.items()}
        self.trainable = [parameter.requires_grad_() for parameter in self.parameters.values()]

        def column(name, default=0.0):
            column = [row.get(name, default) for row in rows]
            return torch.tensor(column, dtype=torch.float32, device=device)

        self.knobs = {name: column(name) for name in _loss_knobs(rows[0]) if name != "seed"}
        rates = column("learning_rate", learning_rate)
        self.optimizer = StackedOptimizer(self.trainable, "adam", rates, torch.zeros_like(rates))
        self.active = torch.ones(len(rows), dtype=torch.bool, device=device)
        call = vmap_replicas(stateful(self.template, lambda model, x: model(x)), (0, 0, 0))
        self.forward = lambda parameters, inputs: call(parameters, {}, inputs)[0]
        self.losses_of = vmap_replicas(
            lambda o, t, knobs: check_scalar(loss(o, t, **knobs)), (0, 0, 0)
        )

    @torch.no_grad()
    def values_of(self, observations: Tensor) -> Tensor:
        return self.values(self.forward(self.parameters, observations))

    def learn(
        self, before, actions, rewards, not_done, after, discount, target_rate
    ) -> tuple[Tensor, Tensor]:
        """Update once; returns the losses, and which replicas are still finite."""
        with torch.no_grad():
            best = self.values(self.forward(self.target, after)).amax(-1)
            targets = rewards + discount * not_done * best
        of_all = self.forward(self.parameters, before)
        index = actions[..., None, None].expand(-1, -1, 1, of_all.shape[-1])
        losses = self.losses_of(of_all.gather(2, index).squeeze(2), targets, self.knobs)
        gradients = torch.autograd.grad(losses.sum(), self.trainable)
        gradients = self.optimizer.join(gradients)
        losses = losses.detach()
        self.active = self.active & torch.isfinite(losses) & all_finite(gradients, losses)
        self.optimizer.step_joined(gradients, self.active)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.target[name].lerp_(parameter, target_rate)
        return losses, self.active

    def learned(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.parameters.items()}


def _maker(environment) -> Callable:
    """A function that makes the environment; raises if gymnasium can't make it."""
    if callable(environment):
        return environment
    import gymnasium

    def make():
        return gymnasium.make(environment, disable_env_checker=True)

    try:
        make().close()
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(
            f"environment must be one that gymnasium can make, got {environment!r}: {error}"
        ) from error
    return make


def _check_sizes(seeds, outputs, steps, n_envs, batch_size, memory, hidden, every) -> None:
    sizes = {"seeds": seeds, "outputs": outputs, "steps": steps, "n_envs": n_envs}
    sizes |= {"batch_size": batch_size, "every": 1 if every is None else every}
    for name, size in sizes.items():
        in_range(name, size, at_least=1)
    in_range("memory", memory, at_least=n_envs)
    for width in hidden:
        in_range("every width in hidden", width, at_least=1)


def _loss_knobs(setting: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in setting.items() if name != "learning_rate"}


def _try_loss(loss, values, outputs: int, settings: list[dict[str, float]]) -> None:
    """Call loss and values once with plain numbers: under vmap a loss can't check its knobs."""
    some = torch.zeros(2, outputs)
    found = values(some[None])
    if found.shape != (1, 2):
        raise ValueError(
            f"values must read one number from each {outputs} outputs, "
            f"got shape {tuple(found.shape)} for {tuple(some[None].shape)}"
        )
    for setting in settings:
        check_scalar(loss(some, torch.zeros(2), **_loss_knobs(setting)))
