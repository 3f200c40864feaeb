"""Pages in one file: no server, no network, and no script but the page's own."""

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from string import Template

from minilm.cli.terminal import escaped

HERE = Path(__file__).parent


def text_of(name: str) -> str:
    """A file that lies beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def page(
    title: str, body: str, data: dict | None = None, script: str = "", refresh: int = 0
) -> str:
    """A page as HTML. `title` and `data` may hold anything; `body` is HTML.

    The page's policy lets nothing be loaded, and no script run but `script`, which is named by its
    hash: what a corpus or a model contributes stays text even where an escape were missing.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    style = text_of("style.css") + text_of("inside.css")
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{again}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}; base-uri \'none\'">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>{body}</main>"
    ]
    if data is not None:  # no "<" in it: nothing can end the element, or begin another
        dumped = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        parts.append(f'<script type="application/json" id="data">{dumped}</script>')
        parts.append(f"<script>{script}</script>")
    return "".join([*parts, "</body></html>\n"])


def inside_page(about: str, record: dict) -> str:
    """The page about one text, from what `recording.inside` returns; `about`: which model it is."""
    left_out = record["left_out"]
    cut = f"The text was cut: {left_out:,} more tokens are not shown." if left_out > 0 else ""
    body = Template(text_of("inside.html")).substitute(about=escape(escaped(about)), left_out=cut)
    return page("A text inside the model", body, record, text_of("inside.js"))
