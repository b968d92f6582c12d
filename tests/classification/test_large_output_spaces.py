import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lossbook.chunking import DENSE_ENTRIES
from lossbook.classification.large_output_spaces import (
    SphericalOutput,
    decoupled_softmax_loss,
    linear_cross_entropy,
    log_taylor_softmax_loss,
    multilabel_info_nce_loss,
    soft_topk,
    soft_topk_loss,
    z_loss,
)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def value_and_gradients(function, *tensors):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


# The Z-loss and Taylor softmax ------------------------------------------------------------------


def test_z_loss_by_hand():
    logits = double([[3, 1, 1, -1], [0, 0, 0, 4]])
    z = double([2 / math.sqrt(2), -1 / math.sqrt(3)])
    expected = torch.log1p(torch.exp(0.7 * (2.5 - z))) / 0.7
    labels = torch.tensor([0, 1])
    found = z_loss(logits, labels, sharpness=0.7, offset=2.5, reduction="none")
    assert_close(found, expected)
    assert_close(z_loss(logits, labels, sharpness=0.7, offset=2.5), expected.mean())


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_z_loss_ignores_shift_and_scale(scale, shift):
    logits, labels = torch.randn(5, 7, dtype=torch.float64), torch.arange(5)
    assert_close(z_loss(scale * logits + shift, labels), z_loss(logits, labels))


def test_z_loss_has_the_gradient_of_the_paper():
    logits, label = torch.randn(1, 6, dtype=torch.float64), torch.tensor([2])
    _, gradient = value_and_gradients(lambda h: z_loss(h, label, sharpness=0.4, offset=1), logits)
    mean, spread = logits.mean(), logits.std(correction=0)
    z = (logits[0] - mean) / spread
    own = F.one_hot(label, 6)[0]
    slope = -torch.sigmoid(0.4 * (1 - z[2])) / spread
    assert_close(gradient[0], slope * (own - 1 / 6 - z[2] * z / 6))


def test_no_standardized_logit_is_larger_than_that_of_one_hot_logits():
    one_hot = F.one_hot(torch.tensor([3]), 10).double()
    best = z_loss(one_hot, torch.tensor([3]), sharpness=1, offset=3)
    assert best.item() == pytest.approx(math.log(2), abs=1e-6)  # its z is sqrt(9)
    others = z_loss(10 * torch.randn(500, 10).double(), torch.full((500,), 3), reduction="none")
    assert (others > z_loss(one_hot, torch.tensor([3]))).all()


def test_equal_logits_have_a_finite_z_loss_and_gradient():
    value, gradient = value_and_gradients(
        lambda h: z_loss(h, torch.tensor([0, 1]), sharpness=1, offset=0), torch.zeros(2, 3)
    )
    assert value.item() == pytest.approx(math.log(2))
    assert gradient.isfinite().all()


def test_log_taylor_softmax_by_hand():
    logits, labels = double([[0, 1, -2]]), torch.tensor([1])
    expected = -math.log(2.5 / (1 + 2.5 + 1))
    assert log_taylor_softmax_loss(logits, labels).item() == pytest.approx(expected)


# The output layer -------------------------------------------------------------------------------


def squared_error(label_logits, total, squares, n_classes):
    return squares - 2 * label_logits + 1


def dense_step(weight, inputs, labels, loss, rate):
    value, by_weight, by_input = value_and_gradients(
        lambda w, x: loss(x @ w.mT, labels), weight, inputs
    )
    return weight - rate * by_weight, value, by_input


