"""The book as a static site: `python -m lossbook.site`, or `make site`.

The notebooks are shown as they are committed. Sphinx, myst-nb and furo turn a staged copy of
`docs/` and `notebooks/` into pages that need no network and no server: they also work from a
folder, or from a file share. What `explore` draws is drawn ahead, so that its sliders move.

Needs the extra `site`: `pip install 'lossbook[site]'`.
"""
