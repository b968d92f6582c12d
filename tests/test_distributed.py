"""Each test compares what two and four processes returned with one process and the whole batch."""

from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from test_chunking import LargestTensor
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from lossbook import baselines
from lossbook.classification import mann_whitney_loss, mann_whitney_retrieval_loss
from lossbook.distributed import across_ranks
from lossbook.metric_learning import metrix_loss, multi_similarity_loss, unpg_loss
from lossbook.self_supervised import hard_contrastive_loss, simple_contrastive_loss

TWO_VIEWS = {
    "info_nce": partial(baselines.info_nce_loss, temperature=0.2),
    "nt_xent": partial(baselines.nt_xent_loss, temperature=0.2),
    "n_pairs": partial(baselines.n_pairs_loss, l2_weight=0.1),
    "hard_contrastive": partial(hard_contrastive_loss, hard_fraction=0.4),
    "simple_contrastive": simple_contrastive_loss,
}
LABELLED = {
    "supcon": partial(baselines.supcon_loss, temperature=0.2),
    "pair_contrastive": partial(baselines.pair_contrastive_loss, margin=0.1),
    "triplet": partial(baselines.triplet_loss, margin=0.2),
    "multi_similarity": multi_similarity_loss,
    "metrix": partial(metrix_loss, mix=0.3),
    "metrix anchor-negative": partial(metrix_loss, pairing="anchor-negative"),
}
SCORED = {"mann_whitney": mann_whitney_loss, "retrieval": mann_whitney_retrieval_loss}
LOSSES = TWO_VIEWS | LABELLED | SCORED
CHUNK_SIZES = [None, 2]
ROWS = {2: [(4, 4), (7, 4), (0, 5), (1, 0)], 4: [(2, 2, 2, 2), (5, 1, 3, 2), (0, 6, 0, 1)]}
SPLITS = [(world, rows) for world in ROWS for rows in ROWS[world]]
BIG = 128  # rows of each rank where memory is measured


def batch(name, n):
    """The whole batch, the same in every process."""
    generator = torch.Generator().manual_seed(n)
    a, b = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (n,), generator=generator)
    if name in TWO_VIEWS:
        return F.normalize(a, dim=1), F.normalize(b, dim=1)
    if name in LABELLED:
        return F.normalize(a, dim=1), labels
    return (a, labels, b > 1) if name == "retrieval" else (a[:, 0], (labels > 0).double())


def value_and_gradients(loss, tensors, **knobs):
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in tensors]
    value = loss(*leaves, **knobs)
    wanted = [x for x in leaves if x.requires_grad]
    return value.detach(), torch.autograd.grad(3 * value, wanted, materialize_grads=True)


