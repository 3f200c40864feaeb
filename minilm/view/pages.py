"""Pages in one file: no server, no network, and no script but the page's own."""

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from string import Template

from minilm.cli.terminal import escaped

HEAD = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">$refresh
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; base-uri 'none'; \
style-src 'unsafe-inline'; script-src 'sha256-$digest'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head><body><main>""")


def text_of(name: str) -> str:
    """A file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def page(title: str, body: str, data: dict | None = None, script: str = "", refresh=0) -> str:
    """A page as HTML. `title` and `data` may hold anything; `body` is HTML; refresh: after so many
    seconds the browser reads it again.

    The page's policy lets nothing be loaded, and no script run but `script`, which is named by its
    hash: what a corpus or a model contributes stays text even where an escape were missing.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    style = text_of("style.css") + text_of("inside.css")
    head = HEAD.substitute(refresh=again, digest=digest, title=escape(title), style=style)
    dumped = json.dumps(data, separators=(",", ":"), allow_nan=False)
    dumped = dumped.replace("<", "\\u003c")  # so nothing in it ends the element, or begins another
    added = f'<script type="application/json" id="data">{dumped}</script><script>{script}</script>'
    return f"{head}{body}</main>{added if script else ''}</body></html>\n"


def inside_page(about: str, record: dict) -> str:
    """The page about one text, from what `recording.inside` returns; `about`: which model it is."""
    cut = f"The text was cut: {record['left_out']:,} more tokens are not shown."
    cut = cut if record["left_out"] > 0 else ""
    body = Template(text_of("inside.html")).substitute(about=escape(escaped(about)), left_out=cut)
    return page("A text inside the model", body, record, text_of("inside.js"))
