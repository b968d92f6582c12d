"""What differs on a GPU: sizes of chunks, bfloat16, replicas of convolutions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from lossbook import chunking, metrics
from lossbook.baselines import supcon_loss
from lossbook.classification import linear_cross_entropy, pa_bce_loss
from lossbook.models import mlp
from lossbook.training import fit, fit_replicas, replica_seed

pytestmark = pytest.mark.gpu


def value_and_gradients(loss, *tensors):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("rows", [4096, 4098])
def test_a_batch_in_chunks_equals_the_whole(rows):
    embeddings = F.normalize(torch.randn(rows, 8, dtype=torch.float64), dim=-1).cuda()
    labels = (torch.arange(rows) // 3).cuda()
    size = chunking.rows_at_once(rows, rows, embeddings.device)
    assert (size == rows) == (rows * rows <= chunking.GPU_ENTRIES)

    def loss(z, chunk_size=None):
        return supcon_loss(z, labels, chunk_size=chunk_size)

    whole = value_and_gradients(partial(loss, chunk_size=rows), embeddings)
    assert_close(value_and_gradients(loss, embeddings), whole)


def problem(dtype, n=700, c=30_000, d=64):
    embeddings, weight = torch.randn(n, d, device="cuda"), torch.randn(c, d, device="cuda") / d**0.5
    labels = torch.randint(c, (n,), device="cuda")
    return embeddings.to(dtype), weight.to(dtype), labels


def dense(embeddings, weight, labels, softcap):
    logits = embeddings.double() @ weight.double().mT
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(
    ("dtype", "value_error", "slope_error"),
    [(torch.float32, 1e-6, 1e-5), (torch.bfloat16, 1e-5, 1e-2), (torch.float16, 1e-5, 1e-3)],
)
def test_a_large_vocabulary(dtype, value_error, slope_error, softcap):
    embeddings, weight, labels = problem(dtype)
    expected = value_and_gradients(lambda e, w: dense(e, w, labels, softcap), embeddings, weight)
    found = value_and_gradients(
        lambda e, w: linear_cross_entropy(e, w, labels, softcap=softcap), embeddings, weight
    )
    pairs = zip(found, expected, strict=True)
    errors = [((a.double() - b).norm() / b.norm()).item() for a, b in pairs]
    assert errors[0] < value_error
    assert max(errors[1:]) < slope_error


def test_bfloat16_needs_no_copy_of_the_weights_in_float32():
    embeddings, weight, labels = problem(torch.bfloat16, n=2048, c=131_072, d=256)
    leaves = [tensor.requires_grad_() for tensor in (embeddings, weight)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(*leaves, labels, chunk_size=64).backward()
    peak = torch.cuda.max_memory_allocated() - before
    gradients = 4 * weight.numel() + weight.nbytes  # summed in float32, then rounded
    assert peak < gradients + 6 * 64 * len(weight) + 2**25


def convnet():
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("make_model", [lambda: mlp((64, 16, 3)), convnet], ids=["mlp", "convnet"])
def test_replicas_do_what_single_models_do(make_model, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    data = torch.randn(90, 64), torch.randint(3, (90,))
    common = {"steps": 12, "batch_size": 16, "learning_rate": 0.01}
    replicas = fit_replicas(make_model, cross_entropy, data, seeds=3, device="cuda", **common)
    for i in range(3):
        torch.manual_seed(replica_seed(0, i))
        one = fit(make_model().cuda(), cross_entropy, data, seed=replica_seed(0, i), **common)
        losses = replicas.frame[replicas.frame["replica"] == i]["loss"].tolist()
        assert losses == pytest.approx(one.frame["loss"].tolist(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("make_model", [lambda: mlp((64, 16, 3)), convnet], ids=["mlp", "convnet"])
def test_bfloat16_learns_and_leaves_float32_weights(make_model):
    inputs = torch.randn(300, 64)
    data = inputs, inputs[:, :3].argmax(1)
    common = {"steps": 150, "batch_size": 64, "learning_rate": 0.01, "precision": "bfloat16"}
    torch.manual_seed(0)
    one = fit(make_model().cuda(), cross_entropy, data, **common)
    many = fit_replicas(make_model, cross_entropy, data, seeds=2, device="cuda", **common)
    for history in (one, many):
        assert all(p.dtype == torch.float32 for p in history.parameters.values())
        last = history.frame[history.frame["step"] == 150]["loss"]
        assert (last < 0.5).all()


def test_metrics_of_embeddings_on_a_gpu():
    embeddings = F.normalize(torch.randn(500, 8), dim=-1)
    labels = torch.arange(500) // 5
    there = metrics.retrieval(embeddings.cuda(), labels.cuda())
    assert_close({k: v.cpu() for k, v in there.items()}, metrics.retrieval(embeddings, labels))


def test_pair_losses_run_under_two_levels_of_vmap():
    scores, profits = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    each = torch.vmap(torch.vmap(pa_bce_loss))
    assert_close(each(scores.cuda(), profits.cuda()).cpu(), each(scores, profits))
