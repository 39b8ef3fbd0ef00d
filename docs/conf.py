"""Sphinx configuration; build with ``sphinx-build -W -b html docs docs/_build``."""

import sys
from pathlib import Path

import nndiag

sys.path.insert(0, str(Path(__file__).parent))  # for the extension beside this file

project = "nndiag"
author = "the nndiag developers"
copyright = "the nndiag developers"
version = release = nndiag.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
    "rule_pages",
]
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "gallery"]
nitpicky = False

autodoc_member_order = "bysource"
autodoc_mock_imports = ["transformers"]  # an integration's own package; the site needs its docstrings alone
autodoc_typehints = "description"

html_theme = "furo"
html_title = "nndiag"
html_static_path = ["static"]
html_css_files = ["site.css"]

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "claims",
    "filename_pattern": r"\.py$",  # each page runs, whatever its name
    "ignore_pattern": r"bench\.py$",  # what they share is no page
    "within_subsection_order": "ExampleTitleSortKey",
    "image_srcset": ["2x"],
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}
