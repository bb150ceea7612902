"""The documentation's site: Sphinx reads the Markdown pages by MyST, and Furo lays them out.

Sphinx is maintained by many, makes the Python pages from the docstrings, searches without a server,
and can take every warning for an error.
"""

from gmmpipe import __version__

project = "gmmpipe"
author = "the gmmpipe authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's name for it)
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["*.py"]
default_role = "code"

myst_heading_anchors = 4
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "gmmpipe"
html_static_path = ["static"]
html_css_files = ["gmmpipe.css"]
html_copy_source = False
templates_path: list[str] = []
