"""Puts the page together: one file, with nothing to be fetched from anywhere."""
from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Dict

ASSETS = Path(__file__).resolve().parent / "assets"
SCRIPTS = ("words.js", "base.js", "charts.js", "overview.js", "quality.js", "gallery.js", "main.js")
MARK = "ymir-exc report"
"""Stands in the head of every page and every report.json; what lacks it is not overwritten."""


def page(document: Dict[str, Any]) -> str:
    """The page that shows a document.

    Args:
        document: `report`, as report.json has it, and `pictures`, one for each image of its gallery.

    Returns:
        HTML. Only the script and the style that are part of it are run: its policy names their hashes.
    """
    style = _asset("page.css")
    script = "(() => {\n'use strict';\n" + "".join(_asset(name) for name in SCRIPTS) + "})();\n"
    policy = (f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
              "base-uri 'none'; form-action 'none'")
    parts = {"MARK": MARK, "POLICY": policy, "STYLE": style, "DATA": escaped(document), "SCRIPT": script}
    text = _asset("page.html")
    pieces = text.split("%%")
    return "".join(parts[piece] if n % 2 else piece for n, piece in enumerate(pieces))


def escaped(value: Any) -> str:
    """JSON that can stand in a <script>: no `<` is left in it, so no name can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(sign, escape)
    return text.encode("utf-8", "replace").decode("utf-8")    # a lone surrogate, from a name that is not UTF-8, has no bytes


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
