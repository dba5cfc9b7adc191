"""The report in a real browser: what a person sees, clicks, types and reads."""
from __future__ import annotations

import json
import re
import time

import pytest

pytest.importorskip("numpy")
pytest.importorskip("PIL")

from tests.browser import chromium
from tests.host.report_cases import EVIL, IMAGES, write_events, write_task
from ymir_exc.host import report

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium.program() is None, reason="needs Chromium: apt-get install chromium")]

MANY = {**IMAGES, **{f"c{n:02}.png": ([(0, 5, 5, 44, 44)], [("cat", 0.95, (5, 5, 40, 40))]) for n in range(30)}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page with everything on it: a task that failed, findings, an image that is gone, an object that cannot be used."""
    root = write_task(tmp_path_factory.mktemp("report of 任务") / "training", MANY)
    result = root / "out/models/result.yaml"
    result.write_text(result.read_text(encoding="utf-8").replace("mAP: 0.25", "mAP: 25.0"), encoding="utf-8")
    (root / "out/monitor.txt").write_text("t0\t2000.000000\t0.40\t4\t300103\tno memory\nno memory\n", encoding="utf-8")
    (root / "in/assets/c29.png").unlink()
    found = json.loads((root / "out/infer-result.json").read_text(encoding="utf-8"))
    found["detection"]["a.png"]["boxes"].append({"class_name": "cat"})
    (root / "out/infer-result.json").write_text(json.dumps(found), encoding="utf-8")
    return report.write_report([root], root / "report.html")


@pytest.fixture(scope="module")
def browser():
    started = chromium.Browser()
    yield started
    started.close()


@pytest.fixture
def page(browser, made):
    """The page as it opens for the first time; nothing may have been complained of when the test ends."""
    browser.resize(1280, 6000)    # all tiles are near the window, and so are drawn
    browser.prefer("light")
    browser.open(made.page).run("localStorage.clear()")
    assert opens_in(browser, made, "en")
    yield browser
    assert browser.complaints == []


def opens_in(page, made, language):
    """Whether the page opens in this language. A storage is shared between a browser's processes: soon, and not always at once."""
    end = time.monotonic() + 30
    while page.open(made.page).run("document.documentElement.lang") != language:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def count(page, selector):
    page.settle()
    return page.run(f"document.querySelectorAll({json.dumps(selector)}).length")


def text(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def put(page, selector, value, event):
    node = f"document.querySelector({json.dumps(selector)})"
    page.run(f"{node}.value = {json.dumps(value)}; {node}.dispatchEvent(new Event('{event}'))")
    page.settle()


def choose(page, selector, value):
    put(page, selector, value, "change")


def slide(page, selector, value):
    put(page, selector, value, "input")


def boxes_at(threshold, label=None):
    """Found objects of the first page's images, in the order of most mistakes, from the data themselves."""
    def mistakes(item):
        labels, found = item[1]
        seen = [one for one in found if one[1] >= threshold and label in (None, one[0])]
        labels = [one for one in labels if label in (None, ("cat", "dog")[one[0]])]
        # In these data what was found is right where the class and the left edge nearly agree.
        hits = sum(any(("cat", "dog")[a] == b and abs(x - box[0]) < 5 for b, _, box in seen) for a, x, *_ in labels)
        return len(labels) - hits + len(seen) - hits, len(seen), len(labels)
    kept = [mistakes(item) for item in MANY.items() if any(mistakes(item)[1:])]
    kept.sort(key=lambda one: -one[0])
    return sum(one[1] for one in kept[:24])


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.21, 0.3, 0.4, 0.41, 0.8, 0.95, 0.96])
def test_the_slider_decides_how_many_boxes_are_drawn(page, threshold):
    slide(page, "#score", round(threshold * 100))
    assert count(page, "#tiles rect.box") == boxes_at(threshold)
    everywhere = sum(score >= threshold for _, found in MANY.values() for _, score, _ in found)
    assert text(page, "#status") == f"{len(MANY)} images, {everywhere} found objects at this score"


