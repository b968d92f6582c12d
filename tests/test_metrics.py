import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from lossbook import metrics


def on_circle(*degrees):
    angles = torch.tensor(degrees).double().deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def test_accuracy_counts_the_largest_logits():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0], [5.0, 4.0]])
    assert metrics.accuracy(logits, torch.tensor([0, 1, 1, 0])) == 0.75


def test_retrieval_is_zero_where_another_class_is_always_nearest():
    z, labels = on_circle(0.0, 12.0, 30.0, 90.0), torch.tensor([0, 1, 0, 1])
    assert metrics.retrieval(z, labels) == {"recall_at_1": 0, "map_at_r": 0}


def test_map_at_r_averages_the_precision_at_each_hit_among_the_first_r():
    z, labels = on_circle(0.0, 10.0, 21.0, 30.0), torch.tensor([0, 0, 1, 0])
    # With R = 2 the neighbors are: of 0: 10 (hit), 21; of 10: 0 (hit), 21; of 30: 21, 10 (hit).
    scores = metrics.retrieval(z, labels)
    assert scores["recall_at_1"] == pytest.approx(2 / 3)
    assert scores["map_at_r"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)


def test_samples_alone_in_their_class_do_not_count():
    z, labels = on_circle(0.0, 1.0, 180.0), torch.tensor([0, 0, 1])
    assert metrics.retrieval(z, labels) == {"recall_at_1": 1, "map_at_r": 1}
    assert metrics.retrieval(z, torch.arange(3)) == {"recall_at_1": 0, "map_at_r": 0}


def brute_force_retrieval(z, labels):
    recalls, averages = [], []
    s = (z @ z.T).tolist()
    for a in range(len(z)):
        order = sorted((b for b in range(len(z)) if b != a), key=lambda b: -s[a][b])
        hits = [labels[b] == labels[a] for b in order]
        if not sum(hits):
            continue
        recalls.append(hits[0])
        r = sum(hits)
        averages.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
    return {
        "recall_at_1": torch.tensor(sum(recalls) / len(recalls)),
        "map_at_r": torch.tensor(sum(averages) / len(averages)),
    }


def test_retrieval_equals_a_loop():
    z, labels = F.normalize(torch.randn(30, 4).double(), dim=-1), torch.randint(6, (30,))
    assert_close(metrics.retrieval(z, labels), brute_force_retrieval(z, labels.tolist()))


def test_retrieval_runs_for_all_replicas_at_once():
    z, labels = F.normalize(torch.randn(3, 20, 4), dim=-1), torch.randint(4, (3, 20))
    mapped = torch.func.vmap(metrics.retrieval)(z, labels)
    for i in range(3):
        one = metrics.retrieval(z[i], labels[i])
        assert_close({name: values[i] for name, values in mapped.items()}, one)


def test_nearest_neighbors_vote_and_a_tie_goes_to_the_smallest_label():
    gallery, labels = on_circle(0.0, 10.0, 20.0, 100.0), torch.tensor([2, 1, 1, 0])
    queries = on_circle(1.0, 1.0)
    votes = {1: 2, 2: 1, 3: 1, 4: 1}  # k: the label that wins
    for k, winner in votes.items():
        found = metrics.nearest_neighbor_accuracy(
            queries, torch.tensor([winner, 9]), gallery, labels, k=k
        )
        assert found == 0.5


def test_no_more_neighbors_than_gallery():
    z, labels = on_circle(0.0, 10.0), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="k must be at least 1 and at most 2, got 3"):
        metrics.nearest_neighbor_accuracy(z, labels, z, labels, k=3)


def test_verification_by_hand():
    # Positive pairs 20 and 30 apart, negative pairs 70, 90, 100 and 120.
    z, labels = on_circle(0.0, 20.0, 90.0, 120.0), torch.tensor([0, 0, 1, 1])
    scores = metrics.verification(z, labels, false_accept_rate=0.25)
    assert scores == {"true_accept_rate": 1, "overlap": 0}


def test_verification_of_mixed_up_classes():
    # Positive pairs 60 and 60 apart, negative pairs 10, 10, 50 and 70.
    z, labels = on_circle(0.0, 60.0, 10.0, 70.0), torch.tensor([0, 0, 1, 1])
    scores = metrics.verification(z, labels, false_accept_rate=0.5)
    assert scores == {"true_accept_rate": 0, "overlap": 0.75}


@pytest.mark.parametrize("rate", [0, 1, -0.5])
def test_verification_needs_a_share_between_zero_and_one(rate):
    z, labels = on_circle(0.0, 10.0), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="false_accept_rate must be above 0 and below 1"):
        metrics.verification(z, labels, false_accept_rate=rate)
