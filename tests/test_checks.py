import re

import pytest
import torch

from lossbook import _checks


def refuses(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.no_typecheck
@pytest.mark.parametrize("value", [0, -0.1, float("nan"), True, "1", None])
def test_positive_names_the_argument_and_its_value(value):
    with refuses(f"temperature must be positive, got {value!r}"):
        _checks.positive("temperature", value)


@pytest.mark.parametrize("value", [1e-30, 2, float("inf")])
def test_positive_takes_positive_numbers(value):
    _checks.positive("temperature", value)


@pytest.mark.parametrize(
    "bounds, inside, outside, wanted",
    [
        ({"at_least": 0}, 0, -1e-9, "at least 0"),
        ({"above": 0, "at_most": 1}, 1, 0, "above 0 and at most 1"),
        ({"above": 0, "below": 1}, 0.5, 1, "above 0 and below 1"),
        ({"at_least": 1, "at_most": 3}, 3, float("nan"), "at least 1 and at most 3"),
    ],
)
def test_in_range_says_what_is_allowed(bounds, inside, outside, wanted):
    _checks.in_range("share", inside, **bounds)
    with refuses(f"share must be {wanted}, got {outside!r}"):
        _checks.in_range("share", outside, **bounds)


@pytest.mark.parametrize("check", [_checks.positive, _checks.in_range])
def test_scalar_tensors_pass_unread_and_others_do_not(check):
    check("temperature", torch.tensor(-1.0))
    with refuses("temperature must be a scalar, got a tensor of shape (3,)"):
        check("temperature", torch.ones(3))


def test_one_of_lists_the_choices():
    _checks.one_of("kind", "arc", ("arc", "cos"))
    with refuses("kind must be one of 'arc', 'cos', got 'ark'"):
        _checks.one_of("kind", "ark", ("arc", "cos"))


@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 0), (1, 2, 3)])
def test_matrix_has_rows_and_columns(shape):
    _checks.matrix("embeddings", torch.ones(1, 1))
    with refuses(f"embeddings must have shape (n, d) with n, d at least 1, got {shape}"):
        _checks.matrix("embeddings", torch.ones(shape))


def test_not_empty_shows_the_shape():
    _checks.not_empty("inputs", torch.ones(1, 2, 3))
    with refuses("inputs must not be empty, got shape (0, 3)"):
        _checks.not_empty("inputs", torch.ones(0, 3))


def test_same_shape_names_both():
    _checks.same_shape("keys", torch.ones(2, 3), "queries", torch.zeros(2, 3))
    with refuses("keys must have the shape of queries, (2, 3), got (2, 4)"):
        _checks.same_shape("keys", torch.ones(2, 4), "queries", torch.ones(2, 3))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_class_labels_are_integers_one_for_each_sample(dtype):
    _checks.class_labels(torch.zeros(3, dtype=dtype), 3)
    with refuses("labels must have shape (4,), got (3,)"):
        _checks.class_labels(torch.zeros(3, dtype=dtype), 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64])
def test_class_labels_of_another_kind_are_refused(dtype):
    with refuses(f"targets must be integers, got dtype {dtype}"):
        _checks.class_labels(torch.zeros(3, dtype=dtype), 3, "targets")
