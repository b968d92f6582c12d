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


def test_top_k_accuracy_counts_labels_among_the_k_largest_logits():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 1, 2, 2])
    found = [metrics.top_k_accuracy(logits, labels, k=k).item() for k in (1, 2, 3)]
    assert found == [0.5, 0.75, 1]
    mapped = torch.func.vmap(lambda z: metrics.top_k_accuracy(z, labels, k=2))
    assert mapped(torch.stack([logits, -logits])).tolist() == [0.75, 0.5]


@pytest.mark.parametrize("k", [0, 4])
def test_top_k_accuracy_refuses_a_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k must be at least 1 and at most 3, got {k}"):
        metrics.top_k_accuracy(torch.zeros(2, 3), torch.tensor([0, 1]), k=k)


def test_binary_scores_by_hand():
    logits = torch.tensor([2.0, 1.0, -1.0, 0.5, -2.0, -3.0, -1.0, -4.0])
    targets = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])
    found = metrics.binary_scores(logits, targets)
    expected = {
        "accuracy": 6 / 8,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "balanced_accuracy": (2 / 3 + 4 / 5) / 2,
        "g_mean": (2 / 3 * 4 / 5) ** 0.5,
    }
    assert {name: score.item() for name, score in found.items()} == pytest.approx(expected)
    assert metrics.binary_scores(logits, targets, threshold=-1.5)["recall"] == 1


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_scores_of_one_class_are_numbers(target):
    for score in metrics.binary_scores(torch.randn(5), torch.full((5,), target)).values():
        assert 0 <= score <= 1


def test_roc_auc_counts_pairs_in_order_and_ties_half():
    scores = torch.tensor([0.1, 0.4, 0.4, 0.9])
    targets = torch.tensor([False, True, False, True])
    assert metrics.roc_auc(scores, targets) == (3 + 0.5) / 4
    assert metrics.roc_auc(scores, targets.float()) == (3 + 0.5) / 4
    assert metrics.roc_auc(-scores, targets) == 0.5 / 4
    assert metrics.roc_auc(scores, torch.ones(4)) == 0.5


def test_two_way_partial_auc_is_the_auc_of_the_hardest_on_both_sides():
    scores, targets = torch.randn(100, dtype=torch.float64), torch.arange(100) < 40
    scores = scores + targets
    hardest_positives = scores[targets].sort().values[:20]
    hardest_negatives = scores[~targets].sort(descending=True).values[:15]
    expected = (hardest_positives[:, None] > hardest_negatives[None, :]).double().mean()
    corner = {"max_false_positive_rate": 0.25, "min_true_positive_rate": 0.5}
    assert_close(metrics.two_way_partial_auc(scores, targets, **corner), expected)


def test_two_way_partial_auc_counts_samples_partly_inside_in_part():
    scores, targets = torch.tensor([0.9, 0.2, 0.6, 0.4, 0.1]), torch.tensor([1.0, 1, 0, 0, 0])
    # Inside: the lower positive, weight 1/2, and one and a half negatives, weights 1/3 and 1/6.
    corner = {"max_false_positive_rate": 0.5, "min_true_positive_rate": 0.5}
    assert metrics.two_way_partial_auc(scores, targets, **corner) == 0
    tied = torch.tensor([0.9, 0.4, 0.6, 0.4, 0.1])
    expected = (1 / 6) / 2 / 0.5
    assert metrics.two_way_partial_auc(tied, targets, **corner) == pytest.approx(expected)


def test_the_corner_may_be_everything():
    scores, targets = torch.randn(50).round(decimals=1), torch.arange(50) % 3 == 0
    corner = {"max_false_positive_rate": 1.0, "min_true_positive_rate": 0.0}
    found = metrics.two_way_partial_auc(scores, targets, **corner)
    assert_close(found, metrics.roc_auc(scores, targets))
    assert metrics.two_way_partial_auc(scores, torch.ones(50)) == 0.5


