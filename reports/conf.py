"""Sphinx configuration of the report; its pages are written by `python -m saebook site`."""

from __future__ import annotations

import html
from importlib.util import find_spec

project = "The SAE Handbook"
author = "The SAE Handbook authors"
extensions = ["myst_nb"]
exclude_patterns = [".build", "extra"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["report.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "show_navbar_depth": 2,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
# Interactive views need a kernel, and their scripts a network: a page has neither.
nb_ipywidgets_js = {}
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "toc.not_included"]


def _math(latex: str, display: str) -> str:
    """Formula as MathML, which browsers draw without a script from the network."""
    from latex2mathml.converter import convert

    try:
        return convert(latex, display=display)
    except Exception:
        return f"<code>{html.escape(latex)}</code>"


def _inline_math(self, node):
    self.body.append(_math(node.astext(), "inline"))
    raise _skip()


def _block_math(self, node):
    self.body.append(f'<div class="formula">{_math(node.astext(), "block")}</div>')
    raise _skip()


def _skip() -> Exception:
    from docutils.nodes import SkipNode

    return SkipNode()


# MathML needs no script from the network; without the converter Sphinx's MathJax draws formulas.
if find_spec("latex2mathml"):
    html_math_renderer = "mathml"


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
