import math

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from torch.testing import assert_close

from lossbook import data


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Real -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, n, d, classes",
    [("digits", 1797, 64, 10), ("iris", 150, 4, 3), ("wine", 178, 13, 3)]
    + [("breast_cancer", 569, 30, 2), ("diabetes", 442, 10, None)],
)
def test_embedded_data_sets_load_as_tensors(name, n, d, classes):
    inputs, targets = data.load(name)
    assert inputs.shape == (n, d) and inputs.dtype == torch.float32
    assert targets.shape == (n,)
    if classes is None:
        assert targets.dtype == torch.float32
    else:
        assert targets.dtype == torch.int64
        assert targets.unique().tolist() == list(range(classes))


def test_digits_are_scaled_to_the_unit_interval():
    inputs, _ = data.load("digits")
    assert inputs.min() == 0 and inputs.max() == 1


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(ValueError, match=r"got 'digit' \(did you mean 'digits'\?\)"):
        data.load("digit")


def test_offline_the_error_names_the_embedded_data(monkeypatch):
    def fetch(name, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    with pytest.raises(OSError, match=r"openml:letter .*no network.* digits, iris, wine"):
        data.load("openml:letter")


@pytest.mark.parametrize(
    "targets, expected",
    [(["b", "a", "b"], torch.tensor([1, 0, 1])), ([0.5, 1.5, 2.5], torch.tensor([0.5, 1.5, 2.5]))],
)
def test_open_ml_targets_are_class_numbers_or_floats(monkeypatch, targets, expected):
    def fetch(name, **options):
        return np.ones((3, 2)), np.array(targets)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    inputs, found = data.load("openml:letter")
    assert inputs.dtype == torch.float32
    assert_close(found, expected)


def test_split_parts_are_disjoint_and_cover_everything():
    parts = data.split(torch.arange(10.0), torch.arange(10))
    assert [len(targets) for _, targets in parts] == [6, 2, 2]
    assert torch.cat([targets for _, targets in parts]).sort().values.tolist() == list(range(10))
    assert all(torch.equal(inputs, targets.float()) for inputs, targets in parts)


def test_split_depends_on_the_seed_alone():
    first, again, other = (data.digits(seed=seed).train[1] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_shares_may_leave_a_rest_out():
    parts = data.split(torch.arange(10.0), torch.arange(10), shares=(0.5, 0.1, 0.1))
    assert [len(targets) for _, targets in parts] == [5, 1, 1]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.3, 0.2), (1.0, 0.0, 0.0)])
def test_shares_are_three_positive_numbers_with_a_sum_of_at_most_one(shares):
    with pytest.raises(ValueError, match="shares must be three positive numbers"):
        data.split(torch.arange(10.0), torch.arange(10), shares=shares)


def test_no_part_may_be_empty():
    with pytest.raises(ValueError, match="the smallest part must be at least 1, got 0"):
        data.split(torch.arange(3.0), torch.arange(3))


def test_no_class_is_in_two_parts_and_all_its_samples_are_in_one():
    labels = torch.tensor([7, 3, 3, 9, 7, 1, 1, 1, 5, 9])
    parts = data.split_classes(labels, seed=3)
    assert sorted(torch.cat(parts).tolist()) == list(range(10))
    classes = [labels[part].unique().tolist() for part in parts]
    assert [len(part) for part in classes] == [3, 1, 1] and len(set(sum(classes, []))) == 5
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)
    again = data.split_classes(labels, seed=3)
    assert all(torch.equal(*pair) for pair in zip(parts, again, strict=True))
    orders = {tuple(data.split_classes(labels, seed=seed)[1].tolist()) for seed in range(20)}
    assert len(orders) == 5
    with pytest.raises(ValueError, match="the smallest part must be at least 1, got 0"):
        data.split_classes(labels[:2])


# Folders of pictures ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Two classes: gray pictures of 6 x 4 pixels, and one in color, 5 pixels square."""
    for name in ("b", "a", "a/deeper"):
        (tmp_path / name).mkdir()
    for i, shade in enumerate((0, 51, 255)):
        Image.new("L", (6, 4), shade).save(tmp_path / "b" / f"{i}.png")
    Image.new("RGB", (5, 5), (255, 0, 51)).save(tmp_path / "a" / "red.JPG", quality=100)
    for name in ("notes.txt", "a/.hidden.png", "a/deeper/0.png", "a/notes.txt", "loose.png"):
        (tmp_path / name).write_text("no picture")
    return tmp_path