LOSSES = {
    "z": ("z", lambda h, y: z_loss(h, y, sharpness=0.7, offset=4), 0.5),
    "log-taylor": ("log-taylor", log_taylor_softmax_loss, 0.5),
    "squared error": (
        squared_error,
        lambda h, y: (h - F.one_hot(y, h.shape[1])).square().sum(1).mean(),
        0.01,
    ),
}


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize("name", LOSSES)
def test_steps_are_those_of_sgd_on_the_dense_layer(float64, name, batch_size):
    loss, dense_loss, rate = LOSSES[name]
    knobs = {"sharpness": 0.7, "offset": 4} if name == "z" else {}
    layer = SphericalOutput(50, 8, loss=loss, learning_rate=rate, renew_every=23, **knobs)
    weight = layer.weight
    for _ in range(60):
        inputs, labels = torch.randn(batch_size, 8), torch.randint(50, (batch_size,))
        labels[: batch_size // 2] = labels[0]  # one row may change several times
        weight, expected, by_input = dense_step(weight, inputs, labels, dense_loss, rate)
        found, gradient = layer.step(inputs, labels)
        assert_close((found, gradient), (expected, by_input))
    assert_close(layer.weight, weight)
    assert_close(layer(inputs), inputs @ weight.mT)


def test_float32_stays_close_for_thousands_of_steps():
    layer = SphericalOutput(100, 16, learning_rate=0.5)
    weight = layer.weight.double()
    for _ in range(2500):
        inputs, labels = torch.randn(4, 16), torch.randint(100, (4,))
        weight, *_ = dense_step(weight, inputs.double(), labels, z_loss, 0.5)
        layer.step(inputs, labels)
    assert (layer.weight - weight).abs().max() < 1e-3 * weight.abs().max()


def test_renewing_changes_neither_the_weights_nor_the_sums(float64):
    layer = SphericalOutput(30, 5, learning_rate=0.3)
    for _ in range(20):
        layer.step(torch.randn(3, 5), torch.randint(30, (3,)))
    before = layer.weight, layer.products, layer.total
    layer.renew()
    assert_close((layer.weight, layer.products, layer.total), before)
    assert_close(layer.mix, torch.eye(5))


def test_the_layer_survives_a_state_dict_and_repeats_by_seed():
    def trained():
        torch.manual_seed(3)
        layer = SphericalOutput(20, 4)
        for _ in range(5):
            layer.step(torch.randn(2, 4), torch.randint(20, (2,)))
        return layer

    first, other = trained(), SphericalOutput(20, 4)
    assert_close(first.weight, trained().weight, rtol=0, atol=0)
    other.load_state_dict(first.state_dict())
    batch = torch.randn(2, 4), torch.tensor([3, 7])
    assert_close(first.step(*batch), other.step(*batch))
    assert_close(first.weight, other.weight)


def test_the_gradient_by_the_inputs_trains_what_is_below():
    layer, below = SphericalOutput(20, 4).double(), torch.nn.Linear(3, 4).double()
    inputs, labels = torch.randn(6, 3).double(), torch.randint(20, (6,))
    z_loss(below(inputs) @ layer.weight.mT, labels).backward()
    expected = below.weight.grad.clone()
    below.zero_grad()
    hidden = below(inputs)
    _, gradient = layer.step(hidden, labels)
    hidden.backward(gradient)
    assert_close(below.weight.grad, expected)


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"n_classes": 0}, "n_classes must be at least 1, got 0"),
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"loss": "softmax"}, "loss must be one of 'z', 'log-taylor', got 'softmax'"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"renew_every": 0}, "renew_every must be at least 1, got 0"),
        ({"sharpness": -1}, "sharpness must be positive, got -1"),
    ],
)
def test_bad_arguments_of_the_layer_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        SphericalOutput(**{"n_classes": 5, "dimensions": 3, **bad})


@pytest.mark.no_typecheck
def test_bad_batches_of_the_layer_are_refused():
    layer = SphericalOutput(5, 3)
    with pytest.raises(ValueError, match="labels must have shape"):
        layer.step(torch.randn(2, 3), torch.tensor([1]))
    with pytest.raises(ValueError, match="inputs must have shape"):
        layer.step(torch.randn(0, 3), torch.tensor([1]))


# Cut cross-entropy ------------------------------------------------------------------------------


