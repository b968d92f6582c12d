from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossbook import baselines, chunking
from lossbook.chunking import mean_over_anchors
from lossbook.metric_learning.pair_weighting import multi_similarity_loss

TWO_VIEWS = {
    "info_nce": partial(baselines.info_nce_loss, temperature=0.2),
    "nt_xent": partial(baselines.nt_xent_loss, temperature=0.2),
    "n_pairs": partial(baselines.n_pairs_loss, l2_weight=0.1),
}
LABELLED = {
    "supcon": partial(baselines.supcon_loss, temperature=0.2),
    "pair_contrastive": partial(baselines.pair_contrastive_loss, margin=0.1),
    "triplet": partial(baselines.triplet_loss, margin=0.2),
    "multi_similarity": multi_similarity_loss,
    "multi_similarity without mining": partial(multi_similarity_loss, mine=False),
}

chunk_sizes = pytest.mark.parametrize("chunk_size", [1, 2, 5, 7, 100])


def value_and_gradients(loss, tensors, weight=3.0, **knobs):
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in tensors]
    value = loss(*leaves, **knobs)
    return value, torch.autograd.grad(
        weight * value, [x for x in leaves if x.requires_grad], allow_unused=True
    )


def unit_rows(n, d=5, dtype=torch.float64):
    return F.normalize(torch.randn(n, d, dtype=dtype), dim=-1)


@chunk_sizes
@pytest.mark.parametrize("name", TWO_VIEWS)
def test_losses_of_two_views_agree_with_the_dense_path(name, chunk_size):
    views = unit_rows(7), unit_rows(7)
    dense = value_and_gradients(TWO_VIEWS[name], views, chunk_size=100)
    assert_close(value_and_gradients(TWO_VIEWS[name], views, chunk_size=chunk_size), dense)


@chunk_sizes
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 0, 3], [0] * 7, [*range(7)]], ids=str)
@pytest.mark.parametrize("name", LABELLED)
def test_losses_with_labels_agree_with_the_dense_path(name, labels, chunk_size):
    batch = unit_rows(7), torch.tensor(labels)
    dense = value_and_gradients(LABELLED[name], batch, chunk_size=100)
    assert_close(value_and_gradients(LABELLED[name], batch, chunk_size=chunk_size), dense)


def test_a_learnable_temperature_gets_its_gradient_in_chunks_too():
    views = unit_rows(7), unit_rows(7)

    def gradient(chunk_size):
        temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        loss = baselines.nt_xent_loss(*views, temperature=temperature, chunk_size=chunk_size)
        return torch.autograd.grad(loss, temperature)[0]

    assert_close(gradient(3), gradient(100))


def test_inputs_without_gradient_stay_without():
    queries, keys = unit_rows(7).requires_grad_(), unit_rows(7)
    baselines.info_nce_loss(queries, keys, chunk_size=2).backward()
    assert queries.grad.norm() > 0 and keys.grad is None
    assert not baselines.info_nce_loss(keys, keys, chunk_size=2).requires_grad


def test_gradients_are_not_computed_where_none_is_wanted():
    modes = []

    def rows(index, x):
        modes.append(torch.is_grad_enabled())
        return x[index].sum(), torch.tensor(float(len(index)))

    with torch.no_grad():
        mean_over_anchors(rows, 4, 4, torch.ones(4, requires_grad=True), chunk_size=2)
    assert modes == [False, False]


def rows_seen(n_anchors, n_others, chunk_size):
    sizes = []

    def rows(index, x):
        sizes.append(len(index))
        return x[index].sum(), torch.tensor(float(len(index)))

    value = mean_over_anchors(
        rows, n_anchors, n_others, torch.arange(1.0, n_anchors + 1), chunk_size=chunk_size
    )
    assert value == (n_anchors + 1) / 2
    return sizes


def test_size_decides_between_dense_and_chunks(monkeypatch):
    monkeypatch.setattr(chunking, "DENSE_ENTRIES", 20)
    monkeypatch.setattr(chunking, "CHUNK_ENTRIES", 15)
    assert rows_seen(4, 5, None) == [4]
    assert rows_seen(5, 5, None) == [3, 2]
    assert rows_seen(3, 1000, None) == [1, 1, 1]
    assert rows_seen(7, 5, 3) == [3, 3, 1]
    assert rows_seen(7, 5, 7) == [7]


def test_no_anchor_that_counts_gives_zero():
    x = torch.ones(4, requires_grad=True)

    def rows(index, x):
        return 0 * x[index].sum(), torch.tensor(0.0)

    for chunk_size in (2, 4):
        value = mean_over_anchors(rows, 4, 4, x, chunk_size=chunk_size)
        assert value == 0
        assert_close(torch.autograd.grad(value, x)[0], torch.zeros(4))


@pytest.mark.parametrize("chunk_size", [0, -3])
def test_a_chunk_has_at_least_one_row(chunk_size):
    with pytest.raises(ValueError, match=f"chunk_size must be at least 1, got {chunk_size}"):
        baselines.info_nce_loss(unit_rows(3), unit_rows(3), chunk_size=chunk_size)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return out


def test_nt_xent_of_8192_views_never_holds_their_similarity_matrix():
    z1, z2 = (unit_rows(4096, 8, torch.float32).requires_grad_() for _ in range(2))
    with LargestTensor() as largest:
        baselines.nt_xent_loss(z1, z2).backward()
    assert 8192 < largest.entries <= chunking.DENSE_ENTRIES < 8192**2


def test_the_dense_path_does_hold_the_similarity_matrix():
    z1, z2 = (unit_rows(32).requires_grad_() for _ in range(2))
    with LargestTensor() as largest:
        baselines.nt_xent_loss(z1, z2).backward()
    assert largest.entries == 64**2


def test_the_chunked_path_refuses_a_second_derivative():
    queries = unit_rows(4).requires_grad_()
    loss = baselines.info_nce_loss(queries, unit_rows(4), chunk_size=2)
    (gradient,) = torch.autograd.grad(loss, queries, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("order", ["outer autograd", "torch.func.grad"])
def test_chunks_under_vmap_agree_with_a_loop(name, order):
    batches, labels = (
        torch.stack([unit_rows(7) for _ in range(3)]),
        torch.tensor([0, 1, 2] * 2 + [0]),
    )

    def chunked(embeddings):
        return LABELLED[name](embeddings, labels, chunk_size=3)

    dense = [value_and_gradients(LABELLED[name], (x, labels), 1.0, chunk_size=7) for x in batches]
    expected = torch.stack([gradients[0] for _, gradients in dense])
    if order == "torch.func.grad":
        assert_close(torch.func.vmap(torch.func.grad(chunked))(batches), expected)
    else:
        leaves = batches.clone().requires_grad_()
        values = torch.func.vmap(chunked)(leaves)
        assert_close(values.detach(), torch.stack([value.detach() for value, _ in dense]))
        assert_close(torch.autograd.grad(values.sum(), leaves)[0], expected)