class Embedder(nn.Module):
    """A small encoder with a learnable temperature."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        self.log_temperature = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, a, b):
        embeddings = (F.normalize(self.layers(x), dim=1) for x in (a, b))
        return *embeddings, self.log_temperature.exp()


def gradients_of_model(model, loss, tensors, chunk_size):
    z1, z2, temperature = model(*tensors)
    loss(z1, z2, temperature=temperature, chunk_size=chunk_size).backward()
    return [p.grad.clone() for p in model.parameters()]


# What each process does --------------------------------------------------------------------------


def split(tensors, rows):
    return [x.split(rows)[dist.get_rank()] for x in tensors]


def run_losses(world):
    for rows in ROWS[world]:
        for name, loss in LOSSES.items():
            own = split(batch(name, sum(rows)), rows)
            for chunk_size in CHUNK_SIZES:
                got = value_and_gradients(across_ranks(loss), own, chunk_size=chunk_size)
                yield (name, rows, chunk_size), got


def run_model(world):
    rows = ROWS[world][1]
    own = split(batch("nt_xent", sum(rows)), rows)
    for chunk_size in CHUNK_SIZES:
        model = DistributedDataParallel(Embedder())
        loss = across_ranks(baselines.nt_xent_loss)
        yield ("model", chunk_size), gradients_of_model(model, loss, own, chunk_size)

    @partial(torch.compile, backend="eager")
    def compiled(*tensors):
        return across_ranks(baselines.nt_xent_loss)(*tensors)

    yield "compiled", compiled(*own)


def run_memory(world):
    z1, z2 = (torch.randn(BIG, 4).requires_grad_() for _ in range(2))
    for chunk_size in (None, 8):
        with LargestTensor() as largest:
            across_ranks(baselines.nt_xent_loss)(z1, z2, chunk_size=chunk_size).backward()
        yield ("memory", chunk_size), largest.entries


def run_other_inputs(world):
    for dtype in (torch.float16, torch.bfloat16):
        own = [x.to(dtype) for x in split(batch("nt_xent", 8), ROWS[world][0])]
        yield dtype, value_and_gradients(across_ranks(baselines.nt_xent_loss), own)
    own = split(batch("nt_xent", 8), ROWS[world][0])
    queries, keys = own[0].requires_grad_(), own[1]
    across_ranks(baselines.info_nce_loss)(queries, keys=keys).backward()
    yield "queries only", (queries.grad, keys.grad)
    with torch.no_grad():
        yield "no gradient", across_ranks(baselines.info_nce_loss)(queries, keys).requires_grad


def run_group(world):
    """The last two ranks are a group of their own."""
    members = [world - 2, world - 1]
    group = dist.new_group(members)
    own = split(batch("triplet", 4 * world), [4] * world)
    if dist.get_rank() in members:
        yield "group", value_and_gradients(across_ranks(LABELLED["triplet"], group=group), own)
    elif world > 2:
        yield "group", message(across_ranks(LABELLED["triplet"], group=group), *own)


def message(loss, *tensors, **knobs):
    with pytest.raises(ValueError) as error:
        loss(*tensors, **knobs)
    return str(error.value)


def run_errors(world):
    rank, loss = dist.get_rank(), across_ranks(baselines.info_nce_loss)
    x = torch.ones(3, 2)
    odd = {
        "columns": torch.ones(3, 2 + rank),
        "dtype": x.double() if rank else x,
        "gradient": x.clone().requires_grad_(rank == 1),
        "rows": torch.ones(3 + (rank == 1), 2),
        "empty": torch.ones(0, 2),
    }
    for name, tensor in odd.items():
        yield ("error", name), message(loss, tensor if name == "empty" else x, tensor)
    yield ("error", "knobs"), message(loss, x, x, temperature=0.1 + rank)
    yield ("error", "whole"), message(across_ranks(unpg_loss), x, x, torch.zeros(3).long())
    yield "after errors", loss(x, x)


def run_rank(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        *("gloo", f"file://{folder}/store", timedelta(seconds=120)), rank=rank, world_size=world
    )
    results = {}
    for run in (run_losses, run_model, run_memory, run_other_inputs, run_group, run_errors):
        results.update(run(world))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


# What they returned ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Of each number of processes, what each of them returned."""
    results = {}
    for world in ROWS:
        folder = tmp_path_factory.mktemp(f"{world}_processes")
        torch.multiprocessing.spawn(run_rank, (world, folder), nprocs=world)
        results[world] = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    return results


assert_equal = partial(assert_close, atol=1e-10, rtol=1e-10)
worlds = pytest.mark.parametrize("world", ROWS)
chunk_sizes = pytest.mark.parametrize("chunk_size", CHUNK_SIZES)