def test_a_folder_of_pictures_is_read_class_by_class(folder):
    images, labels, names = data.image_folder(folder, size=4)
    assert names == ["a", "b"] and labels.tolist() == [0, 1, 1, 1]
    assert images.shape == (4, 1, 4, 4) and images.dtype == torch.float32
    assert_close(images[1:].flatten(1), torch.tensor([[0.0], [0.2], [1.0]]).expand(3, 16))


def test_a_folder_in_color(folder):
    images, _, _ = data.image_folder(str(folder), size=2, color=True)
    assert images.shape == (4, 3, 2, 2)
    assert_close(images[0].mean((1, 2)), torch.tensor([1.0, 0.0, 0.2]), atol=0.01, rtol=0)


def test_pictures_stand_upright_and_keep_their_middle(tmp_path):
    (tmp_path / "a").mkdir()
    ramp = torch.tensor([0, 0, 0, 60, 120, 0, 0, 0], dtype=torch.uint8)
    picture = Image.fromarray(ramp.expand(2, 8).contiguous().numpy())
    picture.save(tmp_path / "a" / "0.png")
    images, _, _ = data.image_folder(tmp_path, size=2)
    assert_close(255 * images[0, 0], torch.tensor([[60.0, 120.0]] * 2))
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    picture.save(tmp_path / "a" / "0.png", exif=turned)
    images, _, _ = data.image_folder(tmp_path, size=2)
    assert_close(255 * images[0, 0], torch.tensor([[120.0, 60.0]] * 2))


def test_folders_without_pictures_and_broken_pictures_are_named(folder, tmp_path_factory):
    with pytest.raises(ValueError, match="folder must hold CLASS/NAME.png and the like"):
        data.image_folder(tmp_path_factory.mktemp("empty"), size=4)
    whole = (folder / "b" / "1.png").read_bytes()
    for broken in (b"text", whole[:-30]):
        (folder / "b" / "1.png").write_bytes(broken)
        with pytest.raises(ValueError, match="1.png can't be read as a picture"):
            data.image_folder(folder, size=4)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        data.image_folder(folder, size=0)


# Synthetic --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: data.gaussian_mixture(9, means=torch.eye(2), seed=seed)[:2],
        lambda seed: data.two_moons(9, seed=seed),
        lambda seed: data.glyphs(3, 2, seed=seed),
    ],
    ids=["gaussian_mixture", "two_moons", "glyphs"],
)
def test_a_seed_gives_the_same_data(draw):
    assert all(map(torch.equal, draw(3), draw(3)))
    assert not torch.equal(draw(3)[0], draw(4)[0])


def test_the_posterior_of_a_mixture_is_bayes_rule():
    means, weights = torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([1.0, 3.0])
    points, _, posterior = data.gaussian_mixture(50, means=means, spread=0.7, weights=weights)
    for (x, y), found in zip(points.tolist(), posterior.tolist(), strict=True):
        densities = [
            w * math.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * 0.7**2))
            for w, (a, b) in zip(weights.tolist(), means.tolist(), strict=True)
        ]
        assert found == pytest.approx([v / sum(densities) for v in densities], abs=1e-5)


def test_mixture_labels_and_points_follow_their_probabilities():
    means = torch.tensor([[0.0], [10.0]])
    points, labels, posterior = data.gaussian_mixture(
        4000, means=means, spread=2.0, weights=torch.tensor([1.0, 3.0])
    )
    assert_close(labels.float().mean().item(), 0.75, rtol=0, atol=0.03)
    assert_close(points[labels == 1].std().item(), 2.0, rtol=0, atol=0.1)
    assert_close(posterior.mean(0), torch.tensor([0.25, 0.75]), rtol=0, atol=0.03)


def test_moons_lie_on_two_half_circles():
    points, labels = data.two_moons(100, noise=0)
    upper, lower = points[labels == 0], points[labels == 1]
    assert len(upper) == len(lower) == 50
    for moon, center in ((upper, (-0.5, -0.25)), (lower, (0.5, 0.25))):
        assert_close((moon - torch.tensor(center)).norm(dim=-1), torch.ones(50))
    assert upper[:, 1].min() >= -0.25 and lower[:, 1].max() <= 0.25


def test_glyphs_are_ink_on_paper_sorted_by_class():
    images, labels = data.glyphs(5, 4, size=12, noise=0)
    assert images.shape == (20, 1, 12, 12)
    assert labels.tolist() == [c for c in range(5) for _ in range(4)]
    assert 0 <= images.min() and 0.5 < images.amax((1, 2, 3)).min() and images.max() <= 1


