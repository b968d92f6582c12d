import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch.testing import assert_close

from lossbook.agents import _Chance, _Players, _Replay, fit_agents
from lossbook.classification.regression_as_classification import categorical_value, hl_gauss_loss

CPU = torch.device("cpu")


class Corridor(gymnasium.Env):
    """Cells 1 to n in a row; right of the last is the exit, worth 1. Numbers start at 1 and 5."""

    def __init__(self, n=3):
        self.n = n
        self.observation_space = spaces.Discrete(n, start=1)
        self.action_space = spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cell = int(self.np_random.integers(self.n)) + 1
        return self.cell, {}

    def step(self, action):
        assert action in self.action_space
        self.cell = max(self.cell + (1 if action == 6 else -1), 1)
        if self.cell > self.n:
            return self.n, 1.0, True, False, {}
        return self.cell, 0.0, False, False, {}


class Clock(gymnasium.Env):
    """Counts its steps, is worth 1 each, and ends after five: as the end or as a time limit."""

    observation_space = spaces.Box(0, 9, (1, 2), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, truncated=False):
        self.truncated = truncated

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros((1, 2), np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time == 5
        seen = np.full((1, 2), self.time, np.float32)
        return seen, 1.0, over and not self.truncated, over and self.truncated, {}


def squared(outputs, targets):
    return F.mse_loss(outputs.squeeze(-1), targets)


def single(outputs):
    return outputs.squeeze(-1)


def quick(environment=Corridor, loss=squared, values=single, **changes):
    settings = {"steps": 5, "seeds": 2, "n_envs": 2, "hidden": (8,), "progress": False}
    return fit_agents(environment, loss, values, **{**settings, **changes})


# What they learn --------------------------------------------------------------------------------

EXACT = torch.tensor([[0.25 * 0.5, 0.25], [0.25 * 0.5, 0.5], [0.25, 1.0]])
"""Values of left and right in each of three cells, for a discount of one half."""


def read_hl_gauss(outputs):
    return categorical_value(outputs, low=-0.5, high=1.5)


LEARNERS = {
    "squared error": {"loss": squared, "values": single},
    "HL-Gauss": {
        "loss": lambda o, t: hl_gauss_loss(o, t, low=-0.5, high=1.5),
        "values": read_hl_gauss,
        "outputs": 21,
    },
}


@pytest.mark.parametrize("learner", LEARNERS.values(), ids=LEARNERS)
def test_values_become_those_of_the_best_policy(learner):
    history = quick(
        steps=500, discount=0.5, learning_rate=1e-2, target_rate=0.1, exploration=0.3, **learner
    )
    found = learner["values"](history.forward(torch.eye(3)))
    assert_close(found, EXACT.expand(2, -1, -1), atol=0.05, rtol=0)
    assert history.frame["return"].iloc[-1] > 0.9, "the exit is always found"


def test_noise_on_the_rewards_is_not_in_the_returns():
    history = quick(Clock, steps=12, every=6, reward_noise=100.0)
    assert history.frame["return"].dropna().tolist() == [5.0] * 4


def test_it_learns_to_balance_a_pole():
    history = quick(
        "CartPole-v1", steps=400, n_envs=8, hidden=(64, 64), target_rate=0.05, learning_rate=5e-3,
        discount=0.95, every=100,
    )  # fmt: skip
    returns = history.frame.groupby("step")["return"].mean().dropna()
    assert returns.iloc[-1] > 2 * returns.iloc[0]


# How they are paired and reported ---------------------------------------------------------------


def test_frame_and_models_have_the_replicas_knobs():
    def loss(outputs, targets, weight):
        return weight * squared(outputs, targets)

    grid = {"learning_rate": [1e-3, 1e-2], "weight": [1.0, 2.0, 3.0]}
    history = quick(loss=loss, grid=grid, every=2, outputs=1)
    assert len(history) == 12
    assert set(history.frame.columns) >= {"seed", "weight", "learning_rate", "loss", "return"}
    assert history.frame.dropna(subset=["return"])["step"].unique().tolist() == [2, 4, 5]
    assert history.model(3)(torch.eye(3)).shape == (3, 2, 1)
    losses = history.frame[history.frame["step"] == 1].groupby("weight")["loss"].mean()
    assert losses[3.0] == pytest.approx(3 * losses[1.0], rel=1e-5)


def test_one_seed_gives_one_result():
    first, second = (quick(reward_noise=1.0, steps=20) for _ in range(2))
    assert first.frame.equals(second.frame)
    other = quick(reward_noise=1.0, steps=20, seed=1)
    assert not first.frame.equals(other.frame)


def test_agents_do_not_depend_on_which_others_train():
    alone = quick(grid={"learning_rate": [1e-2]}, reward_noise=1.0, steps=20).frame
    together = quick(grid={"learning_rate": [1e-3, 1e-2]}, reward_noise=1.0, steps=20).frame
    same = together[together["learning_rate"] == 1e-2]
    np.testing.assert_allclose(same["loss"], alone["loss"], rtol=1e-4)


def test_the_global_random_state_is_unchanged():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    quick()
    assert torch.rand(1) == expected


def test_an_agent_that_diverges_stops_alone():
    with pytest.warns(RuntimeWarning, match="2 of 4 replicas stopped"):
        history = quick(grid={"learning_rate": [1e-3, 1e30]}, steps=30)
    stopped = history.replicas.set_index("learning_rate")["stopped_at"].notna()
    assert stopped[1e30].all() and not stopped[1e-3].any()
    assert all(p.isfinite().all() for p in history.parameters.values())


# Environments and memory ------------------------------------------------------------------------


def transitions_of(environment, steps):
    players = _Players(environment, [0], 1, CPU)
    action, noise = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)
    played = [players.play(action, noise) for _ in range(steps)]
    return players, [[field.squeeze() for field in fields] for fields in played]


