"""The site of docs/: `make docs` writes site/, which needs no network to be built, read or searched.

Pages stay plain Markdown that any viewer shows. A link that leads nowhere, a heading that is not there and a page that
no list names are errors.
"""

from importlib.metadata import version as installed

project, author, copyright = "hnmine", "the hnmine authors", "the hnmine authors, Apache 2.0"
release = version = installed("hnmine")
extensions = ["myst_parser"]
exclude_patterns = ["tools"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "hnmine"
html_show_sourcelink = html_copy_source = False
html_show_search_summary = False  # a browser may not fetch the pages of a folder
highlight_language = "none"  # of code that says no language
nitpicky = True