def problem(n=37, d=5, c=23):
    embeddings, weight = torch.randn(n, d).double(), 2 * torch.randn(c, d).double()
    labels = torch.randint(c, (n,))
    labels[3] = labels[n - 1] = -100
    return embeddings, weight, labels


def dense(labels, softcap=None, reduction="mean"):
    def loss(embeddings, weight):
        logits = embeddings @ weight.mT
        logits = logits if softcap is None else softcap * (logits / softcap).tanh()
        return F.cross_entropy(logits, labels, reduction=reduction)

    return loss


SIZES = [{}, {"chunk_size": 8, "block_size": 5}, {"chunk_size": 100}, {"chunk_size": 1}]


@pytest.mark.parametrize("softcap", [None, 4])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_blocks_give_the_value_and_gradients_of_cross_entropy(sizes, reduction, softcap):
    embeddings, weight, labels = problem()

    def blockwise(e, w):
        return linear_cross_entropy(e, w, labels, softcap=softcap, reduction=reduction, **sizes)

    found = value_and_gradients(blockwise, embeddings, weight)
    assert_close(found, value_and_gradients(dense(labels, softcap, reduction), embeddings, weight))


def test_samples_weigh_as_the_caller_likes():
    embeddings, weight, labels = problem()
    importance = torch.rand(len(labels)).double()

    def weighted(e, w):
        losses = linear_cross_entropy(e, w, labels, reduction="none", chunk_size=7, block_size=4)
        return (losses * importance).sum()

    expected = value_and_gradients(
        lambda e, w: (dense(labels, reduction="none")(e, w) * importance).sum(), embeddings, weight
    )
    assert_close(value_and_gradients(weighted, embeddings, weight), expected)


def test_the_blockwise_gradient_passes_gradcheck():
    embeddings, weight, labels = problem(n=7, c=9)
    leaves = embeddings.requires_grad_(), weight.requires_grad_()

    def loss(e, w):
        return 3 * linear_cross_entropy(e, w, labels, chunk_size=4, block_size=4, softcap=5)

    assert torch.autograd.gradcheck(loss, leaves)


def test_a_second_backward_pass_computes_the_gradient_again():
    embeddings, weight, labels = problem()
    leaves = embeddings.requires_grad_(), weight.requires_grad_()
    loss = 2 * linear_cross_entropy(*leaves, labels, chunk_size=8)
    first = [g.clone() for g in torch.autograd.grad(loss, leaves, retain_graph=True)]
    assert_close(list(torch.autograd.grad(loss, leaves)), first)


def test_one_of_the_gradients_alone_and_none():
    embeddings, weight, labels = problem()
    _, by_embedding, by_weight = value_and_gradients(dense(labels), embeddings, weight)

    def loss(e, w):
        return linear_cross_entropy(e, w, labels, chunk_size=8, block_size=6)

    assert_close(value_and_gradients(lambda e: loss(e, weight), embeddings)[1], by_embedding)
    assert_close(value_and_gradients(lambda w: loss(embeddings, w), weight)[1], by_weight)
    with torch.no_grad():
        assert not loss(embeddings.requires_grad_(), weight).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_blocks_work_under_the_transforms_of_torch_func(reduction):
    embeddings, weight, labels = problem()
    replicas = torch.stack([embeddings, 2 * embeddings, -embeddings])

    def loss(e, w, chunk_size=8):
        losses = linear_cross_entropy(e, w, labels, chunk_size=chunk_size, reduction=reduction)
        return losses.square().sum()

    def whole(e, w):
        return loss(e, w, chunk_size=None)

    for transform in (
        lambda f: torch.func.grad(f, (0, 1))(embeddings, weight),
        lambda f: torch.func.vmap(f, (0, None))(replicas, weight),
        lambda f: torch.func.vmap(torch.func.grad(f, (0, 1)), (0, None))(replicas, weight),
    ):
        assert_close(transform(loss), transform(whole))
    shared = value_and_gradients(lambda w: torch.func.vmap(loss, (0, None))(replicas, w), weight)
    assert_close(
        shared,
        value_and_gradients(lambda w: torch.func.vmap(whole, (0, None))(replicas, w), weight),
    )