def test_the_slider_moves_the_figures_below(page):
    def row(name):
        return next(line.split()[1:] for line in text_lines(page, "#rates tr") if line.startswith(name))

    slide(page, "#score", 0)
    assert row("cat") == ["31", "33", "0.939", "1.000", "0.969"] and row("dog") == ["2", "2", "0.500", "0.500", "0.500"]
    slide(page, "#score-quality", 50)
    assert row("cat") == ["31", "32", "0.969", "1.000", "0.984"] and row("dog") == ["2", "0", "–", "0.000", "0.000"]
    assert page.run("document.getElementById('score').value") == "50", "one threshold for the whole page"
    assert [line.split() for line in text_lines(page, ".confusion tbody tr")] == [
        ["cat", "31", "0", "0"], ["dog", "1", "0", "1"], ["nothing", "0", "0", "–"]], "the false cat lies on a dog"
    assert "0.50" in text(page, "#confusion-title")
    for threshold, expected in ((80, ["dog", "1", "0", "1"]), (81, ["dog", "0", "0", "2"])):
        slide(page, "#score", threshold)
        assert text_lines(page, ".confusion tbody tr")[1].split() == expected


def text_lines(page, selector):
    return page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.innerText)")


def test_one_class_alone(page):
    slide(page, "#score", 0)
    choose(page, "#class", "1")
    assert count(page, "#tiles .tile") == 2 and count(page, "#tiles rect.box") == boxes_at(0, "dog") == 2
    assert count(page, '#tiles rect.box[data-class="0"]') == 0
    choose(page, "#class", "-1")
    assert count(page, "#tiles .tile") == 24


def test_the_order(page):
    slide(page, "#score", 45)
    worst = text_lines(page, "#tiles .caption span:nth-child(2)")
    assert worst[:3] == ["1 missed · 1 false", "1 missed", "all right"] and set(worst[3:]) == {"all right"}
    choose(page, "#sort", "name")
    names = text_lines(page, "#tiles .name")
    assert names == sorted(MANY)[:24]
    choose(page, "#sort", "rank")
    assert text_lines(page, "#tiles .name") == list(MANY)[:24], "as result.tsv has them"


def test_paging(page):
    assert text(page, "#where") == "1 to 24 of 33" and page.run("document.getElementById('previous').disabled")
    page.run("document.getElementById('next').click()")
    assert text(page, "#where") == "25 to 33 of 33" and count(page, "#tiles .tile") == 9
    assert page.run("document.getElementById('next').disabled")


def test_found_and_labels_can_be_left_out(page):
    before = count(page, "#tiles rect.true")
    page.run("document.getElementById('show-found').click()")
    assert (count(page, "#tiles rect.box"), count(page, "#tiles rect.true")) == (0, before)
    page.run("document.getElementById('show-truth').click()")
    assert before == 24 and count(page, "#tiles rect") == 0


def test_both_languages(page, made):
    assert page.run("document.documentElement.lang") == "en"
    english = text_lines(page, "h2")
    assert english == ["Summary", "Findings", "Model stages", "Curves", "Images", "Mining ranking", "Precision and recall", "Log",
                       "Environment"]
    page.run("document.getElementById('language').click()")
    assert page.run("document.documentElement.lang") == "zh-CN"
    assert text_lines(page, "h2") == ["概要", "检查结果", "模型阶段", "曲线", "图像", "挖掘排序", "精确率与召回率", "日志", "环境"]
    assert "报告" in page.run("document.title") and text(page, "#skip") == "跳到正文"
    assert opens_in(page, made, "zh-CN"), "it is remembered"
    left = re.sub(r"[\x00-\x7f]", "", "".join(text_lines(page, "h2, button:not(.tile):not(#language), label, summary")))
    assert left and not re.search("Show|Next|Class|Order", "".join(text_lines(page, "button:not(.tile):not(#language), label, thead th")))
    page.run("localStorage.clear()")


