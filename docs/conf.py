"""Sphinx configuration; build with ``sphinx-build -W -b html docs docs/_build``."""

import nndiag

project = "nndiag"
author = "the nndiag developers"
copyright = "the nndiag developers"
version = release = nndiag.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = "nndiag"
html_static_path: list[str] = []
