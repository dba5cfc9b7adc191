"""The pages of docs/ agree with the package, their links lead somewhere, and both languages show the same."""
from __future__ import annotations

import importlib
import re
import shlex

import pytest

pytest.importorskip("numpy")
pytest.importorskip("PIL")
pytest.importorskip("rich")
pytest.importorskip("jinja2")

from tests.docs.pages import (
    BOTH,
    DOCS,
    LANGUAGES,
    PAGES,
    ROOT,
    TI_EXAMPLES,
    anchors,
    code,
    headings,
    hooks,
    inline_code,
    links,
    prose,
    source,
)
from tests.test_api import NAMES
from tests.test_readme import all_below, without_comments
from ymir_exc import commands, errors
from ymir_exc.host.check import all_rules
from ymir_exc.host.verify import ROWS
from ymir_exc.platforms.ti._variables import DIALECTS

# ------------------------------------------------------------------------------------------------------------ both languages

def test_both_languages_have_the_same_pages():
    assert sorted(path.name for path in (DOCS / "zh").glob("*.md")) == PAGES
    assert len(PAGES) > 10


def test_every_page_is_in_the_navigation_once():
    named = re.findall(r"\b((?:en|zh)/[\w-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(BOTH)


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_have_the_same_structure(page):
    english, chinese = ([level for level, _ in headings(source(f"{language}/{page}"))] for language in LANGUAGES)
    assert english == chinese
    rows = [[line.count(" |") for line in source(f"{language}/{page}").splitlines() if line.startswith("|")] for language in LANGUAGES]
    assert rows[0] == rows[1]
    items = [len(re.findall(r"^(?:- |\d+\. )", prose(source(f"{language}/{page}")), re.MULTILINE)) for language in LANGUAGES]
    assert items[0] == items[1]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_show_the_same_code(page):
    """Trees of folders carry explanations, so their text may differ; in all else only comments may."""
    shown = [[(one.language, without_comments(one.text)) for one in code(f"{language}/{page}") if "──" not in one.text]
             for language in LANGUAGES]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_name_the_same_things(page):
    assert set(inline_code(f"en/{page}")) == set(inline_code(f"zh/{page}"))


def test_chinese_pages_are_chinese():
    for page in PAGES:
        words = re.sub(r"<!--.*?-->|`[^`]*`", "", prose(source(f"zh/{page}")))
        assert len(re.findall(r"[一-鿿]", words)) > 100, page
        assert not re.search(r"[一-鿿]", source(f"en/{page}")), page


# ---------------------------------------------------------------------------------------------------------------------- links

@pytest.mark.parametrize("page", BOTH)
def test_links_lead_somewhere(page):
    for target in links(page):
        assert not target.startswith(("/", "http")), f"{target}: the pages link to each other alone"
        path, _, anchor = target.partition("#")
        found = (DOCS / page).parent / path if path else DOCS / page
        assert found.is_file(), target
        if anchor:
            assert anchor in anchors(str(found.resolve().relative_to(DOCS))), target


def test_each_language_links_to_its_own_pages():
    for page in BOTH:
        assert all("/" not in target or target.startswith("../images/") for target in links(page)), page


# ------------------------------------------------------------------------------------------------- agreement with the package

def test_every_error_code_has_its_section():
    kinds = {}
    for kind in (errors.YmirError, *all_below(errors.YmirError)):
        if kind.__module__ == "ymir_exc.errors":
            kinds.setdefault(str(int(kind.return_code)), set()).add(kind.__name__)
    kinds["160004"].discard("YmirError")
    for language in LANGUAGES:
        text = source(f"{language}/errors.md")
        assert {title for _, title in headings(text) if title.isdigit()} == set(kinds)
        table = dict(re.findall(r"^\| \[(\d+)\]\(#\1\) \|[^|]*\|([^|]*)\|$", text, re.MULTILINE))
        assert {number: set(re.findall(r"`(\w+)`", names)) for number, names in table.items()} == kinds


def test_the_command_reference_is_complete():
    page = hooks.complete(source("en/commands.md"))
    found = [title for level, title in headings(page) if level == 2]
    assert found == [*(f"ymir-exc {name}" for name in commands.COMMANDS), "What `verify --harsh` does"]
    assert re.findall(r"^\| ([a-z-]+) \|", page, re.MULTILINE)[1:] == [row.name for row in ROWS]
    assert page.count("examples:\n") == len(commands.COMMANDS)
    assert "<!--" not in page


def test_the_list_of_checks_is_complete():
    for language in LANGUAGES:
        page = hooks.complete(source(f"{language}/checks.md"))
        assert [number for number in all_rules() if not re.search(rf"\b{number}\b", page)] == []
        assert "<!--" not in page


def test_names_that_stay_are_there():
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", source("en/migrate.md").partition("## Names that stay")[2], re.MULTILINE)
    assert rows
    for module, names in rows:
        found = importlib.import_module(f"ymir_exc.{module}")
        assert [name for name in re.findall(r"`(\w+)`", names) if not hasattr(found, name)] == []
        assert set(NAMES) > {module}


def test_variables_of_the_base_image_are_read_somewhere():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ymir_exc").rglob("*.py"))
    table = source("en/base-image.md").partition("## Environment variables")[2]
    for name in re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE):
        assert f'"{name}"' in text, name


