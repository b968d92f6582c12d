"""What all commands share: how they say that an input is wrong, or that a package is missing."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click

# What a plain installation lacks, by the extra that brings it.
EXTRAS = {
    "book": (
        "nbformat",
        "nbclient",
        "papermill",
        "ipykernel",
        "jupyter_client",
        "jupyterlab",
        "matplotlib",
        "seaborn",
    ),
    "sweep": ("dask", "distributed", "bokeh", "pyarrow"),
    "bench": ("psutil", "pytorch_metric_learning"),
    "course": ("nbgrader", "nbconvert", "sphinx_revealjs", "sphinx-mathjax-offline"),
}


class BadInput(click.ClickException):
    """Something that the caller can put right: exit code 2, nothing written."""

    exit_code = 2


@contextmanager
def bad_input() -> Iterator[None]:
    """Turns a ValueError into a message and exit code 2."""
    try:
        yield
    except ValueError as error:
        raise BadInput(str(error)) from error


def expect_interrupts() -> None:
    """Keeps Ctrl-C short: asyncio would log each task that nbclient leaves behind."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class Commands(click.Group):
    """Says what to install where a command needs what a plain installation lacks."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            for extra, packages in EXTRAS.items():
                if package in packages:
                    raise BadInput(
                        f"this command needs {error.name}; install it with: "
                        f"pip install 'lossbook[{extra}]'"
                    ) from error
            raise
