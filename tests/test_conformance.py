"""What every objective promises, checked for each one that the book has."""

import copy
import inspect
import itertools
import re

import pytest
import torch
from conformance import (
    Case,
    annotations,
    dimensions,
    documented,
    listed,
    sections,
    values_outside,
)
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves, tree_map

LISTED = listed()
OBJECTIVES = [objective for objective in LISTED if objective.is_function_of_tensors]
VARIANTS = [(objective, knobs) for objective in OBJECTIVES for knobs in objective.variants()]

each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
each_listed = pytest.mark.parametrize("objective", LISTED, ids=lambda o: o.name)
each_variant = pytest.mark.parametrize(
    "objective, knobs",
    VARIANTS,
    ids=["-".join([o.name, *(f"{n}={v}" for n, v in k.items())]) for o, k in VARIANTS],
)
edge_cases = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(extreme=True), id="logits of 10,000"),
        pytest.param(Case({"n": 1}), id="one sample"),
        pytest.param(Case({"c": 1}, n_labels=1), id="one class"),
        pytest.param(Case({"c": 6}, n_labels=6), id="no positive pair"),
        pytest.param(Case(n_labels=1), id="no negative pair"),
    ],
)

BANNED = {"T", "lam", "lambda_", "temp", "tau_", "x", "y"}


# What it looks like -----------------------------------------------------------------------------


@each_objective
def test_signature_has_data_first_and_keyword_only_knobs(objective):
    assert not BANNED & set(objective.parameters)
    for name, parameter in objective.parameters.items():
        assert name in objective.hints, f"{name} has no annotation"
        if name in objective.data:
            is_tensor = name in objective.tensors
            assert is_tensor or "Callable" in str(parameter.annotation), f"{name} is no data"
        else:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    bare = [name for name, hint in objective.hints.items() if hint is torch.Tensor]
    assert set(bare) <= ({"return"} if "reduction" in objective.knobs else set())


@each_objective
def test_a_temperature_is_called_temperature(objective):
    texts = documented(objective)
    assert not [n for n in ("t", "tau") if re.search(r"\btemperature\b", texts.get(n, ""))]


@each_listed
def test_docstring_has_formula_arguments_result_errors_and_reference(objective):
    found = sections(objective)
    summary, _, rest = found[""].partition("\n\n")
    assert "\n" not in summary and summary.endswith(".")
    assert {"Args", "Raises"} <= set(found)
    if inspect.isfunction(objective.function):  # a module's formula may stand at its function
        assert ".. math::" in rest or ":math:" in rest
        assert "Returns" in found
    assert "Reference" in found or "References" in found
    assert list(documented(objective)) == list(objective.parameters)
    assert all(documented(objective).values())


# What it computes -------------------------------------------------------------------------------


@each_variant
def test_gradients_are_those_of_finite_differences(objective, knobs):
    skip_unless_differentiable(objective)
    inputs = with_gradients(objective.inputs())
    leaves = {name: x for name, x in inputs.items() if needs_gradient(x)}

    def value(*tensors):
        return objective(inputs | dict(zip(leaves, tensors, strict=True)), **knobs)

    assert torch.autograd.gradcheck(value, tuple(leaves.values()))


