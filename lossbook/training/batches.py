"""Batches for one model and for many replicas at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

Batch = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Sampler = Callable[[torch.Generator], Batch]


def _fields(batch: Batch) -> list[Any]:
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple) else [batch]


def map_batch(function: Callable[..., Any], *batches: Any) -> Any:
    """Apply function to the corresponding tensors of batches of one structure."""
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
    return map_batch(lambda tensor: tensor[index], batch)


def to_device(data: Any, device: torch.device) -> Any:
    """Move tensors; what makes batches stays as it is."""
    if callable(data) or isinstance(data, DataLoader):
        return data
    return map_batch(lambda tensor: tensor.to(device), data)


def repeat_replicas(stacked: Tensor, copies: int) -> Tensor:
    return stacked.repeat_interleave(copies, 0) if copies > 1 else stacked


def batch_generator(seed: int) -> torch.Generator:
    # Hashed, since torch.manual_seed(seed) draws the initial weights: a sampler that draws
    # normals would otherwise repeat them.
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def epoch_indices(n: int, batch_size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the indices of an epoch's minibatches, without the incomplete last one."""
    order = torch.randperm(n, generator=generator)
    return order[: n - n % batch_size].split(batch_size)


def shuffled_indices(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of minibatches, epoch after epoch."""
    while True:
        yield from epoch_indices(n, batch_size, generator)


class BatchStream:
    """Batches without end, epoch after epoch; its place is saved and found again.

    Args:
        epoch: ``epoch(generator)`` yields the batches of one epoch, at least one.
        seed: of the generator.
    """

    def __init__(self, epoch: Callable[[torch.Generator], Iterator[Batch]], seed: int):
        self.epoch = epoch
        self.generator = batch_generator(seed)
        self._begin()

    def _begin(self) -> None:
        self.start = self.generator.get_state()
        self.taken = 0
        self.batches = self.epoch(self.generator)

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        batch = next(self.batches, None)
        if batch is None:
            self._begin()
            batch = next(self.batches, None)
        if batch is None:
            raise ValueError("data must hold at least one batch, got an epoch without any")
        self.taken += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["start"])
        self._begin()
        for _ in range(state["taken"]):
            next(self)


def batch_stream(
    data: Any, seed: int, device: torch.device, batch_size: int | None = None
) -> BatchStream:
    """Return the batches of tensors, of a function of a generator, or of a DataLoader."""

    def epoch(generator):
        if callable(data):
            yield map_batch(lambda tensor: tensor.to(device), data(generator))
        elif isinstance(data, DataLoader):
            yield from _loaded(data, generator, device)
        elif batch_size is None:
            yield from repeat(data)
        else:
            for index in epoch_indices(len(_fields(data)[0]), batch_size, generator):
                yield _select(data, index.to(device))

    return BatchStream(epoch, seed)


def _loaded(loader: DataLoader, generator: torch.Generator, device: torch.device) -> Iterator:
    """Yield one epoch of a DataLoader, whose randomness is the epoch's own and not the loss's."""

    def move(value):
        return value.to(device) if isinstance(value, Tensor) else value

    seed = int(torch.randint(2**62, (), generator=generator))
    if loader.generator is not None:
        loader.generator.manual_seed(seed)
    state, batches = torch.Generator().manual_seed(seed).get_state(), None
    while True:
        with torch.random.fork_rng([]):
            torch.set_rng_state(state)
            batches = iter(loader) if batches is None else batches
            batch = next(batches, None)
            state = torch.get_rng_state()
        if batch is None:
            return
        yield map_batch(move, tuple(batch) if isinstance(batch, list) else batch)


def replica_batches(
    datasets: list[Batch | Sampler],
    batch_size: int | None,
    seeds: list[int],
    copies: int,
    device: torch.device,
) -> tuple[Iterator[Batch], Any]:
    """Return the batches of all replicas, and which of their dimensions counts replicas."""
    if callable(datasets[0]):
        streams = [batch_stream(*pair, device) for pair in zip(datasets, seeds, strict=True)]
        return (map_batch(_stack(copies), *batches) for batches in zip(*streams, strict=True)), 0
    if batch_size is None:
        batch, dims = whole_batch(datasets, copies)
        return repeat(batch), dims
    return _replica_minibatches(datasets, batch_size, seeds, copies, device), 0


def whole_batch(datasets: list[Batch], copies: int) -> tuple[Batch, Any]:
    """Return all data of all replicas, and which of their dimensions counts replicas."""
    # What all seeds share is neither stacked nor repeated.
    dims = map_batch(lambda *tensors: None if _same(tensors) else 0, *datasets)
    stack = _stack(copies)
    batch = map_batch(lambda *tensors: tensors[0] if _same(tensors) else stack(*tensors), *datasets)
    return batch, dims


def _replica_minibatches(
    datasets: list[Batch], batch_size: int, seeds: list[int], copies: int, device: torch.device
) -> Iterator[Batch]:
    streams = [
        shuffled_indices(len(_fields(dataset)[0]), batch_size, batch_generator(seed))
        for dataset, seed in zip(datasets, seeds, strict=True)
    ]
    for indices in zip(*streams, strict=True):
        yield map_batch(_take(torch.stack(indices).to(device), copies), *datasets)


def _take(indices: Tensor, copies: int) -> Callable[..., Tensor]:
    """Return a function that takes each seed's indices, shape (seeds, n), from its tensor."""
    repeated = repeat_replicas(indices, copies)

    def take(*tensors):
        if _same(tensors):
            return tensors[0][repeated]
        return _stack(copies)(*(t[index] for t, index in zip(tensors, indices, strict=True)))

    return take


def _stack(copies: int) -> Callable[..., Tensor]:
    return lambda *tensors: repeat_replicas(torch.stack(tensors), copies)


def _same(tensors: Sequence[Tensor]) -> bool:
    return all(tensor is tensors[0] for tensor in tensors)


def per_seed_data(
    data: Any, seeds: int, batch_size: int | None, device: torch.device
) -> list[Batch | Sampler]:
    """Return one dataset per seed, on the device; a tensor that occurs twice is moved once."""
    if not isinstance(data, list):
        check_data("data", data, batch_size)
        return [to_device(data, device)] * seeds
    _check_count("data", data, seeds)
    for i, dataset in enumerate(data):
        check_data(f"data[{i}]", dataset, batch_size)
    if len({callable(dataset) for dataset in data}) > 1:
        raise ValueError("data must hold either tensors for every seed or functions for every seed")
    if callable(data[0]):
        return data
    if batch_size is None:
        _check_one_shape("data", data, " when batch_size is None")
    return _moved(data, device)


def per_seed_held_out(held_out: Any, seeds: int, device: torch.device) -> list[Batch]:
    """Return one batch per seed to evaluate on; its tensors may differ in length."""
    batches = held_out if isinstance(held_out, list) else [held_out] * seeds
    _check_count("held_out", batches, seeds)
    for batch in batches:
        check_tensors("held_out", batch)
    _check_one_shape("held_out", batches)
    return _moved(batches, device)


def _check_count(name: str, data: list, seeds: int) -> None:
    if len(data) != seeds:
        raise ValueError(f"{name} must have one entry for each of {seeds} seeds, got {len(data)}")


def _check_one_shape(name: str, data: list[Batch], when: str = "") -> None:
    shapes = {tuple(tuple(tensor.shape) for tensor in _fields(batch)) for batch in data}
    if len(shapes) > 1:
        raise ValueError(
            f"{name} of different seeds must have the same shapes{when}, got {sorted(shapes)}"
        )


def _moved(data: list[Batch], device: torch.device) -> list[Batch]:
    moved: dict[int, Tensor] = {}

    def move(tensor):
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor.to(device)
        return moved[id(tensor)]

    return [map_batch(move, batch) for batch in data]


def check_data(name: str, data: Any, batch_size: int | None, *, loader: bool = False) -> None:
    if callable(data) or (loader and isinstance(data, DataLoader)):
        if batch_size is not None:
            raise ValueError("batch_size must be None when data makes its own batches")
        return
    check_tensors(name, data, " or a function of a generator,")
    lengths = sorted({len(field) for field in _fields(data)})
    if not lengths or lengths == [0]:
        raise ValueError(f"{name} must not be empty")
    if len(lengths) > 1:
        raise ValueError(f"tensors in {name} must have one first dimension, got {lengths}")
    if batch_size is not None and not 1 <= batch_size <= lengths[0]:
        raise ValueError(
            f"batch_size must be between 1 and the {lengths[0]} samples of {name}, got {batch_size}"
        )


def check_tensors(name: str, data: Any, alternative: str = "") -> None:
    if not isinstance(data, (Tensor, tuple, dict)):
        raise ValueError(
            f"{name} must be a tensor, a tuple or dict of tensors,{alternative} "
            f"got {type(data).__name__}"
        )
    for field in _fields(data):
        if not isinstance(field, Tensor) or field.dim() == 0:
            raise ValueError(f"{name} must hold tensors with a first dimension, got {field!r}")