@chunk_sizes
@pytest.mark.parametrize("world, rows", SPLITS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_one_process(ranks, name, world, rows, chunk_size):
    value, gradients = value_and_gradients(LOSSES[name], batch(name, sum(rows)))
    got = [results[name, rows, chunk_size] for results in ranks[world]]
    for own, _ in got:
        assert_equal(own, value)
    for i, gradient in enumerate(gradients):
        assert_equal(torch.cat([own[i] for _, own in got]), world * gradient)


@chunk_sizes
@worlds
def test_a_model_under_ddp_has_the_gradient_of_one_process(ranks, world, chunk_size):
    tensors = batch("nt_xent", sum(ROWS[world][1]))
    expected = gradients_of_model(Embedder(), baselines.nt_xent_loss, tensors, None)
    for results in ranks[world]:
        assert_equal(results["model", chunk_size], expected)


@worlds
def test_a_rank_holds_its_share_of_the_similarities(ranks, world):
    views = 2 * world * BIG
    for results in ranks[world]:
        assert results["memory", None] == views**2 // world
        assert results["memory", 8] == 8 * views


@worlds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(ranks, dtype, world):
    tensors = [x.to(dtype) for x in batch("nt_xent", 8)]
    value, gradients = value_and_gradients(baselines.nt_xent_loss, tensors)
    for results in ranks[world]:
        assert_close(results[dtype][0], value)
    for i, gradient in enumerate(gradients):
        got = torch.cat([results[dtype][1][i] for results in ranks[world]])
        assert_close(got, world * gradient, atol=0.02, rtol=0.02)


@worlds
def test_gradients_go_where_they_are_wanted(ranks, world):
    queries, keys = batch("nt_xent", 8)
    baselines.info_nce_loss(queries.requires_grad_(), keys).backward()
    of_queries, of_keys = zip(*(results["queries only"] for results in ranks[world]), strict=True)
    assert_equal(torch.cat(of_queries), world * queries.grad)
    assert of_keys == (None,) * world
    assert not any(results["no gradient"] for results in ranks[world])


@worlds
def test_a_training_step_may_be_compiled(ranks, world):
    value = baselines.nt_xent_loss(*batch("nt_xent", sum(ROWS[world][1])))
    for results in ranks[world]:
        assert_equal(results["compiled"], value)


@worlds
def test_a_group_is_a_batch_of_its_own(ranks, world):
    tensors = [x[-8:] for x in batch("triplet", 4 * world)]
    value, (gradient,) = value_and_gradients(LABELLED["triplet"], tensors)
    got = [results["group"] for results in ranks[world][-2:]]
    assert_equal([own for own, _ in got], [value, value])
    assert_equal(torch.cat([own for _, (own,) in got]), 2 * gradient)
    for results in ranks[world][:-2]:
        assert results["group"] == "group must contain this process, got a group of others"


ERRORS = {
    "columns": "got torch.float32 (n, 2), torch.float32 (n, 2) on rank 0 and "
    "torch.float32 (n, 2), torch.float32 (n, 3) on rank 1",
    "dtype": "torch.float32 (n, 2), torch.float64 (n, 2) on rank 1",
    "gradient": "torch.float32 (n, 2), torch.float32 (n, 2) with gradient on rank 1",
    "rows": "tensors must have one number of rows on each rank, got [3, 4] on rank 1",
    "empty": "queries must have shape (n, d) with n, d at least 1, got (0, 2)",
    "knobs": "torch.float32 (n, 2), 1.1 on rank 1",
    "whole": "each would compute the whole of unpg_loss",
}


@worlds
@pytest.mark.parametrize("name", ERRORS)
def test_all_ranks_raise_the_same_error(ranks, name, world):
    first, *others = (results["error", name] for results in ranks[world])
    assert ERRORS[name] in first
    assert others == [first] * (world - 1)


@worlds
def test_processes_are_still_in_step_after_an_error(ranks, world):
    x = torch.ones(3 * world, 2)
    for results in ranks[world]:
        assert_close(results["after errors"], baselines.info_nce_loss(x, x))


def test_without_a_process_group_it_is_the_loss_itself():
    x, labels = batch("supcon", 9)
    expected = value_and_gradients(baselines.supcon_loss, (x, labels))
    assert_equal(value_and_gradients(across_ranks(baselines.supcon_loss), (x, labels)), expected)
    assert across_ranks(baselines.supcon_loss).__name__ == "supcon_loss"
    with pytest.raises(ValueError, match="each would compute the whole of focal_loss"):
        across_ranks(baselines.focal_loss)(x, labels)