@edge_cases
@each_variant
def test_values_and_gradients_stay_finite(objective, knobs, case):
    inputs = with_gradients(objective.inputs(case, torch.float32))
    try:
        outputs = tree_leaves(objective(inputs, **knobs))
    except ValueError as error:
        assert "at least 2" in str(error) and case.size("n") == 1
        return
    assert all(output.isfinite().all() for output in outputs)
    values = [output for output in outputs if output.is_floating_point()]
    if values:
        sum(value.sum() for value in values).backward()  # a loss of zero has a graph too
    gradients = [x.grad for x in inputs.values() if needs_gradient(x) and x.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_variant
def test_half_precision_inputs_are_computed_in_float32(objective, knobs, dtype):
    inputs = with_gradients(objective.inputs(dtype=dtype))
    outputs = tree_leaves(objective(inputs, **knobs))
    assert all(output.isfinite().all() for output in outputs)
    if objective.is_random:
        return
    full = tree_leaves(objective(converted(inputs, torch.float32), **knobs))
    for output, expected in zip(outputs, full, strict=True):
        assert_close(output, expected.to(output.dtype))


@each_variant
def test_autocast_rounds_the_model_but_not_the_objective(objective, knobs):
    inputs = objective.inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = objective(inputs, **knobs)
    tolerance = 0.02 if "model" in inputs else 1e-5
    expected = objective(inputs, **knobs)
    assert_close(outputs, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


@each_variant
def test_vmap_over_replicas_equals_a_loop(objective, knobs):
    replicas = [objective.inputs(Case(seed=seed)) for seed in range(3)]
    tensors = [{n: x for n, x in r.items() if isinstance(x, torch.Tensor)} for r in replicas]

    def value(batch):
        return objective(replicas[0] | batch, **knobs)

    mapped = torch.func.vmap(value, randomness="different")(stacked(tensors))
    assert all(output.isfinite().all() for output in tree_leaves(mapped))
    if not objective.is_random:
        assert_close(mapped, stacked([value(batch) for batch in tensors]))


@each_objective
def test_vmap_over_knobs_equals_a_loop(objective):
    inputs, scalars = objective.inputs(), objective.scalars
    if not scalars:
        pytest.skip("no knob may differ between replicas")
    grid = [{n: value * share for n, value in scalars.items()} for share in (1.0, 0.8)]
    tensors = {n: torch.tensor([knobs[n] for knobs in grid], dtype=torch.float64) for n in scalars}
    mapped = torch.func.vmap(lambda knobs: objective(inputs, **knobs), randomness="same")(tensors)
    assert_close(mapped, stacked([objective(inputs, **knobs) for knobs in grid]))


@pytest.mark.no_typecheck
@each_objective
def test_compiled_equals_eager(objective):
    inputs = objective.inputs()
    torch._dynamo.reset()
    compiled = torch.compile(objective.function, fullgraph=True, backend="eager")
    torch.manual_seed(1)
    assert_close(compiled(*inputs.values()), objective(inputs))


@each_variant
def test_is_deterministic_and_leaves_its_inputs_alone(objective, knobs):
    inputs = objective.inputs()
    before = {n: x.clone() for n, x in inputs.items() if isinstance(x, torch.Tensor)}
    assert_close(objective(inputs, **knobs), objective(inputs, **knobs), rtol=0, atol=0)
    assert all(torch.equal(inputs[name], tensor) for name, tensor in before.items())


@each_variant
def test_the_order_of_the_samples_does_not_matter(objective, knobs):
    if objective.is_random:
        pytest.skip("draws random numbers sample by sample")
    inputs, order = objective.inputs(), torch.tensor([3, 1, 5, 0, 4, 2])

    def reordered(tensor, symbols):
        for dim in [i for i, symbol in enumerate(symbols) if symbol == "n"]:
            tensor = tensor.index_select(dim, order)
        return tensor

    shuffled = {n: reordered(inputs[n], dimensions(a)) for n, a in objective.tensors.items()}
    found, expected = (tree_leaves(objective(inputs | x, **knobs)) for x in (shuffled, {}))
    shapes = [dimensions(a) for a in annotations(objective.hints["return"])]
    if knobs.get("reduction") == "none":
        shapes = ["n"]
    for one, other, symbols in itertools.zip_longest(found, expected, shapes, fillvalue=()):
        assert_close(one, reordered(other, symbols))


@pytest.mark.gpu
@each_variant
def test_gpu_equals_cpu(objective, knobs):
    if objective.is_random:
        pytest.skip("draws other random numbers there")
    inputs = objective.inputs()
    there = {n: x.cuda() if isinstance(x, torch.Tensor) else x for n, x in inputs.items()}
    assert_close(objective(there, **knobs), objective(inputs, **knobs), check_device=False)


# What it refuses --------------------------------------------------------------------------------


@pytest.mark.no_typecheck
@each_objective
def test_numbers_outside_the_documented_range_are_refused(objective):
    texts = documented(objective)
    inputs = objective.inputs()
    for name in objective.knobs:
        for value in values_outside(texts[name]):
            with pytest.raises(ValueError, match=rf"\b{name}\b") as error:
                objective(inputs, **{name: value})
            assert repr(value) in str(error.value)


@pytest.mark.no_typecheck
@each_objective
def test_floating_point_labels_are_refused(objective):
    if "labels" not in objective.tensors:
        pytest.skip("takes no labels")
    inputs = objective.inputs()
    with pytest.raises(ValueError, match="labels must be integers, got dtype torch.float64"):
        objective(inputs | {"labels": inputs["labels"].double()})


@pytest.mark.no_typecheck
@each_objective
def test_shapes_that_do_not_match_are_refused(objective):
    inputs = objective.inputs()
    symbols = {n: dimensions(annotation) for n, annotation in objective.tensors.items()}
    places = [(n, dim, s) for n, shape in symbols.items() for dim, s in enumerate(shape)]
    for name, dim, symbol in places:
        sharing = {n for n, _, s in places if s == symbol}
        if sum(s == symbol for _, _, s in places) == 1:
            continue
        longer = torch.cat([inputs[name], inputs[name].narrow(dim, 0, 1)], dim)
        with pytest.raises(ValueError, match="|".join(rf"\b{n}\b" for n in sharing)):
            objective(inputs | {name: longer})


@each_objective
def test_an_empty_batch_is_refused(objective):
    name, annotation = next(iter(objective.tensors.items()))
    symbol = dimensions(annotation)[0]
    if not symbol.isidentifier():
        pytest.skip("takes any shape, an empty one too")
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        objective(objective.inputs(Case({symbol: 0})))


# The suite itself -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, values",
    [
        ("T > 0.", [0, -1]),
        ("sharpness on positives, positive.", [0, -1]),
        ("mix in [0, 1], the share of the positive; drawn anew", [-1, 2]),
        ("alpha in (0, 1], the share", [-1, 2, 0]),
        ("in [-1.5, 1).", [-2.5, 2, 1]),
        ("n, at least 2; it matters", [1]),
        ("m >= 0, radians", [-1]),
        ("m, the similarity above which positive pairs", []),
    ],
)
def test_ranges_are_read_from_docstrings(text, values):
    found = values_outside(text)
    assert [value for value in found if value == value] == values
    assert len(found) == len(values) + bool(values), "NaN lies outside every range"


# Helpers ----------------------------------------------------------------------------------------


def skip_unless_differentiable(objective):
    if objective.is_random:
        pytest.skip("the point that it searches at random is held fixed")
    if not any(output.is_floating_point() for output in tree_leaves(objective())):
        pytest.skip("returns masks")


def needs_gradient(value):
    return isinstance(value, torch.Tensor) and value.requires_grad


def with_gradients(inputs):
    def leaf(value):
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.requires_grad_() if is_float else value

    return tree_map(leaf, copy.copy(inputs))


def converted(inputs, dtype):
    def convert(value):
        is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.detach().to(dtype) if is_float else value

    return tree_map(convert, inputs)


def stacked(replicas):
    return tree_map(lambda *parts: torch.stack(parts), *replicas)