@pytest.mark.no_typecheck
def test_blocks_can_be_compiled():
    embeddings, weight, labels = problem()

    def loss(e, w):
        return linear_cross_entropy(e, w, labels, chunk_size=8, block_size=6)

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    found = value_and_gradients(compiled, embeddings, weight)
    assert_close(found, value_and_gradients(loss, embeddings, weight))


@pytest.mark.parametrize("epsilon", [0, 1e-3, 0.1, 2])
def test_filtering_leaves_out_the_blocks_whose_entries_are_all_small(epsilon):
    embeddings, weight, labels = problem()
    found = value_and_gradients(
        lambda e, w: linear_cross_entropy(
            e, w, labels, chunk_size=4, block_size=3, filter_eps=epsilon
        ),
        embeddings,
        weight,
    )
    error = (embeddings @ weight.mT).softmax(-1) - F.one_hot(labels.clamp(min=0), 23)
    kept = torch.zeros_like(error)
    for rows, columns in product(range(0, 37, 4), range(0, 23, 3)):
        block = error[rows : rows + 4, columns : columns + 3]
        kept[rows : rows + 4, columns : columns + 3] = block.abs().max() >= epsilon
    slope = error * kept * (labels >= 0)[:, None] / 35
    assert_close(found[0], dense(labels)(embeddings, weight))
    assert_close(found[1:], (slope @ weight, slope.mT @ embeddings))


def test_filtering_with_a_softcap_compares_the_softmax():
    embeddings, weight, labels = problem()
    knobs = {"softcap": 3, "chunk_size": 5, "block_size": 4}

    def loss(e, w, epsilon):
        return linear_cross_entropy(e, w, labels, filter_eps=epsilon, **knobs)

    exact, filtered, nothing = (
        value_and_gradients(lambda e, w, eps=eps: loss(e, w, eps), embeddings, weight)
        for eps in (None, 1e-9, 2)
    )
    assert_close(filtered, exact)
    assert all((gradient == 0).all() for gradient in nothing[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    embeddings, weight, labels = problem(n=200, c=50)
    embeddings, weight = embeddings.to(dtype), weight.to(dtype)

    def blockwise(e, w):
        return linear_cross_entropy(e, w, labels, chunk_size=16, block_size=8)

    found = value_and_gradients(blockwise, embeddings, weight)
    expected = value_and_gradients(dense(labels), embeddings.float(), weight.float())
    assert found[0].dtype == torch.float32
    assert_close(found[0], expected[0])
    for gradient, exact in zip(found[1:], expected[1:], strict=True):
        assert gradient.dtype == dtype
        assert_close(gradient, exact.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(blockwise(embeddings, weight), expected[0])


def test_huge_logits_stay_finite_in_blocks():
    embeddings, weight, labels = (x.float() if x.is_floating_point() else x for x in problem())
    for scale in (1e4, 1e-4):
        found = value_and_gradients(
            lambda e, w: linear_cross_entropy(e, w, labels, chunk_size=5, block_size=4),
            scale * embeddings,
            weight,
        )
        assert all(part.isfinite().all() for part in found)


def test_a_confident_gradient_keeps_its_digits():
    """p - 1 would be rounded to 6e-8; the sum over the other classes is known much better."""
    embeddings, weight = torch.tensor([[1.0]]), torch.tensor([[20.0], [0.0], [0.0]])
    labels = torch.tensor([0])
    _, gradient = value_and_gradients(
        lambda e: linear_cross_entropy(e, weight, labels, chunk_size=1), embeddings
    )
    exact = -20 * 2 * math.exp(-20) / (1 + 2 * math.exp(-20))
    assert gradient.item() == pytest.approx(exact, rel=1e-5)


def test_a_scaled_loss_keeps_small_gradients_of_half_precision():
    embeddings, weight = torch.ones(1, 1).half(), torch.tensor([[9.0], [-8.0]]).half()
    labels = torch.tensor([0])
    _, gradient = value_and_gradients(
        lambda w: 2**16 * linear_cross_entropy(embeddings, w, labels, chunk_size=1), weight
    )
    assert gradient[1].item() == pytest.approx(2**16 * math.exp(-17), rel=1e-3)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_samples_that_do_not_count_change_nothing(chunk_size):
    embeddings, weight, labels = problem()
    counting = labels != -100
    found = linear_cross_entropy(embeddings, weight, labels, chunk_size=chunk_size)
    assert_close(found, F.cross_entropy((embeddings @ weight.mT)[counting], labels[counting]))
    nobody = torch.full_like(labels, -100)
    value, *gradients = value_and_gradients(
        lambda e, w: linear_cross_entropy(e, w, nobody, chunk_size=chunk_size), embeddings, weight
    )
    assert value == 0 and all((gradient == 0).all() for gradient in gradients)


def test_a_label_outside_the_classes_raises():
    embeddings, weight, _ = problem()
    with pytest.raises(IndexError):
        labels = torch.full((37,), 23)
        linear_cross_entropy(embeddings.requires_grad_(), weight, labels, chunk_size=8)


def test_many_logits_are_never_held_whole():
    n, c = 512, DENSE_ENTRIES // 256
    embeddings, weight = torch.randn(n, 4), torch.randn(c, 4).requires_grad_()
    labels, largest = torch.randint(c, (n,)), []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        linear_cross_entropy(embeddings, weight, labels).backward()
    assert max(largest) == 64 * c  # a chunk of 64 samples, and 2 n c = 2^23 are not held


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"filter_eps": -1}, "filter_eps must be at least 0, got -1"),
        ({"softcap": 0}, "softcap must be positive, got 0"),
        ({"reduction": "max"}, "reduction must be one of 'mean', 'sum', 'none', got 'max'"),
        ({"weight": torch.randn(3, 4)}, "weight must have as many columns as embeddings, 5, got 4"),
    ],
)
def test_bad_arguments_of_linear_cross_entropy_are_refused(bad, message):
    embeddings, weight, labels = problem()
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(embeddings, bad.pop("weight", weight), labels, **bad)