def test_glyphs_of_a_class_resemble_each_other_more_than_other_classes():
    images, labels = data.glyphs(20, 5)
    flat = images.flatten(1) - images.flatten(1).mean(0)
    s = torch.nn.functional.normalize(flat, dim=-1) @ flat.T
    same = labels[:, None] == labels
    assert s[same].mean() > s[~same].mean() + 0.2


def test_glyphs_without_any_variation_are_copies():
    images, _ = data.glyphs(2, 3, jitter=0, rotation=0, noise=0)
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[3])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: data.glyphs(0, 2), "n_classes must be at least 1, got 0"),
        (lambda: data.glyphs(2, 2, noise=-1), "noise must be at least 0, got -1"),
        (lambda: data.glyphs(2, 2, size=3), "size must be at least 4, got 3"),
        (lambda: data.two_moons(1), "n must be at least 2, got 1"),
        (lambda: data.gaussian_mixture(0, means=torch.eye(2)), "n must be at least 1, got 0"),
        (
            lambda: data.gaussian_mixture(1, means=torch.eye(2), spread=0.0),
            "spread must be positive, got 0.0",
        ),
    ],
)
def test_generators_refuse_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Views ------------------------------------------------------------------------------------------


def test_balanced_batches_have_per_class_distinct_samples_of_each_class():
    labels = torch.tensor([3, 7, 3, 9, 7, 9, 9, 3, 7, 3])
    sample = data.balanced_batches(torch.arange(10.0), labels, classes=2, per_class=3)
    seen = set()
    for seed in range(50):
        inputs, drawn = sample(generator(seed))
        assert sorted(drawn.unique(return_counts=True)[1].tolist()) == [3, 3]
        assert len(inputs.unique()) == 6
        assert torch.equal(labels[inputs.long()], drawn)
        seen |= set(inputs.tolist())
    assert seen == set(range(10))


def test_samplers_draw_from_the_generator_that_they_are_given():
    labels = torch.arange(20) % 5
    balanced = data.balanced_batches(torch.randn(20, 3), labels, classes=3, per_class=2)
    noisy = data.shift_and_noise(size=4)
    paired = data.paired_views(torch.randn(20, 16), noisy, batch_size=8)
    for sample in (balanced, paired):
        assert all(map(torch.equal, sample(generator(1)), sample(generator(1))))
        assert not torch.equal(sample(generator(1))[0], sample(generator(2))[0])


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"classes": 4, "per_class": 2}, "classes must be at least 1 and at most 3, got 4"),
        ({"classes": 2, "per_class": 4}, "per_class must be at least 1 and at most 3, got 4"),
    ],
)
def test_balanced_batches_need_enough_classes_and_samples(sizes, message):
    labels = torch.tensor([0, 1, 2] * 3 + [0])
    with pytest.raises(ValueError, match=message):
        data.balanced_batches(torch.randn(10, 2), labels, **sizes)


def test_paired_views_are_two_views_of_the_same_samples():
    inputs = torch.arange(10.0)[:, None].expand(10, 4)

    def add_noise(chosen, generator):
        return chosen + 0.1 * torch.rand(chosen.shape, generator=generator)

    first, second = data.paired_views(inputs, add_noise, batch_size=6)(generator())
    assert torch.equal(first.floor(), second.floor()) and not torch.equal(first, second)
    assert len(first[:, 0].floor().unique()) == 6


def test_a_batch_is_no_larger_than_the_data():
    with pytest.raises(ValueError, match="batch_size must be at least 1 and at most 4, got 5"):
        data.paired_views(torch.ones(4, 4), lambda x, generator: x, batch_size=5)


def test_shifts_move_the_picture_and_leave_paper_behind():
    picture = torch.zeros(1, 5, 5)
    picture[0, 2, 2] = 1
    shift = data.shift_and_noise(size=5, shift=2, noise=0)
    places = set()
    for seed in range(200):
        moved = shift(picture, generator(seed))
        assert moved.shape == picture.shape and moved.sum() == 1
        places.add(tuple(moved[0].nonzero()[0].tolist()))
    assert places == {(row, column) for row in range(5) for column in range(5)}


def test_no_shift_noise_or_hole_changes_nothing_and_flat_pictures_stay_flat():
    flat = torch.rand(3, 16)
    assert torch.equal(data.shift_and_noise(size=4, shift=0, noise=0)(flat, generator()), flat)


def test_an_erased_square_is_a_hole_of_its_size():
    erase = data.shift_and_noise(size=8, shift=0, noise=0, erase=0.5)
    erased = erase(torch.ones(40, 8, 8), generator())
    assert (erased == 0).sum((1, 2)).tolist() == [16] * 40
    rows = (erased == 0).any(2).sum(1)
    assert rows.tolist() == [4] * 40


