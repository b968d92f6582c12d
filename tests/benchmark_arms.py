"""Arms for the tests of the benchmarks, in a module that another process imports quickly."""

import os
import signal
import time

import torch

from benchmarks.arms import Arm, Step, forward_and_backward

MEBI = 2**20
N_OPERATORS = 29


def build_known(device):
    def run():
        first = torch.ones(20 * MEBI, dtype=torch.uint8)
        second = first.clone()
        del first
        return second.repeat(2)  # 20 + 40 MiB live, after 40

    return Step(run)


def build_gradient(device):
    leaf = torch.ones(MEBI, requires_grad=True)
    return forward_and_backward(lambda: (leaf * leaf).sum(), leaf)


def build_own_process(parent, device):
    assert os.getpid() != parent
    return Step(lambda: None)


def build_too_large(device):
    return Step(lambda: torch.ones(3 * 2**30, dtype=torch.uint8))


def build_wrong(device):
    raise ValueError("size must be odd,\ngot 2")


def build_killed(device):
    return Step(lambda: os.kill(os.getpid(), signal.SIGKILL))


def build_slow(device):
    return Step(lambda: time.sleep(600))


def build_self_timed(device):
    return Step(lambda: [1.0, 30.0, float(torch.get_num_threads())])


def build_operators(device):
    x = torch.ones(3)
    return Step(lambda: [x + 1 for _ in range(N_OPERATORS)])


def arm(build, size=1, name="an arm", **settings):
    return Arm("a case", size, name, build, **settings)
