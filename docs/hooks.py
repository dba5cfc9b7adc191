"""What the site takes from the package itself when it is built: each command's help, all checks, all that `verify --harsh` does.

A page says where: a line such as `<!-- generated: commands -->`. Hooks of mkdocs call the rest; `mkdocs` itself is
not needed here, so that tests can ask for the pages as they will be.
"""
from __future__ import annotations

import argparse
import functools
import json
import re
from html import unescape
from pathlib import Path
from typing import Any, Dict, Iterator, List, Match, Tuple

_MARK = re.compile(r"<!-- generated: (\w+) -->")
_JOIN = re.compile(r"(?<=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])\n *(?=[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef])")
"""A line that ends in Chinese, and goes on, indented in a list: HTML would show the break as a blank."""

_sections: List[Dict[str, str]] = []
_OTHER = {"en": ("zh", "中文"), "zh": ("en", "English")}
_FROM_ELSEWHERE = re.compile(
    r"<(?:script|link|img|iframe|source|audio|video|embed|object)\b[^>]*?\b(?:src|href|data)=[\"']?(?:https?:)?//[^>]*>"
    r"|url\([\"']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*;", re.IGNORECASE)


def commands() -> str:
    """Every command of `ymir-exc` under a heading of its own, with its whole help, in Markdown."""
    from ymir_exc.commands import COMMANDS
    parts = []
    for name, line in COMMANDS.items():
        shown = parser_of(name).format_help().rstrip()
        parts.append(f"## ymir-exc {name}\n\n{line[:1].upper()}{line[1:]}.\n\n```help\n{shown}\n```\n")
    return "\n".join(parts)


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command; its help is as wide as a page, whatever the terminal."""
    from ymir_exc.commands import add
    subparsers = argparse.ArgumentParser(prog="ymir-exc").add_subparsers()
    add(subparsers, name, True)
    parser: argparse.ArgumentParser = subparsers.choices[name]
    parser.formatter_class = functools.partial(argparse.RawDescriptionHelpFormatter, width=100)
    return parser


def checks() -> str:
    """Every rule that `ymir-exc check` knows, in Markdown."""
    from ymir_exc.host import check
    return check.describe_rules()


def rows() -> str:
    """What `verify --harsh` does to an image, in Markdown."""
    from ymir_exc.host.verify import ROWS
    lines = ["| row | what is done | what the image must do | why |", "|---|---|---|---|"]
    for row in ROWS:
        lines.append(f"| {row.name} | {row.what} | {row.expected} | {row.reason} |")
    return "\n".join(lines) + "\n"


def complete(markdown: str) -> str:
    """The page with what is generated in it."""
    makers = {"commands": commands, "checks": checks, "rows": rows}

    def made(match: Match[str]) -> str:
        return makers[match[1]]()

    return _MARK.sub(made, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page on its way to HTML: completed, and with a link to itself in the other language."""
    folder, _slash, name = page.file.src_uri.partition("/")
    if folder not in _OTHER:
        return markdown
    other, label = _OTHER[folder]
    return f"[{label}](../{other}/{name})\n\n{joined(complete(markdown))}"


def joined(markdown: str) -> str:
    """The text, no paragraph of which is broken between two Chinese characters; code is left as it is."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _JOIN.sub("", part) for part in parts)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The page as HTML: its language is that of its folder."""
    return output.replace('<html lang="en"', '<html lang="zh-CN"', 1) if page.file.src_uri.startswith("zh/") else output


def on_pre_build(**_: Any) -> None:
    """Before a build: nothing is in the index."""
    _sections.clear()


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """Remember a page's sections for the search."""
    _sections.extend(sections(html, page.url))


def sections(html: str, url: str) -> List[Dict[str, str]]:
    """The sections of a page: where, the heading, and the words below it."""
    parts = re.split(r'<h[1-3] id="([^"]*)">(.*?)</h[1-3]>', html, flags=re.DOTALL)
    return [{"url": f"{url}#{anchor}", "title": _words(title), "text": _words(text)}
            for anchor, title, text in zip(parts[1::3], parts[2::3], parts[3::3])]


def _words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def on_post_build(config: Any, **_: Any) -> None:
    """Write the index of the search, and refuse a site that would load something from the network.

    Raises:
        ValueError: It names the files, and what they ask for.
    """
    index = json.dumps(_sections, ensure_ascii=False)
    Path(config["site_dir"], "search-index.js").write_text(f"window.SECTIONS = {index};\n", encoding="utf-8")
    found = [f"{path}: {text}" for path, text in from_elsewhere(Path(config["site_dir"]))]
    if found:
        raise ValueError("the site needs the network: " + "; ".join(found))


def from_elsewhere(site: Path) -> Iterator[Tuple[Path, str]]:
    """Each file of a built site that asks for something from another host, and the words that do."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css"):
            for match in _FROM_ELSEWHERE.finditer(path.read_text(encoding="utf-8")):
                yield path.relative_to(site), match[0]
