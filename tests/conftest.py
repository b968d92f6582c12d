"""Every test runs on one thread and starts from the same seed."""

import signal

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--jaxtyping-packages", None):
        import beartype

        # An int is welcome where a float is asked for (PEP 484); beartype wants to be told so.
        conf = beartype.BeartypeConf(is_pep484_tower=True)
        beartype.beartype = beartype.beartype(conf=conf)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