# Several positives ------------------------------------------------------------------------------


def random_positives(n=6, n_labels=9):
    scores = 2 * torch.randn(n, n_labels, dtype=torch.float64)
    positives = torch.rand(n, n_labels) < 0.4
    positives[0], positives[1] = False, True
    return scores, positives


def by_a_loop(scores, positives, rivals):
    """Mean over queries of the mean over positives of -log(e^s / (sum over rivals of e^s))."""
    queries = []
    for row, correct in zip(scores, positives, strict=True):
        terms = [
            -math.log(math.exp(row[i]) / sum(math.exp(row[j]) for j in rivals(i, correct)))
            for i in range(len(row))
            if correct[i]
        ]
        queries += [sum(terms) / len(terms)] if terms else []
    return sum(queries) / len(queries)


def test_multilabel_info_nce_by_a_loop():
    scores, positives = random_positives()
    expected = by_a_loop(scores, positives, lambda i, correct: range(len(correct)))
    assert multilabel_info_nce_loss(scores, positives).item() == pytest.approx(expected)


def test_decoupled_softmax_by_a_loop():
    scores, positives = random_positives()

    def rivals(i, correct):
        return [i, *(j for j in range(len(correct)) if not correct[j])]

    expected = by_a_loop(scores, positives, rivals)
    assert decoupled_softmax_loss(scores, positives).item() == pytest.approx(expected)


def test_with_one_positive_both_are_cross_entropy():
    scores, labels = torch.randn(8, 5), torch.randint(5, (8,))
    positives = F.one_hot(labels, 5).bool()
    for loss in (multilabel_info_nce_loss, decoupled_softmax_loss):
        assert_close(loss(scores, positives), F.cross_entropy(scores, labels))