@pytest.mark.parametrize("share, changed", [(0, 0), (0.25, 5), (1, 20)])
def test_exactly_the_share_of_labels_flips_to_another_class(share, changed):
    labels = torch.arange(20) % 4
    flipped = data.flip_labels(labels, share=share, n_classes=4)
    assert (flipped != labels).sum() == changed
    assert 0 <= flipped.min() and flipped.max() < 4
    assert torch.equal(labels, torch.arange(20) % 4)


def test_flips_spread_evenly_over_the_other_classes():
    flipped = data.flip_labels(torch.zeros(3000, dtype=torch.int64), share=1, n_classes=4)
    assert_close(flipped.bincount(), torch.tensor([0, 1000, 1000, 1000]), rtol=0.1, atol=0)


# Text -------------------------------------------------------------------------------------------


def ascii_codes(text):
    return torch.tensor(list(text.encode()))


def test_documentation_is_ascii_text():
    codes = data.documentation()
    assert 400_000 < len(codes) and 0 <= codes.min() and codes.max() < 128
    assert 'The "assert" statement' in data.decode(codes[:1000])


@pytest.mark.parametrize("order", [1, 3, 8])
def test_markov_texts_continue_as_the_corpus_does(order):
    text = data.decode(data.documentation()[:3000])
    corpus = ascii_codes(text)
    texts = data.markov_texts(corpus, order=order, n=5, length=60, seed=1)
    assert texts.shape == (5, 60)
    known = text + text[order - 1 : 2 * order]  # after its end the corpus starts again
    for row in texts:
        written = data.decode(row)
        for i in range(60 - order):
            assert written[i : i + order + 1] in known


def test_a_markov_chain_chooses_as_often_as_the_corpus():
    corpus = ascii_codes("ababac" * 20)
    written = data.decode(data.markov_texts(corpus, order=1, n=200, length=20).flatten())
    after_a = [b for a, b in zip(written, written[1:], strict=False) if a == "a"]
    assert after_a.count("c") / len(after_a) == pytest.approx(1 / 3, abs=0.05)


def test_markov_texts_depend_on_the_seed_only():
    corpus = data.documentation()[:2000]
    first, again, other = (
        data.markov_texts(corpus, order=2, n=3, length=30, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_ngram_log_probabilities_count():
    corpus, texts = ascii_codes("abracadabra"), ascii_codes("abrz")[None]
    one, two = data.ngram_log_probabilities(corpus, texts, orders=range(1, 3), smoothing=0.5)
    expected = [5.5 / 75, 2.5 / 75, 2.5 / 75, 0.5 / 75]
    assert_close(one[0].exp(), torch.tensor(expected))
    expected = [2.5 / 69, 2.5 / 66, 0.5 / 66]  # ab after 5 a, br after 2 b, rz after 2 r
    assert_close(two[0].exp(), torch.tensor(expected))


def test_ngrams_of_nine_characters_still_fit_into_an_integer():
    corpus = torch.full((30,), 127)
    (found,) = data.ngram_log_probabilities(corpus, corpus[None, :9], orders=range(9, 10))
    assert_close(found.exp(), torch.tensor([[22.1 / (23 + 12.8)]]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda c: data.markov_texts(c, order=0, n=1, length=5), "order must be at least 1"),
        (lambda c: data.markov_texts(c, order=9, n=1, length=5), "order must be .* at most 8"),
        (lambda c: data.markov_texts(c, order=2, n=0, length=5), "n must be at least 1, got 0"),
        (lambda c: data.markov_texts(c, order=2, n=1, length=0), "length must be at least 1"),
        (lambda c: data.markov_texts(c[:2], order=2, n=1, length=5), "must be above 2, got 2"),
        (
            lambda c: data.ngram_log_probabilities(c, c[None, :5], orders=range(6, 7)),
            "the largest of orders must be at most 5, got 6",
        ),
        (
            lambda c: data.ngram_log_probabilities(c, c[None], orders=range(0, 2)),
            "the smallest of orders must be at least 1, got 0",
        ),
        (
            lambda c: data.ngram_log_probabilities(c, c[None], orders=range(1, 2), smoothing=0),
            "smoothing must be above 0, got 0",
        ),
    ],
)
def test_text_functions_refuse_what_is_out_of_range(call, message):
    with pytest.raises(ValueError, match=message):
        call(ascii_codes("some text"))
