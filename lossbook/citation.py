"""BibTeX for papers and for this release of the book."""

import re
from pathlib import Path

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
    """Returns the BibTeX entry of this version of the book, from its `CITATION.cff`."""
    facts = _citation_file()
    fields = {
        "author": " and ".join(f"{{{_author(row)}}}" for row in facts.get("authors", [])),
        "title": facts.get("title", "Lossbook"),
        "version": __version__,
        "year": str(facts.get("date-released", ""))[:4],
        "url": facts.get("url") or facts.get("repository-code") or "",
    }
    return _entry("software", f"lossbook-{__version__}", fields)


def _citation_file() -> dict:
    import yaml

    package = Path(__file__).parent
    for path in (package / "CITATION.cff", package.parent / "CITATION.cff"):  # wheel, checkout
        if path.is_file():
            return yaml.safe_load(path.read_text("utf-8"))
    return {}


def _author(row: dict) -> str:
    names = (row.get("given-names", ""), row.get("family-names", ""))
    return row.get("name") or " ".join(names).strip()


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