def test_the_keyboard_alone(page):
    page.resize(1280, 900)
    page.key("Tab")
    assert page.run("document.activeElement.id") == "skip"
    page.key("Enter")
    assert page.run("location.hash") == "#content"
    page.run("document.getElementById('score').focus()")
    slide(page, "#score", 50)
    page.key("ArrowLeft", 3)
    assert page.run("document.getElementById('score').value") == "47" and "0.47" in text(page, "#images output")
    reached = []
    for _ in range(6):
        page.key("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.className"))
    assert reached == ["class", "sort", "show-found", "show-truth", "tile", "tile"]
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid", "what has the focus is seen"
    page.key("Enter")
    assert page.run("document.getElementById('viewer').open")
    first = text(page, "#viewer h3")
    page.key("ArrowRight")
    second = text(page, "#viewer h3")
    assert first != second
    page.key("ArrowLeft")
    assert text(page, "#viewer h3") == first
    page.key("Escape")
    assert not page.run("document.getElementById('viewer').open")
    assert page.run("document.activeElement.className") == "tile", "the focus is back where it was"


def test_what_the_viewer_tells(page):
    slide(page, "#score", 25)
    page.run("document.querySelector('#tiles .tile').click()")
    rows = [line.split("\t") for line in text_lines(page, "#viewer tbody tr")]
    assert [[row[0].strip(), row[1], row[3]] for row in rows] == [
        ["cat", "0.80", "not there"], ["dog", "0.30", "not there"], ["dog", "–", "missed"]]
    assert page.run("document.getElementById('viewer-previous').disabled")
    page.run("document.getElementById('viewer-close').click()")