@pytest.mark.parametrize("truncated", [False, True])
def test_a_transition_that_begins_an_episode_does_not_count(truncated):
    players, played = transitions_of(lambda: Clock(truncated), 13)
    assert [bool(counts) for *_, counts in played] == [True] * 5 + [False] + [True] * 5 + [
        False,
        True,
    ]
    kept = [fields for *fields, counts in played if counts]
    for before, _, reward, _, after in kept:
        assert reward == 1
        assert_close(after, before + 1)
    ends = [not_done.item() for before, _, _, not_done, _ in kept if before[0] == 4]
    assert ends == [float(truncated)] * 2, "a time limit is no end"
    assert players.returns().tolist() == [5.5], "11 rewards, two ends"
    assert players.returns().tolist() == [0.0], "counted anew after each report"


def test_discrete_observations_are_one_hot_from_their_start():
    players = _Players(Corridor, [0, 1], 3, CPU)
    assert players.observations.shape == (2, 3, 3) and players.n_actions == 2
    assert_close(players.observations.sum(-1), torch.ones(2, 3))
    cells = [env.unwrapped.cell for env in players.envs.envs]
    assert players.observations.argmax(-1).flatten().tolist() == [cell - 1 for cell in cells]


def test_replicas_of_one_seed_begin_in_the_same_states():
    players = _Players(Corridor, [7, 7, 8], 40, CPU)
    first, second, other = players.observations
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_the_memory_keeps_the_last_transitions_that_count():
    replay = _Replay(2, 5, 1, CPU)
    expected = [[], []]
    for step in range(9):
        number = torch.tensor([[10.0 * step, 10.0 * step + 1]] * 2)
        counts = torch.tensor([[True, step % 2 == 0], [step % 3 == 0, True]])
        replay.add(number[..., None], number.long(), number, number, number[..., None], counts)
        for row in range(2):
            expected[row] += number[row][counts[row]].tolist()
            every = torch.linspace(0, 1 - 1e-6, 50).expand(2, -1)
            found = set(replay.batch(every)[2][row].tolist())
            assert found == set(expected[row][-5:])


def test_random_numbers_are_alike_within_a_seed_and_differ_between_seeds():
    chance = _Chance([1, 2], 3, CPU)
    for draw in (chance.uniform, chance.normal):
        numbers = draw(4)
        assert numbers.shape == (6, 4)
        assert torch.equal(numbers[0], numbers[2]) and not torch.equal(numbers[2], numbers[3])


# What is refused --------------------------------------------------------------------------------


class Notes(Clock):
    observation_space = spaces.Text(9)


@pytest.mark.parametrize(
    "environment, message",
    [
        ("CartPol-v1", "environment must be one that gymnasium can make, got 'CartPol-v1'"),
        ("CartPole-v99", "environment must be one that gymnasium can make, got 'CartPole-v99'"),
        ("no_such_module:Env-v0", "got 'no_such_module:Env-v0'"),
        ("Pendulum-v1", r"environment must have discrete actions, got Box"),
        (Notes, r"environment must have a Box of observations or discrete ones, got Text"),
    ],
)
def test_environments_that_it_cannot_play_are_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        quick(environment)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"n_envs": 0}, "n_envs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"outputs": 0}, "outputs must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"hidden": (8, 0)}, "every width in hidden must be at least 1, got 0"),
        ({"memory": 1}, "memory must be at least 2, got 1"),
        ({"discount": 1.1}, "discount must be at least 0 and at most 1, got 1.1"),
        ({"exploration": -0.1}, "exploration must be at least 0 and at most 1, got -0.1"),
        ({"target_rate": 2}, "target_rate must be at least 0 and at most 1, got 2"),
        ({"reward_noise": -1}, "reward_noise must be at least 0, got -1"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"grid": {"learning_rate": [0.1, -1]}}, "learning_rate must be positive, got -1"),
        ({"outputs": 3}, "values must read one number from each 3 outputs, got shape"),
    ],
)
def test_impossible_sizes_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        quick(**bad)


def test_knobs_that_the_loss_refuses_are_refused_before_training():
    def loss(outputs, targets, sigma_ratio):
        return hl_gauss_loss(outputs, targets, sigma_ratio=sigma_ratio)

    with pytest.raises(ValueError, match="sigma_ratio must be positive, got -1"):
        quick(loss=loss, values=categorical_value, outputs=5, grid={"sigma_ratio": [-1]})
