"""Parts of a report for a notebook: style and still pictures, nothing that runs or leads away."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from lrexp.report.html.page import join, package_text

HEIGHT = 560  # pixels, where the frame cannot ask how high its content is
# of a cell: nothing around the content, and headings like those of a notebook
STYLE = "body{padding:0 2px 8px}header{padding:4px 0 18px}h1{font-size:1.3rem}"
# how high its content is, it is asked when it has been drawn
FITTED = "this.style.height=this.contentDocument.documentElement.offsetHeight+'px'"


def excerpt(title: str, top: Markup, *parts: Markup) -> str:
    """A frame with a page of its own in it: its style touches nothing of the notebook, nor theirs.

    Args:
        title: of the frame, for those who cannot see it.
        top: what stands above the parts: `tags.head`.
        parts: figures and tables. Links and the data that a script would draw are left out.
    """
    head = Markup('<meta charset="utf-8"><style>{}</style>').format(
        Markup(package_text("report.css") + STYLE)
    )
    body = Markup("<header>{}</header><main>{}</main>").format(top, join(*parts))
    still = re.sub(r"<script\b.*?</script>|</?a\b[^>]*>", "", body, flags=re.DOTALL)
    still = re.sub(r"<button type=\"button\">(.*?)</button>", r"\1", still, flags=re.DOTALL)
    document = f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{still}</body></html>'
    return Markup(
        '<iframe title="{}" srcdoc="{}" onload="{}" style="width:100%;height:{}px;border:0">'
        "</iframe>"
    ).format(title, escape(str(document)), FITTED, HEIGHT)