def test_only_info_nce_pushes_a_positive_down():
    scores, positives = random_positives()
    _, coupled = value_and_gradients(lambda s: multilabel_info_nce_loss(s, positives), scores)
    _, decoupled = value_and_gradients(lambda s: decoupled_softmax_loss(s, positives), scores)
    assert (coupled[positives] > 0).any()
    assert (decoupled[positives] <= 0).all() and (decoupled[~positives] >= 0).all()


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("scale", [1e-3, 1, 30, 1e4])
def test_a_selection_adds_up_to_k_and_keeps_the_order(k, scale):
    scores = scale * torch.randn(50, 9, dtype=torch.float64)
    selection = soft_topk(scores, k=k, sharpness=1.3)
    assert_close(selection.sum(-1), torch.full((50,), float(k)).double())
    order = scores.argsort(-1)
    assert (selection.gather(-1, order).diff(dim=-1) >= 0).all()


def test_a_selection_by_hand():
    """One of two: sigmoid(a (s + t)) adds up to 1 for t halfway between the scores."""
    found = soft_topk(double([[1.0, 0.2]]), k=1, sharpness=3)
    assert_close(found, torch.sigmoid(double([[1.2, -1.2]])))
    even = soft_topk(torch.zeros(1, 7), k=3)
    assert_close(even, torch.full((1, 7), 3 / 7))


def test_a_sharp_selection_is_the_top_k():
    scores = torch.randn(20, 12, dtype=torch.float64)
    chosen = torch.zeros_like(scores).scatter(-1, scores.topk(4).indices, 1)
    gap = -scores.sort(-1, descending=True).values[:, 3:5].diff(dim=-1).max().item()
    assert_close(soft_topk(scores, k=4, sharpness=60 / gap), chosen, rtol=0, atol=1e-9)


def test_the_jacobian_is_that_of_the_implicit_function():
    scores = torch.randn(9, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda s: soft_topk(s[None], k=3, sharpness=1.7)[0])(scores)
    z = soft_topk(scores[None], k=3, sharpness=1.7)[0]
    v = 1.7 * z * (1 - z)
    assert_close(jacobian, torch.diag(v) - torch.outer(v, v) / v.sum())


def test_soft_topk_passes_gradcheck_in_scores_and_sharpness():
    scores = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    sharpness = double(1.5).requires_grad_()
    for k in (1, 4, 7):
        assert torch.autograd.gradcheck(
            lambda s, a, k=k: soft_topk(s, k=k, sharpness=a), (scores, sharpness)
        )


def test_soft_topk_loss_is_the_mean_logarithm_of_the_positives_selection():
    scores, positives = random_positives()
    z = soft_topk(scores, k=3, sharpness=2)
    terms = [-z[i][positives[i]].log().mean() for i in range(1, 6) if positives[i].any()]
    found = soft_topk_loss(scores, positives, k=3, sharpness=2)
    assert_close(found, torch.stack(terms).mean())


def test_soft_topk_loss_is_finite_where_a_positive_is_hopeless():
    scores = torch.tensor([[1e4, 1e4, 0, -1e4]])
    positives = torch.tensor([[False, False, False, True]])
    value, gradient = value_and_gradients(lambda s: soft_topk_loss(s, positives, k=2), scores)
    assert value.isfinite() and gradient.isfinite().all()
    assert gradient[0, 3] < 0


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"k": 0}, "k must be at least 1 and below 9, got 0"),
        ({"k": 9}, "k must be at least 1 and below 9, got 9"),
        ({"sharpness": 0}, "sharpness must be positive, got 0"),
    ],
)
def test_bad_arguments_of_soft_topk_are_refused(bad, message):
    scores, positives = random_positives()
    with pytest.raises(ValueError, match=message):
        soft_topk(scores, **bad)
    with pytest.raises(ValueError, match=message):
        soft_topk_loss(scores, positives, **bad)
