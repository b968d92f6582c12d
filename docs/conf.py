"""Sphinx's settings for the book as a site. `make site` stages this folder and the notebooks.

Nothing here or in what furo and myst-nb add may come from another host: pages have to work without
a network, and from a folder.
"""

from importlib.util import find_spec
from pathlib import Path

from lossbook import __version__

project = "Lossbook"
author = "The Lossbook authors"
copyright = "the Lossbook authors. Code: MIT license; text: CC BY 4.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "lossbook.site.sphinx_extension",
]

# Notebooks are shown as they are committed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# One file that holds its fonts, from a package that ships it.
_mathjax = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0])
html_static_path = ["_static", str(_mathjax / "static" / "mathjax" / "tex-svg.js")]
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Reference"]

html_theme = "furo"
html_title = "Lossbook"
html_favicon = "_static/icon.svg"
html_copy_source = False
html_show_sphinx = False
html_permalinks_icon = "#"
html_css_files = ["site.css"]
html_js_files = ["site.js", ("explore.js", {"defer": "defer"}), ("catalog.js", {"defer": "defer"})]
html_theme_options = {"navigation_with_keys": False}
