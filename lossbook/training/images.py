"""Convolutional networks under vmap: replicas become channels, and activations are not copied.

vmap makes one grouped convolution of those of R replicas, with the channels of all of them, but one
pooling with R times the samples. Between the two it reorders all activations, and the pooling then
runs torch's slowest kernel. Here poolings take replicas as channels, too, and activations stay in
the order "channels last", for which the CPU has fast kernels. Values and gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

POOLINGS = (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


class ReplicasAsChannels(TorchFunctionMode):
    """While active, convolutions and poolings of images on the CPU treat replicas as channels."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        images, *others = args or (None,)
        call = partial(func, **(kwargs or {}))
        if func is torch.conv2d and _are_images(images):
            return call(_ByChannel.apply(_channels_last, images), *others)
        if func in POOLINGS and _are_images(images):
            return _ByChannel.apply(lambda x: call(x, *others), images)
        return call(*args)


def _are_images(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.ndim == 4 and argument.device.type == "cpu"


def _channels_last(images: Tensor) -> Tensor:
    # A view, since an autograd.Function may not return its input.
    return images.contiguous(memory_format=torch.channels_last).view_as(images)


class _ByChannel(torch.autograd.Function):
    """A function of images that treats each channel alone; under vmap, replicas are channels."""

    @staticmethod
    def forward(function: Callable[..., Tensor], *images: Tensor):
        return function(*images)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.function, *images = inputs
        ctx.save_for_backward(*images)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        def slope(i: int, *images: Tensor):  # is itself a function that treats each channel alone
            *images, gradient = images
            return torch.func.vjp(ctx.function, *images)[1](gradient)[i]

        slopes = (
            _ByChannel.apply(partial(slope, i), *ctx.saved_tensors, gradient) if wanted else None
            for i, wanted in enumerate(ctx.needs_input_grad[1:])
        )
        return None, *slopes

    @staticmethod
    def vmap(info, in_dims, function, *images: Tensor):
        every = [
            x[None].expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(images, in_dims[1:], strict=True)
        ]
        merged = function(*(x.movedim(0, 1).flatten(1, 2) for x in every))
        return merged.unflatten(1, (info.batch_size, -1)), 1
