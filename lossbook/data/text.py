"""Text without a download: CPython's documentation, Markov chains that imitate it, n-grams."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossbook._checks import in_range

ALPHABET = 128
"""Characters are their ASCII codes."""


def documentation() -> Int[Tensor, " n"]:
    """CPython's own documentation of its language topics, 465,000 characters, as ASCII codes.

    Topics come in alphabetical order; other characters than ASCII are "?".
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long()


def decode(codes: Int[Tensor, " n"]) -> str:
    """The text of some ASCII codes."""
    return bytes(codes.tolist()).decode("ascii")


def markov_texts(
    corpus: Int[Tensor, " characters"], *, order: int, n: int, length: int, seed: int = 0
) -> Int[Tensor, "n length"]:
    """Texts that continue each few characters as the corpus does somewhere.

    The next character is the one after a random place of the corpus where the last ``order``
    characters are the same.

    Args:
        corpus: (characters,), ASCII codes, more than ``order`` of them. Where a text comes to the
            corpus's end, it goes on at the beginning.
        order: characters that the chain remembers, between 1 and 8.
        n: how many texts, at least 1.
        length: characters of each, at least 1.
        seed: of the random choices.

    Returns:
        (n, length), ASCII codes.

    Raises:
        ValueError: for arguments out of these ranges.
    """
    in_range("order", order, at_least=1, at_most=8)
    in_range("n", n, at_least=1)
    in_range("length", length, at_least=1)
    in_range("the length of the corpus", len(corpus), above=order)
    generator = torch.Generator().manual_seed(seed)
    contexts, place = _grams(corpus, order)[:-1].sort()  # of the characters that follow one
    first = torch.searchsorted(contexts, contexts)
    count = torch.searchsorted(contexts, contexts, right=True) - first
    rank = place.argsort()
    at = torch.randint(len(place), (n,), generator=generator)
    texts = []
    for _ in range(length):
        texts.append(corpus[at + order])
        here = rank[(at + 1) % len(place)]
        choice = (torch.rand(n, generator=generator) * count[here]).long()
        at = place[first[here] + choice]
    return torch.stack(texts, dim=1)


def ngram_log_probabilities(
    corpus: Int[Tensor, " characters"],
    texts: Int[Tensor, "n length"],
    *,
    orders: range,
    smoothing: float = 0.1,
) -> list[Float[Tensor, "n _"]]:
    r"""Log-probability of each character after those before it, counted in a corpus.

    .. math:: \log p(c \mid h) = \log \frac{N(h c) + \alpha}{N(h) + 128\,\alpha}

    Args:
        corpus: (characters,), ASCII codes.
        texts: (n, length), ASCII codes.
        orders: lengths of the n-grams h c, between 1 and 9 and at most the texts' length.
        smoothing: alpha, positive.

    Returns:
        For each order k, (n, length - k + 1).

    Raises:
        ValueError: for orders out of range or a smoothing that is not positive.
    """
    in_range("the smallest of orders", min(orders), at_least=1)
    in_range("the largest of orders", max(orders), at_most=min(9, texts.shape[1]))
    in_range("smoothing", smoothing, above=0)
    counts = {k: _counts(corpus, texts, k) for k in {*orders, *(k - 1 for k in orders)}}
    return [
        torch.log((counts[k] + smoothing) / (counts[k - 1][:, :-1] + ALPHABET * smoothing))
        for k in orders
    ]


def _counts(corpus: Tensor, texts: Tensor, k: int) -> Tensor:
    """How often each k-gram of the texts occurs in the corpus."""
    if k == 0:
        return torch.full((len(texts), texts.shape[1] + 1), len(corpus))
    known, counts = _grams(corpus, k).unique(return_counts=True)
    wanted = _grams(texts, k)
    place = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    return torch.where(known[place] == wanted, counts[place], 0)


def _grams(codes: Tensor, k: int) -> Tensor:
    """Every k characters in a row as one integer."""
    grams = torch.zeros_like(codes[..., k - 1 :])
    for i in range(k):
        grams = ALPHABET * grams + codes[..., i : codes.shape[-1] - k + 1 + i]
    return grams
