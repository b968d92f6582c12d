"""The same numbers as scikit-learn and torchmetrics."""

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
import torchmetrics.functional
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier
from torch.testing import assert_close

from lossbook import metrics
from lossbook.baselines import label_log_probability, pair_masks
from lossbook.metric_learning.pair_weighting import utilization
from lossbook.self_supervised.temperature import uniformity


def unit_rows(n, d=4):
    return F.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)


def test_accuracy():
    logits, labels = torch.randn(50, 4), torch.randint(4, (50,))
    expected = sklearn.metrics.accuracy_score(labels, logits.argmax(-1))
    assert metrics.accuracy(logits, labels) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_accuracy(k):
    logits, labels = torch.randn(50, 4), torch.arange(50) % 4
    expected = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k)
    assert metrics.top_k_accuracy(logits, labels, k=k) == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.7, 9.0])
def test_binary_scores(threshold):
    logits, targets = torch.randn(80), (torch.arange(80) % 5 == 0).long()
    decisions = logits > threshold
    found = metrics.binary_scores(logits, targets, threshold=threshold)
    for name in ("accuracy", "precision", "recall", "f1", "balanced_accuracy"):
        score = getattr(sklearn.metrics, f"{name}_score")
        options = {} if "accuracy" in name else {"zero_division": 0}
        assert found[name] == pytest.approx(score(targets, decisions, **options))


def test_log_loss():
    logits, labels = torch.randn(50, 4), torch.arange(50) % 4
    expected = sklearn.metrics.log_loss(labels, logits.double().softmax(-1))
    assert -label_log_probability(logits, labels).mean() == pytest.approx(expected)


def test_roc_auc_with_ties():
    scores, targets = torch.randn(100).mul(3).round(), torch.arange(100) % 3 == 0
    expected = sklearn.metrics.roc_auc_score(targets, scores)
    assert metrics.roc_auc(scores, targets) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_one_way_partial_auc(rate):
    targets = torch.arange(100) % 3 == 0
    scores = torch.randn(100, dtype=torch.float64) + targets
    # scikit-learn moves the area under the diagonal to 1/2 (McClish).
    standardized = sklearn.metrics.roc_auc_score(targets, scores, max_fpr=rate)
    least, most = rate**2 / 2, rate
    area = (2 * standardized - 1) * (most - least) + least if rate < 1 else standardized
    found = metrics.two_way_partial_auc(
        scores, targets, max_false_positive_rate=rate, min_true_positive_rate=0.0
    )
    assert found == pytest.approx(area / rate)


def test_brier_score():
    probabilities = torch.randn(50, 4, dtype=torch.float64).softmax(-1)
    labels = torch.arange(50) % 4
    expected = sklearn.metrics.brier_score_loss(labels, probabilities, scale_by_half=False)
    assert metrics.brier_score(probabilities, labels) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_nearest_neighbor_accuracy(k):
    gallery, queries = unit_rows(60), unit_rows(40)
    gallery_labels, query_labels = torch.randint(4, (60,)), torch.randint(4, (40,))
    classifier = KNeighborsClassifier(k, metric="cosine").fit(gallery, gallery_labels)
    expected = classifier.score(queries, query_labels)
    found = metrics.nearest_neighbor_accuracy(queries, query_labels, gallery, gallery_labels, k=k)
    assert found == pytest.approx(expected)


def test_recall_at_1_is_leave_one_out_nearest_neighbor_accuracy():
    z, labels = unit_rows(40), torch.arange(40) % 5
    neighbors = KNeighborsClassifier(1, metric="cosine").fit(z, labels).kneighbors()[1][:, 0]
    expected = (labels[torch.from_numpy(neighbors)] == labels).double().mean().item()
    assert metrics.retrieval(z, labels)["recall_at_1"] == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_verification_is_a_point_of_the_roc_curve(rate):
    z, labels = unit_rows(40), torch.arange(40) % 8
    z = F.normalize(z + torch.eye(8, 4, dtype=z.dtype)[labels], dim=-1)
    pairs = torch.ones(40, 40).triu(1).bool()
    same, s = pair_masks(labels)[0][pairs], (z @ z.T)[pairs]
    false_accepts, true_accepts, _ = sklearn.metrics.roc_curve(same, s, drop_intermediate=False)
    expected = true_accepts[false_accepts <= rate + 1e-12].max()
    found = metrics.verification(z, labels, false_accept_rate=rate)
    assert found["true_accept_rate"] == pytest.approx(expected, abs=0.01)


def test_uniformity_is_the_log_of_the_mean_kernel():
    z = unit_rows(20)
    kernel = rbf_kernel(z, gamma=3.0)
    mean = (kernel.sum() - np.trace(kernel)) / (20 * 19)
    assert uniformity(z, t=3) == pytest.approx(-np.log(mean))


def test_utilization_is_the_distance_to_the_nearest_neighbor():
    queries, z = unit_rows(15), unit_rows(30)
    _, distances = sklearn.metrics.pairwise_distances_argmin_min(queries, z)
    assert utilization(queries, z) == pytest.approx((distances**2).mean())


def test_torchmetrics_accuracy_and_neighbors():
    logits, labels = torch.randn(50, 4), torch.randint(4, (50,))
    expected = torchmetrics.functional.accuracy(
        logits, labels, task="multiclass", num_classes=4, average="micro"
    )
    assert_close(metrics.accuracy(logits, labels), expected)


@pytest.mark.parametrize("bins", [5, 15, 30])
def test_torchmetrics_calibration_error(bins):
    probabilities, labels = torch.randn(300, 4).mul(2).softmax(-1), torch.randint(4, (300,))
    expected = torchmetrics.functional.classification.multiclass_calibration_error(
        probabilities, labels, num_classes=4, n_bins=bins
    )
    confidences, predictions = probabilities.max(-1)
    found = metrics.expected_calibration_error(confidences, predictions == labels, bins=bins)
    assert_close(found, expected)
