"""The pages of docs/ as tests read them: their code, headings, links and words in code type."""
from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LANGUAGES = ("en", "zh")
PAGES = sorted(path.name for path in (DOCS / "en").glob("*.md"))
BOTH = [f"{language}/{name}" for language in LANGUAGES for name in PAGES]
TI_EXAMPLES = ROOT / "tests" / "docker" / "ti_examples"
"""Programs that pages show literally, and that run in containers."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = _hooks()


class Code(NamedTuple):
    language: str
    text: str


def source(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def code(page: str, *languages: str) -> List[Code]:
    """The code blocks; all that are in one of the languages, where any is named."""
    found = [Code(*match) for match in _FENCE.findall(source(page))]
    return [one for one in found if not languages or one.language in languages]


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def headings(text: str) -> List[Tuple[int, str]]:
    return [(len(level), title) for level, title in re.findall(r"^(#+) (.+)$", prose(text), re.MULTILINE)]


def anchors(page: str) -> Dict[str, str]:
    """What a link may end in, as the site makes it of a heading: from the page as it will be, generated parts and all."""
    made: Dict[str, str] = {}
    for _, title in headings(hooks.complete(source(page))):
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower())
        number = 1
        while slug in made:
            slug, number = f"{slug.partition('_')[0]}_{number}", number + 1
        made[slug] = title
    return made


def inline_code(page: str) -> List[str]:
    return re.findall(r"`([^`\n]+)`", prose(source(page)))


def links(page: str) -> List[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(source(page)))
