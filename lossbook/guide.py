"""The start page's map of the book and its search box."""

import html

from lossbook import _display, catalog, notebooks

HITS = 12


def show_map() -> None:
    """Display the parts and their notebooks: those written as links, the others pale."""
    done = sum(notebooks.exists(entry) for entry in catalog.notebooks())
    rows = "".join(
        '<tr><td style="text-align: right; vertical-align: top">'
        f"{'' if part.number == 0 else part.number}</td>"
        f'<td style="text-align: left; vertical-align: top"><b>{html.escape(part.title)}</b></td>'
        f'<td style="text-align: left; white-space: normal">{_titles(part)}</td></tr>'
        for part in catalog.parts()
    )
    _display.show(
        {
            "text/html": _table(("part", "about", "notebooks"), rows),
            "text/plain": f"[map of the book: {done} of {len(catalog.notebooks())} notebooks "
            "are written]",
        }
    )


def show_twelve_weeks() -> None:
    """Display the course of twelve weeks: for each week its notebooks, those written as links."""
    rows = "".join(
        f'<tr><td style="text-align: right; vertical-align: top">{week}</td>'
        f'<td style="text-align: left; white-space: normal">{stops}</td></tr>'
        for week, names in enumerate(catalog.twelve_weeks(), start=1)
        for stops in [" · ".join(map(_stop, names))]
    )
    _display.show(
        {
            "text/html": _table(("week", "notebooks"), rows),
            "text/plain": "[a course of twelve weeks]",
        }
    )


def search_box(words: str = "temperature") -> None:
    """Display a search over papers, topics and knobs; each hit links to its notebook.

    Args:
        words: what is searched for at first; the result stays on a page without a kernel.
    """
    import ipywidgets

    box = ipywidgets.Text(
        value=words,
        description="Search",
        placeholder="a paper, a topic or a knob: hard negatives, label noise, margin …",
        continuous_update=True,
        layout={"width": "100%", "max_width": "560px"},
    )
    # An Output widget, since the front end makes links to notebooks only in outputs.
    found = ipywidgets.Output()

    def show_hits(table: str) -> None:
        data = {"text/html": table, "text/plain": "[search results]"}
        found.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    first = hits_table(words)
    show_hits(first)
    box.observe(lambda change: show_hits(hits_table(change["new"])), "value")
    searched = f"<p>Search results for <b>{html.escape(words)}</b> (run the cell to search):</p>"
    _display.show(
        {
            **_display.widget_view(ipywidgets.VBox([box, found])),
            "text/html": searched + first,
            "text/plain": f"[search box: {words}]",
        }
    )


def hits_table(words: str) -> str:
    """The best hits for some words as an HTML table."""
    if not words.strip():
        return ""
    titles = [_entry(entry) for entry in catalog.search_notebooks(words)[:HITS]]
    about = f"<p>Notebooks: {' · '.join(titles)}</p>" if titles else ""
    hits = catalog.search(words)
    if not hits:
        return about or "<p>Nothing found. Try fewer or other words.</p>"
    rows = "".join(
        f'<tr><td style="text-align: left; vertical-align: top">{_link(paper)}</td>'
        f'<td style="text-align: left; white-space: normal">{html.escape(paper.idea)}</td></tr>'
        for paper in hits[:HITS]
    )
    more = f"<p>… and {len(hits) - HITS} more.</p>" if len(hits) > HITS else ""
    return about + _table(("paper and notebook", "idea"), rows) + more


def _table(titles: tuple[str, ...], rows: str) -> str:
    head = "".join(f'<th scope="col" style="text-align: left">{title}</th>' for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _titles(part: catalog.Part) -> str:
    entries = [entry for entry in catalog.notebooks() if entry.part == part.number]
    return " · ".join(_entry(entry) for entry in entries if entry.path != catalog.START_HERE)


def _entry(entry: catalog.Notebook) -> str:
    return _notebook_link(entry) if notebooks.exists(entry) else _pale(_label(entry))


def _link(paper: catalog.Paper) -> str:
    entry = catalog.notebook(paper.notebook)
    name = f"<b>{html.escape(paper.short)}</b> ({paper.year})<br>"
    if not paper.done:
        return name + _pale(f"{_label(entry)}, coming")
    anchor = paper.section.partition("#")[2]
    return name + _notebook_link(entry, f"#{anchor}" if anchor else "")


def _stop(name: str) -> str:
    """A notebook of the course, or what a week has instead of one."""
    try:
        return _entry(catalog.notebook(name))
    except ValueError:
        return html.escape(name)


def _notebook_link(entry: catalog.Notebook, anchor: str = "") -> str:
    target = entry.path.removeprefix("notebooks/") + anchor
    return f'<a href="{html.escape(target)}">{html.escape(_label(entry))}</a>'


def _label(entry: catalog.Notebook) -> str:
    return f"{entry.number} {entry.title}".strip()


def _pale(text: str) -> str:
    return f'<span style="opacity: 0.6">{html.escape(text)}</span>'