def test_threshold_at_fpr_lets_at_most_that_share_of_negatives_through():
    scores, targets = torch.tensor([5.0, 4, 3, 2, 1, 0]), torch.tensor([0.0, 1, 0, 0, 1, 0])
    for rate, threshold in ((0, 5), (0.2, 5), (0.25, 3), (0.74, 2), (0.99, 0)):
        found = metrics.threshold_at_fpr(scores, targets, max_false_positive_rate=rate)
        assert found == threshold


def test_scores_of_rankings_run_for_all_replicas_at_once():
    scores, targets = torch.randn(3, 40), torch.rand(3, 40) < 0.4
    for score in (metrics.two_way_partial_auc, metrics.threshold_at_fpr):
        looped = [
            score(*pair, max_false_positive_rate=0.3) for pair in zip(scores, targets, strict=True)
        ]
        mapped = torch.func.vmap(lambda s, t, f=score: f(s, t, max_false_positive_rate=0.3))
        assert_close(mapped(scores, targets), torch.stack(looped))


@pytest.mark.no_typecheck
@pytest.mark.parametrize(
    "score, bad, message",
    [
        (metrics.two_way_partial_auc, {"max_false_positive_rate": 0}, "above 0 and at most 1"),
        (metrics.two_way_partial_auc, {"min_true_positive_rate": 1}, "at least 0 and below 1"),
        (metrics.threshold_at_fpr, {"max_false_positive_rate": 1}, "at least 0 and below 1"),
    ],
)
def test_scores_of_rankings_refuse_rates_out_of_range(score, bad, message):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be {message}"):
        score(torch.rand(4), torch.tensor([1.0, 0, 1, 0]), **bad)
    with pytest.raises(ValueError, match="must not be empty"):
        score(torch.rand(0), torch.ones(0))
    with pytest.raises(ValueError, match="targets must have the shape of scores"):
        score(torch.rand(3), torch.ones(2))


def test_expected_calibration_error_by_hand():
    confidences = torch.tensor([0.3, 0.45, 0.5, 0.9, 1.0])
    correct = torch.tensor([False, True, False, True, True])
    # Two bins: three samples at 0.4167 on average, a third right; two at 0.95, both right.
    expected = 0.6 * abs(1.25 / 3 - 1 / 3) + 0.4 * 0.05
    found = metrics.expected_calibration_error(confidences, correct, bins=2)
    assert found == pytest.approx(expected)
    whole = metrics.expected_calibration_error(confidences, correct, bins=1)
    assert whole == pytest.approx(abs(0.63 - 0.6))


def test_confidence_zero_falls_into_the_first_bin():
    zero = metrics.expected_calibration_error(torch.zeros(2), torch.tensor([True, False]))
    assert zero == 0.5


def test_brier_score_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    expected = (0.25 + 0.49 + 0.04 + 0) / 2
    assert metrics.brier_score(probabilities, torch.tensor([1, 1])) == pytest.approx(expected)


def test_scores_of_confidence_run_for_all_replicas_at_once():
    probabilities, labels = torch.randn(3, 40, 5).softmax(-1), torch.randint(5, (40,))

    def scores(p):
        confidence, prediction = p.max(-1)
        correct = prediction == labels
        return (
            metrics.roc_auc(confidence, correct),
            metrics.expected_calibration_error(confidence, correct, bins=7),
            metrics.brier_score(p, labels),
        )

    for mapped, looped in zip(
        torch.func.vmap(scores)(probabilities),
        zip(*map(scores, probabilities), strict=True),
        strict=True,
    ):
        assert_close(mapped, torch.stack(looped))


@pytest.mark.no_typecheck
@pytest.mark.parametrize("score", [metrics.roc_auc, metrics.expected_calibration_error])
def test_scores_of_confidence_refuse_what_does_not_match(score):
    with pytest.raises(ValueError, match=r"must have the shape of \w+, \(3,\), got \(2,\)"):
        score(torch.rand(3), torch.ones(2))
    with pytest.raises(ValueError, match="must not be empty"):
        score(torch.rand(0), torch.ones(0))


def test_calibration_error_needs_a_bin():
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        metrics.expected_calibration_error(torch.rand(3), torch.ones(3), bins=0)


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
