"""Makes docs/images/report-*.png: the report of a demo run, as headless Chromium shows it.

    python docs/screenshots.py demo-run --data demo-run/dataset-400

OUT and --data are those of `ymir-exc report`.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Callable, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"


class Shot(NamedTuple):
    """A picture of the window: its name, the theme and language, the window in CSS pixels, and the section at its top."""

    name: str
    theme: str
    language: str
    width: int
    height: int
    section: Optional[str]


SHOTS = (Shot("light", "light", "en", 1280, 1400, None), Shot("dark", "dark", "en", 1280, 1000, "images"),
         Shot("narrow", "light", "en", 390, 844, "images"), Shot("zh", "light", "zh", 1280, 1000, "quality"))


def main() -> int:
    """Make them all; the status is 1 where the page complained of something."""
    sys.path.insert(0, str(ROOT))
    from tests.browser.chromium import Browser
    from ymir_exc.host import report
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_folders", metavar="OUT", nargs="+", type=Path)
    parser.add_argument("--data", metavar="DIR", type=Path)
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = report.write_report(arguments.out_folders, Path(folder) / "report.html", data=arguments.data).page
        browser = Browser()
        try:
            for shot in SHOTS:
                browser.resize(shot.width, shot.height, scale=2 if shot.width < 500 else 1)
                browser.prefer(shot.theme)
                browser.open(page)
                take(shot, browser.run, browser.settle, browser.screenshot)
            complaints = browser.complaints
        finally:
            browser.close()
    for complaint in complaints:
        sys.stderr.write(f"{complaint}\n")
    return 1 if complaints else 0


def take(shot: Shot, run: Callable[[str], object], settle: Callable[[], None], screenshot: Callable[[], bytes]) -> None:
    """Bring the page into the shot's state, and write the picture."""
    if run("document.documentElement.lang.slice(0, 2)") != shot.language:
        run("document.getElementById('language').click()")
    if shot.section:
        run(f"document.getElementById('{shot.section}').scrollIntoView({{ behavior: 'instant' }})")
    for _ in range(4):    # the tiles are drawn when they are near
        settle()
    target = IMAGES / f"report-{shot.name}.png"
    target.write_bytes(screenshot())
    sys.stdout.write(f"{target.relative_to(ROOT)}: {target.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    sys.exit(main())