def test_curves_are_read_by_pointer_and_by_keys(page):
    chart = "document.querySelector('#curves .chart svg')"
    page.run(f"{chart}.focus()")
    page.key("ArrowRight", 2)
    assert text(page, "#tip") == "step 1\n0.5" and page.run("!document.getElementById('tip').hidden")
    page.key("Escape")
    assert page.run("document.getElementById('tip').hidden")
    x, y, width, height = page.run(f"(() => {{ const b = {chart}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width - 14, y=y + height / 2)
    page.settle()
    assert text(page, "#tip") == "step 2\n0.1"
    before = page.run(f"{chart}.querySelector('.series').getAttribute('d')")
    page.run("document.getElementById('log-scale').click()")
    assert page.run(f"{chart}.querySelector('.series').getAttribute('d')") != before


def test_faults_are_told(page):
    assert text(page, "#summary .pill") == "✕ failed" and text(page, "#summary .said") == "no memory"
    assert any("T1" in one for one in text_lines(page, "#findings .pill")), "a finding of `ymir-exc check`"
    assert "box or score, which are left out: 1" in text(page, ".said.warn")
    choose(page, "#sort", "rank")
    page.run("document.getElementById('next').click()")
    page.settle()
    assert "cannot be shown" in text(page, "#tiles .gone") and count(page, "#tiles .gone") == 1


def test_names_stay_text(page):
    assert page.run("window.ran") is None
    assert EVIL.replace("/", "∕") in text_lines(page, "#tiles .name")
    assert count(page, "main script, main [onerror], main img:not([src^='data:'])") == 0
    assert EVIL in text(page, "pre") and count(page, "pre *, .name *") == 0


def test_nothing_is_fetched_and_nothing_else_may_run(page, made):
    assert {url for url in page.requests if not url.startswith("data:")} == {made.page.resolve().as_uri()}
    page.run("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)")
    refused = page.run("fetch('http://127.0.0.1:9/').then(() => 'answered', () => 'refused')")
    assert refused == "refused" and page.run("window.ran") is None
    assert any("Content Security Policy" in one for one in page.complaints), "the policy is in force"
    page.complaints.clear()


CONTRAST = """(() => {
  const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const over = (top, under) => [0, 1, 2].map((n) => top[n] * top[3] + under[n] * (1 - top[3]));
  const behind = (node) => {
    const stack = [];
    for (let at = node; at; at = at.parentElement) stack.push(parse(getComputedStyle(at).backgroundColor));
    return stack.reverse().reduce((under, top) => over(top, under), [255, 255, 255]); };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || ['SCRIPT', 'STYLE', 'NOSCRIPT', 'OPTION'].includes(node.tagName)) continue;
    if (!node.checkVisibility() || node.closest(':disabled')) continue;
    const style = getComputedStyle(node), back = behind(node);
    const ink = over(parse(node instanceof SVGElement ? style.fill : style.color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.textContent.slice(0, 40), style.color, back.join(' ')]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_is_legible(page, theme):
    page.prefer(theme)
    slide(page, "#score", 10)
    assert page.run("document.documentElement.dataset.theme") == theme
    is_dark = page.run("getComputedStyle(document.documentElement).backgroundColor").startswith("rgb(1")
    assert is_dark == (theme == "dark")
    found = page.run(CONTRAST)
    assert len(found) > 150 and found[0][0] >= 4.5, found[:5]
    assert count(page, ".pill.bad") and count(page, ".said.warn li") and count(page, "li.level-error"), "what tells of faults is judged too"


def test_the_theme_can_be_chosen(page):
    themes = []
    for _ in range(3):
        page.run("document.getElementById('theme').click()")
        themes.append(page.run("document.documentElement.dataset.theme"))
    assert themes == ["dark", "light", "light"], "dark, light, and what the system prefers"
    page.prefer("dark")
    assert page.run("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_narrow_screen_scrolls_one_way_only(page, language):
    if language == "zh":
        page.run("document.getElementById('language').click()")
    page.resize(360, 740, mobile=True)
    page.settle()
    assert page.run("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    page.run("document.querySelector('#tiles .tile').click()")
    page.settle()
    assert page.run("document.getElementById('viewer').scrollWidth <= document.getElementById('viewer').clientWidth")
    page.run("document.getElementById('viewer-close').click(); localStorage.clear()")


def test_only_what_is_near_is_drawn(page, made):
    page.resize(1280, 400)
    page.open(made.page)
    assert count(page, "#mining .frame img") == 0
    page.run("document.getElementById('mining').scrollIntoView({ behavior: 'instant' })")
    page.settle()
    page.settle()
    assert count(page, "#mining .frame img") > 0


def folder_of(page, made):
    """Of the tests' own pages, beside the one that all share."""
    return made.page.parent.parent


def test_turned_boxes_are_drawn_as_they_lie(page, made):
    root = write_task(folder_of(page, made) / "turned", {"r.png": ([], [("cat", 0.9, (10, 40, 100, 20))])})
    (root / "in/annotations/0.txt").write_text("0, 10, 40, 109, 59, -1.0, 1.5707964\n", encoding="utf-8")
    found = json.loads((root / "out/infer-result.json").read_text(encoding="utf-8"))
    found["detection"]["r.png"]["boxes"][0]["box"]["rotate_angle"] = 0.7853982
    (root / "out/infer-result.json").write_text(json.dumps(found), encoding="utf-8")
    page.open(report.write_report([root], root / "report.html").page)
    count(page, "#tiles rect")
    sides = page.run("""['box', 'true'].map((kind) => { const { width, height } = document.querySelector(`#tiles rect.${kind}`)
      .getBoundingClientRect(); return width / height; })""")
    assert sides[0] == pytest.approx(1.0, abs=0.05), "by 45 degrees it is as wide as high"
    assert sides[1] < 0.3, "by 90 degrees it stands"
    assert "radians" in text(page, "#images .note") and "mAP is not computed for turned boxes" in text(page, "#quality .note")
    page.run("document.querySelector('#tiles .tile').click()")
    assert "∠ 45°" in text(page, "#viewer tbody tr")
    page.run("document.getElementById('viewer-close').click()")


def test_long_names_and_many_classes_stay_in_the_window(page, made):
    names = ["w" * 300, *(f"class {n}" for n in range(30))]
    root = write_task(folder_of(page, made) / "names", {f"{n}.png": ([(0, 5, 5, 44, 44)], [(name, 0.9, (5, 5, 40, 40))])
                                                       for n, name in enumerate(names)})
    config = (root / "in/config.yaml").read_text(encoding="utf-8").replace("- cat", f"- {names[0]}")
    (root / "in/config.yaml").write_text(config, encoding="utf-8")
    page.open(report.write_report([root], root / "report.html").page)
    for width in (1280, 360):
        page.resize(width, 900)
        page.settle()
        assert page.run("document.documentElement.scrollWidth") == width
    assert "and 19 more classes" in text(page, "#images .legend")


def test_a_reason_why_an_image_is_not_shown_stays_in_its_frame(page, made):
    choose(page, "#sort", "rank")
    page.run("document.getElementById('next').click()")
    page.settle()
    page.run("document.querySelectorAll('.gone span').forEach((one) => { one.textContent = 'a long reason '.repeat(40); })")
    assert page.run("""[...document.querySelectorAll('.gone span')].every((one) => one.getBoundingClientRect().height
      < one.closest('.frame').getBoundingClientRect().height)""")


def test_one_is_not_many(page, made):
    root = write_task(folder_of(page, made) / "one")
    result = root / "out/models/result.yaml"
    result.write_text(result.read_text(encoding="utf-8").replace("mAP: 0.25", "mAP: 25.0"), encoding="utf-8")
    page.open(report.write_report([root], root / "report.html").page)
    assert text_lines(page, "#summary .pills .pill") == ["1 error"]


def test_dates_and_the_names_of_classes_are_not_broken(page):
    page.resize(360, 800, mobile=True)
    page.settle()
    assert max(page.run("[...document.querySelectorAll('#stages tbody tr')].map((one) => one.getBoundingClientRect().height)")) < 70
    bar = page.run("['brand', 'theme', 'language'].map((id) => document.getElementById(id).getBoundingClientRect().bottom)")
    page.run("document.getElementById('language').click()")
    assert max(bar) < 50 and page.run("document.getElementById('language').getBoundingClientRect().bottom") < 50, "one row"
    page.run("localStorage.clear()")


def test_findings_say_that_they_are_english(page):
    page.run("document.getElementById('language').click()")
    assert "只有英文" in text(page, "#findings .note")
    assert set(page.run("[...document.querySelectorAll('#findings li strong, #findings .mend span')].map((one) => one.lang)")) == {"en"}
    page.run("localStorage.clear()")


def test_on_paper(page, made):
    page.resize(1280, 400)
    page.prefer("dark")
    page.open(made.page)
    assert count(page, "#mining .frame:empty")
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        page.run("dispatchEvent(new Event('beforeprint'))")
        assert count(page, ".frame:empty") == 0 and count(page, "details:not([open])") == 0
        assert page.run(CONTRAST)[0][0] >= 4.5, "dark ink on white paper, whatever the screen has"
        assert page.run("getComputedStyle(document.body).color") == "rgb(28, 34, 39)"
        assert page.run("getComputedStyle(document.querySelector('.swatch')).printColorAdjust") == "exact"
        assert page.run("document.querySelector('#images output').checkVisibility()"), "at which score it is"
    finally:
        page.call("Emulation.setEmulatedMedia", media="")
        page.prefer("light")


def test_large_values_fit_beside_their_curve(page, made):
    root = write_task(folder_of(page, made) / "large")
    write_events(root / "out/tensorboard/more", {"large": [-3.0, 5e8]})
    page.open(report.write_report([root], root / "report.html").page)
    marks = page.run("""[...document.querySelectorAll('#curves figure')].find((one) => one.innerText.includes('large'))
      .querySelectorAll("text[text-anchor='end']").values().map((one) => one.textContent).toArray()""")
    assert "4e8" in marks and max(map(len, marks)) <= 8
