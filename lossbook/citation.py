"""BibTeX for papers and for this release of the book."""

import re
from importlib.metadata import PackageNotFoundError, metadata

from lossbook import __version__
from lossbook.catalog import Paper

CONFERENCES = frozenset(
    "AAAI ACCV ACL AISTATS ALT BMVC CIKM COLING COLT CVPR EACL ECAI ECCV ECML EMNLP ICASSP ICCV "
    "ICDM ICLR ICML ICPR ICRA IJCAI IJCNN INTERSPEECH KDD MICCAI MLSys NAACL NeurIPS PLDI SIGIR "
    "SIGMOD UAI WACV WSDM WWW CISS".split()
)


def bibtex(paper: Paper) -> str:
    """Returns the BibTeX entry of a paper; authors only where the catalog knows them."""
    venue = re.sub(r"\s*\(.*?\)", "", paper.venue).strip()
    name = re.sub(r",?\s*\b(19|20)\d\d\b.*$", "", venue).strip()
    if not name or name.casefold().startswith("arxiv"):
        kind, where = "misc", {}
    elif CONFERENCES & set(name.split()):
        kind, where = "inproceedings", {"booktitle": name}
    else:
        kind, where = "article", {"journal": name}
    fields = {
        "author": " and ".join(paper.authors),
        "title": paper.title,
        **where,
        "year": str(paper.year),
        "eprint": paper.arxiv or "",
        "archiveprefix": "arXiv" if paper.arxiv else "",
        "url": paper.url or "",
    }
    return _entry(kind, _key(paper), fields)


def bibtex_of_release() -> str:
    """Returns the BibTeX entry of the installed version of this book."""
    fields = {
        "author": "{The Lossbook authors}",
        "title": "Lossbook: an interactive book about training objectives",
        "version": __version__,
        "url": _project_url(),
    }
    return _entry("software", f"lossbook-{__version__}", fields)


def _key(paper: Paper) -> str:
    if not paper.authors:
        return f"{paper.id}-{paper.year}"
    first = paper.authors[0]
    family = first.split(",")[0] if "," in first else first.split()[-1]
    return f"{re.sub(r'[^a-z]', '', _ascii(family).casefold())}{paper.year}-{paper.id}"


def _ascii(text: str) -> str:
    from unicodedata import normalize

    return normalize("NFKD", text).encode("ascii", "ignore").decode()


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name} = {{{_value(name, text)}}}," for name, text in fields.items() if text]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _value(name: str, text: str) -> str:
    if name in {"url", "eprint"}:  # verbatim fields
        return text
    text = re.sub(r"(?<!\\)([&%#_$])", r"\\\1", text)
    return f"{{{text}}}" if name == "title" else text  # braces keep the title's capitals


def _project_url() -> str:
    try:
        urls = metadata("lossbook").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(url.split(", ", 1) for url in urls)
    return named.get("Repository") or named.get("Homepage") or next(iter(named.values()), "")