INTERNAL = {"YMIR_EXC_SUPERVISED", "YMIR_EXC_FAILURES", "YMIR_EXC_NO_TASK"}    # one of our processes tells another


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_variable_of_ours_is_in_a_table(language):
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ymir_exc").rglob("*.py"))
    rows = "\n".join(line for page in PAGES for line in source(f"{language}/{page}").splitlines() if line.startswith("| `"))
    read = set(re.findall(r'"(YMIR_EXC_[A-Z_]+)"', text))
    assert len(read) > 10
    assert set(re.findall(r"`(YMIR_EXC_[A-Z_]+)`", rows)) == read - INTERNAL


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_examples_of_ti_are_those_that_run_in_containers(language):
    files = [path for path in TI_EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    shown = [one.text for one in code(f"{language}/ti-jobs.md")]
    assert len(files) == 7
    assert [str(path) for path in files if path.read_text(encoding="utf-8") not in shown] == []


def test_the_image_with_a_script_is_the_one_that_runs_in_a_container():
    text = (TI_EXAMPLES.parent / "plain" / "Dockerfile").read_text(encoding="utf-8")
    for language in LANGUAGES:
        assert without_comments(code(f"{language}/tencent-ti.md", "dockerfile")[0].text).strip() == without_comments(text).strip()


def test_the_table_of_arguments_is_right():
    given = {"k": 1}, {"key": True}, {"key": ""}, {"key": None}, {"key": {"a": 1, "b": True}}
    rows = [line.strip("| ").split(" | ")[1:] for line in source("en/tencent-ti.md").partition("| | `ti` |")[2].splitlines()[3:8]]
    for values, cells in zip(given, rows):
        assert len(cells) == 3
        for dialect, cell in zip(("ti", "sagemaker", "json"), cells):
            assert DIALECTS[dialect](values) == shlex.split(cell.strip("`"))


def test_the_search_knows_every_section():
    html = '<h1 id="one">One &amp; all</h1>\n<p>first <code>&lt;b&gt;</code></p>\n<h2 id="二">二</h2><p>第二</p>'
    assert hooks.sections(html, "en/page.html") == [
        {"url": "en/page.html#one", "title": "One & all", "text": "first <b>"},
        {"url": "en/page.html#二", "title": "二", "text": "第二"}]


def test_a_site_that_needs_the_network_is_refused(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<a href="https://example.org">a link</a><script src="base.js"></script><img src="a.png">', encoding="utf-8")
    hooks.on_post_build({"site_dir": str(tmp_path)})
    for text in ('<script src="https://example.org/x.js"></script>', '<link rel="stylesheet" href="//example.org/x.css">',
                 "<style>@import '//example.org/x.css';</style>", "<p style='background: url(https://example.org/x.png)'>"):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"page\.html.*example\.org"):
            hooks.on_post_build({"site_dir": str(tmp_path)})


def test_chinese_paragraphs_have_no_blanks_where_lines_end():
    text = "第一行，\n第二行\nword\n\n- 一项\n  还没完\n- 二项\n\n```python\n# 注释\nprint()    # 中文\n中文 = 1\n```\n"
    assert hooks.joined(text) == "第一行，第二行\nword\n\n- 一项还没完\n- 二项\n\n```python\n# 注释\nprint()    # 中文\n中文 = 1\n```\n"
