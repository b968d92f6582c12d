"""The catalog: every paper, notebook and part of the book, read from package data."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import PurePath

START_HERE = "notebooks/00_start_here.ipynb"


@dataclass(frozen=True)
class Part:
    """A part of the book: one folder of notebooks and one of modules. Part 0 is the primers."""

    number: int
    title: str
    folder: str


@dataclass(frozen=True)
class Notebook:
    """A notebook, written or not. Primers and guides have no number and no papers."""

    title: str
    path: str
    number: str = ""
    part: int = 0
    module: str | None = None
    test: str | None = None
    papers: tuple[str, ...] = ()
    level: int = 1
    needs: tuple[str, ...] = ()
    teaches: str = ""

    @property
    def stem(self) -> str:
        """The file's name without its ending: `21_pair_weighting`."""
        return PurePath(self.path).stem

    @property
    def slug(self) -> str:
        """The name without its number: `pair_weighting`."""
        return self.stem.removeprefix(f"{self.number}_") if self.number else self.stem

    @property
    def part_title(self) -> str:
        """The title of the part that the notebook belongs to."""
        return part(self.part).title


@dataclass(frozen=True)
class Paper:
    """A paper. `objective`, `section` and `test` are empty until its notebook is written."""

    id: str
    index: int
    title: str
    short: str
    year: int
    venue: str
    part: int
    notebook: str
    kind: str
    idea: str
    formula: str
    known: str
    arxiv: str | None = None
    code: str | None = None
    knobs: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    objective: tuple[str, ...] = ()
    section: str = ""
    test: str = ""

    @property
    def done(self) -> bool:
        """Whether the book has this paper's objective, notebook section and test."""
        return bool(self.objective and self.section and self.test)

    @property
    def url(self) -> str | None:
        """Where the paper can be read: its page on arXiv, where it has one."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


def _read(name: str) -> object:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times faster
    return yaml.load(files(__package__).joinpath(name).read_text("utf-8"), loader)  # noqa: S506


@cache
def _contents() -> dict:
    return _read("notebooks.yml")


@cache
def parts() -> tuple[Part, ...]:
    """All parts in reading order, the primers (part 0) first."""
    rows = [Part(row["part"], row["title"], row["folder"]) for row in _contents()["parts"]]
    return (Part(0, "Primers", "00_primers"), *rows)


def part(name: int | str) -> Part:
    """Returns a part by its number, its folder or one that contains the words of its title.

    Raises:
        ValueError: no part, or more than one, answers to that name.
    """
    wanted = str(name).strip().casefold()
    exact = [p for p in parts() if wanted in {str(p.number), p.folder, p.folder.split("_", 1)[1]}]
    found = exact or [p for p in parts() if wanted and wanted in p.title.casefold()]
    if len(found) != 1:
        problem = f"several parts match {name!r}" if found else f"no part is called {name!r}"
        listing = "\n".join(f"  {p.number:2}  {p.folder:24} {p.title}" for p in found or parts())
        raise ValueError(f"{problem}; the parts:\n{listing}")
    return found[0]


@cache
def notebooks() -> tuple[Notebook, ...]:
    """All notebooks in reading order: the start page, the primers, the parts, the guides."""
    contents = _contents()
    start = Notebook("Start here", START_HERE, teaches="what the book is and how to read it")
    rows = contents["primers"] + contents["notebooks"] + contents["guides"]
    return (start, *map(_notebook, rows))


def _notebook(row: dict) -> Notebook:
    lists = {name: tuple(row.get(name, ())) for name in ("papers", "needs")}
    return Notebook(**{**row, **lists})


@cache
def _notebooks_by_name() -> dict[str, Notebook]:
    names = {}
    for entry in notebooks():
        for name in (entry.number, entry.slug, entry.stem, entry.path):
            if name:
                names[name] = entry
    return names


def notebook(name: str) -> Notebook:
    """Returns a notebook by number (`21`), slug (`pair_weighting`), file name or path.

    Raises:
        ValueError: the book has no such notebook; the message suggests the nearest.
    """
    text = str(name).strip().replace("\\", "/")
    names = _notebooks_by_name()
    key = PurePath(text).stem if "/" in text or text.endswith(".ipynb") else text
    key = key.zfill(2) if key.isdecimal() else key.replace("-", "_")
    if key not in names:
        raise ValueError(_unknown("notebook", key, [entry.slug for entry in notebooks()]))
    return names[key]


@cache
def papers() -> tuple[Paper, ...]:
    """All papers, part by part in the order of their notebooks."""
    rows = {row["id"]: row for row in _read("papers.yml")}
    order = [paper for entry in notebooks() for paper in entry.papers if paper in rows]
    return tuple(_paper(rows[name]) for name in order)


def _paper(row: dict) -> Paper:
    lists = {
        key: tuple([value] if isinstance(value, str) else value or ())
        for key in ("knobs", "authors", "objective")
        for value in [row.get(key)]
    }
    return Paper(**{**row, **lists, "notebook": str(row["notebook"]).zfill(2)})


@cache
def _papers_by_id() -> dict[str, Paper]:
    return {entry.id: entry for entry in papers()}


def paper(name: str) -> Paper:
    """Returns a paper by its id (`multi-similarity`).

    Raises:
        ValueError: the catalog has no such paper; the message suggests the nearest.
    """
    key = str(name).strip().casefold().replace("_", "-").replace(" ", "-")
    found = _papers_by_id().get(key)
    if found is None:
        raise ValueError(_unknown("paper", str(name), [*_papers_by_id()]))
    return found


def twelve_weeks() -> list[list[str]]:
    """A course of twelve weeks: for each week the slugs of its notebooks."""
    return _contents()["twelve_weeks"]


def search(words: str) -> list[Paper]:
    """Returns the papers that contain all words, best first.

    Looks at titles, ids, knobs, ideas and the titles of notebooks and parts; a word also matches
    as the beginning of a longer one (`temp` finds `temperature`).
    """

    def fields(entry: Paper) -> list[tuple[int, str]]:
        where = notebook(entry.notebook)
        return [
            (8, f"{entry.id} {entry.short}"),
            (5, entry.title),
            (4, " ".join(entry.knobs)),
            (2, entry.idea),
            (1, f"{where.title} {where.part_title} {entry.kind} {entry.venue} {entry.year}"),
        ]

    return _ranked(words, papers(), fields)


def search_notebooks(words: str) -> list[Notebook]:
    """Returns the notebooks and primers whose title, topics or part contain all words."""
    return _ranked(
        words,
        notebooks(),
        lambda entry: [
            (8, f"{entry.number} {entry.title} {entry.slug.replace('_', ' ')}"),
            (4, entry.teaches),
            (1, entry.part_title),
        ],
    )


def _ranked(words: str, entries, fields) -> list:
    wanted = _tokens(words)
    scored = []
    for entry in entries:
        weighted = [(weight, _tokens(text)) for weight, text in fields(entry)]
        scores = [max(_match(word, tokens) * w for w, tokens in weighted) for word in wanted]
        if scores and all(scores):
            scored.append((-sum(scores), len(scored), entry))
    return [entry for _, _, entry in sorted(scored, key=lambda row: row[:2])]


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold().replace("_", " "))


def _match(word: str, tokens: list[str]) -> float:
    if word in tokens:
        return 1.0
    return 0.5 if any(token.startswith(word) for token in tokens) else 0.0


def _unknown(kind: str, name: str, known) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"`lossbook list` shows every {kind}."
    return f"no {kind} is called {name!r}; {hint}"
