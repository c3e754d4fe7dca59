"""The HTML around a report's data: one file, whose policy lets the browser load nothing and run only this script."""

import base64
import hashlib
from html import escape
from importlib.metadata import version
from importlib.resources import files

from pydantic import BaseModel

from subcircuit.report.arrays import Arrays, packed
from subcircuit.report.concepts import ConceptPayload
from subcircuit.report.graphs import GraphPayload
from subcircuit.report.payload import Payload

__all__ = ["page"]

POLICY = "default-src 'none'; script-src '{script}'; style-src '{style}'; base-uri 'none'; form-action 'none'"
LIVE = "; connect-src 'self'"  # of a page that is served


def page(content: Payload | GraphPayload | ConceptPayload, arrays: Arrays, live: BaseModel | None = None) -> str:
    """The whole file. With `live`, which tells of a model behind it, the page may ask the server it came from."""
    script, style = (_static(name) for name in ("viewer.js", "viewer.css"))
    policy = POLICY.format(script=_hash(script), style=_hash(style)) + LIVE * (live is not None)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="subcircuit {version("subcircuit")}">
<title>{escape(content.title)}</title>
<style>{style}</style>
</head>
<body>
<div id="app"><p class="waiting">Opening the report …</p></div>
<noscript><p class="waiting">This report draws itself with JavaScript, which is switched off here.</p></noscript>
<script type="text/plain" id="data">{packed(content, arrays)}</script>{_block(live)}
<script>{script}</script>
</body>
</html>
"""


def _block(live: BaseModel | None) -> str:
    """A block of JSON in which no text can end the element."""
    if live is None:
        return ""
    return (
        f'\n<script type="application/json" id="live">{live.model_dump_json().replace("<", chr(92) + "u003c")}</script>'
    )


def _static(name: str) -> str:
    return (files("subcircuit.report") / "static" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
