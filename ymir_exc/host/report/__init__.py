"""One page about what tasks left: `ymir-exc report`.

`write_report` reads the tasks' folders and writes an HTML file that needs nothing beside it, and report.json with the same facts for
programs. Its keys:

- `format` ("ymir-exc report"), `version` (1; a greater number where a key changes its meaning), `generated` (seconds since 1970).
- `classes`: names; everywhere else a class is its position here.
- `runs`: each with `name`, `out`, `in`, `task_id`, `tasks`, `ended` (done, failed, unfinished, pending, unknown), `percent`, `return_code`,
  `message`, `finished`, `seconds`, `seconds_by` (monitor: from the start to the last report; events: from the first event to the last),
  `class_names`, `images` (split to count), `stages` (`name`, `best`, `timestamp`, `files`, `metrics`), `best_stage`, `findings` (`counts`,
  `listed`), `scalars` (tag to `[step, time, value]`), `parameters`, `log`, `log_versions`, `problems`.
- `gallery`: `total`, `shown`, `chosen` (`by_rank`, `by_mistakes`, `at_random`, `seed`), `threshold` (the slider's first place), `labelled`
  (how many have labels and predictions), `images`: each with `name`, `width`, `height`, `rank`, `mining_score`, `error`, `found` (rows of
  class, score, x, y, width, height, the matched true object or -1; null where no model looked) and `truth` (rows of class, x, y, width,
  height; null where nobody said), `found_angles` and `truth_angles` (radians, by which each of these boxes is turned clockwise about its
  centre; null where none is).
- `mining`: `count`, `low`, `high`, `histogram`; null without one.
- `quality`: over all images with predictions and labels; null without. `classes`: `truth`, `found`, `curve` (score, precision, recall),
  `hits` and `false` (counts at each hundredth of the score); `confusion`; `mAP` and `mAP50` by pycocotools over `mAP_images`, of many
  images a random sample; null where `mAP_missing` says why: 'masks', 'rotated' boxes, 'too many' classes, 'no pycocotools'.
- `machine`: versions where the page was made.
"""
from __future__ import annotations

import bisect
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ymir_exc import _files
from ymir_exc.errors import ConfigError
from ymir_exc.host.report import _gallery, _page, _runs
from ymir_exc.host.report._events import read_scalars
from ymir_exc.host.report._match import Quality, mistakes
from ymir_exc.host.report._objects import FULL_SCORE, Classes, Objects, Truth, data_folders, input_folder, read_predictions

VERSION = 1
DEFAULT_IMAGES = 300
DEFAULT_THRESHOLD = 0.3
MOST_IMAGES = 2000
MOST_JUDGED = 6_000
"""Pairs of an image and a class that is on it for which the reference implementation of COCO's figures is asked, some ten seconds; fifty
pairs without an object take as long as one."""

_CHECKS, _FIGURES = 0.3, 0.1    # of the time, about

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


class Written(NamedTuple):
    """What `write_report` wrote: the page, report.json, its facts, and the page's size in bytes."""

    page: Path
    json: Path
    facts: Dict[str, Any]
    size: int


def write_report(outs: Sequence[Path], target: Path, *, data: Optional[Path] = None, images: int = DEFAULT_IMAGES,
                 on_progress: Optional[Progress] = None) -> Written:
    """Write the page and, beside it and with the ending .json, its facts.

    Args:
        outs: The tasks, as `_runs.find_runs` takes them.
        target: The page; an earlier report is replaced, anything else is not.
        data: The dataset, for labels of the images on which a model was run: its `in` and, of `ymir-exc sample`, its `truth`.
        images: How many images are shown at most.
        on_progress: See `Progress`.

    Raises:
        ConfigError: No task's output, no dataset, or a target that is no report; or numpy, Pillow or tensorboard is missing.
        StorageError: A file cannot be written.
    """
    if not 0 <= images <= MOST_IMAGES:
        raise ConfigError(f"{images} images cannot be shown", hint=f"0 to {MOST_IMAGES}: the page holds them all")
    beside = target.with_suffix(".json")
    _check_targets(target, beside)
    _check_libraries()
    facts, pictures = collect(outs, data, images, on_progress)
    text = _page.page({"report": facts, "pictures": pictures}).encode("utf-8")
    _files.write_bytes(target, text, sync=False)
    plain = json.dumps(facts, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    _files.write_bytes(beside, plain.encode("utf-8", "replace"), sync=False)
    return Written(target, beside, facts, len(text))


def _check_targets(*targets: Path) -> None:
    for path in targets:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder", hint="--out names a file")
        if path.exists():
            with path.open("rb") as f:
                if f.read(1000).find(_page.MARK.encode()) < 0:
                    raise ConfigError(f"{path} exists and is no earlier report", hint="choose another name with --out")
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} does not exist", hint="make the folder, or choose another with --out")
    if targets[0].suffix == ".json":
        raise ConfigError(f"{targets[0]} would be the page and its facts at once", hint="--out ends in .html")


def _check_libraries() -> None:
    try:
        import numpy  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as e:
        raise ConfigError(f"a report needs {e.name}, which is not installed", hint='pip install "ymir-exc[host]"') from e


def collect(outs: Sequence[Path], data: Optional[Path], images: int, on_progress: Optional[Progress]) -> Any:
    """Read everything.

    Returns:
        What stands in report.json, and the pictures of its gallery.
    """
    runs = _runs.find_runs(outs)
    classes = Classes()
    told = on_progress or (lambda *_: None)
    described = [_runs.describe(run, _within(told, _CHECKS * n / len(runs), _CHECKS * (n + 1) / len(runs))) for n, run in enumerate(runs)]
    for one in described:
        for name in one["class_names"]:
            classes.id_of(name)
    for run, one in zip(runs, described):
        one["scalars"] = read_scalars(run.out / "tensorboard", one["problems"])
        if one["seconds"] is None:
            one["seconds"] = _runs.time_span(one["scalars"])
            one["seconds_by"] = None if one["seconds"] is None else "events"
    problems: List[str] = []
    folders = data_folders(data, problems) if data is not None else []
    folders += [input_folder(run.given, problems) for run in runs if run.given is not None]
    for folder in folders:
        for name in _runs.class_names_of(folder.config):
            classes.id_of(name)
    truth = Truth(folders, classes, problems)
    shown = _Shown(runs, classes, truth, problems, _within(told, _CHECKS, 1.0 - _FIGURES))
    gallery, pictures = shown.gallery(images)
    described[-1]["problems"] += problems
    first = {problem: one for one in described for problem in one["problems"]}    # a file that two runs share is told once
    for one in described:
        one["problems"] = [problem for problem, by in first.items() if by is one]
    facts = {
        "format": _page.MARK, "version": VERSION, "generated": time.time(), "classes": classes.names, "runs": described,
        "gallery": gallery, "mining": shown.mining(), "quality": shown.quality(), "machine": _runs.this_machine(),
    }
    told(1, 1)
    return facts, pictures


def _within(told: Progress, start: float, end: float) -> Progress:
    """Progress of one part, told as that from `start` to `end` of the whole."""
    return lambda done, total: told(round(1000 * (start + (end - start) * done / max(1, total))), 1000)


class _Shown:
    """The images of all runs, with what was found on them and what is really there."""

    def __init__(self, runs: List[_runs.Run], classes: Classes, truth: Truth, problems: List[str], on_progress: Progress) -> None:
        self._classes, self._truth, self._problems, self._on_progress = classes, truth, problems, on_progress
        self.found: Dict[str, Objects] = {}
        self._ranking = _gallery.Ranking({}, ())
        for run in runs:
            for name, objects in read_predictions(run.out / "infer-result.json", classes, problems).items():
                self.found[name] = objects    # of two inferences of one image the later run's
            ranking = _gallery.read_ranking(run.out / "result.tsv", MOST_IMAGES, problems)
            self._ranking = ranking if ranking.scores else self._ranking
        self._quality = Quality()
        self._true: Dict[str, Optional[Objects]] = {}
        self._matched: Dict[str, List[int]] = {}
        self._done = self._total = 0

    def gallery(self, most: int) -> Any:
        """The `gallery` of report.json, and the pictures."""
        names = self._names()
        looked = [name for name in names if name in self.found]
        self._total = len(looked) + min(most, len(names))
        self._judge(looked)
        result = self._quality.result()
        threshold = DEFAULT_THRESHOLD if result is None or result["best_threshold"] is None else result["best_threshold"]
        wrong = {name: sum(mistakes(self.found[name], true, self._matched[name], round(threshold * FULL_SCORE)))
                 for name, true in self._true.items() if true is not None}
        choice = _gallery.choose(names, most, self._ranking.places, wrong)
        drawn = _gallery.thumbnails([self._truth.path_of(name) for name in choice.names], self._step)
        pairs = [_gallery.describe(name, picture, self.found.get(name), self._truth.objects(name), self._matched.get(name, ()),
                                   self._ranking.places.get(name)) for name, picture in zip(choice.names, drawn)]
        chosen = {"by_rank": choice.by_rank, "by_mistakes": choice.by_mistakes, "at_random": choice.at_random, "seed": _gallery.SEED}
        return {"total": len(names), "shown": len(pairs), "chosen": chosen, "threshold": threshold, "labelled": len(wrong),
                "images": [facts for facts, _ in pairs]}, [picture for _, picture in pairs]

    def _names(self) -> List[str]:
        """All images that a model looked at; without any, those with labels."""
        names = dict.fromkeys((*self.found, *self._ranking.places))
        if names:
            names.update(dict.fromkeys(name for name in self._truth.candidates if name not in names))
        return list(names or dict.fromkeys(self._truth.labelled))

    def _judge(self, names: List[str]) -> None:
        for name in names:
            true = self._truth.objects(name)
            if true is not None:
                self._true[name] = true
                self._matched[name] = self._quality.add(self.found[name], true)
            self._step()

    def _step(self) -> None:
        self._done += 1
        self._on_progress(self._done, self._total)

    def mining(self) -> Optional[Dict[str, Any]]:
        """The `mining` of report.json."""
        scores = self._ranking.scores
        if not len(scores):
            return None
        made = _gallery.histogram(scores)
        return {"count": len(scores), "low": made["low"], "high": made["high"], "histogram": made["counts"]}

    def quality(self) -> Optional[Dict[str, Any]]:
        """The `quality` of report.json."""
        result = self._quality.result()
        return None if result is None else {**result, **self._mean_average_precision(result["by"])}

    def _mean_average_precision(self, by: str) -> Dict[str, Any]:
        """COCO's figures, of boxes alone and only by its reference implementation; without them, why."""
        def unknown(why: str) -> Dict[str, Any]:
            return {"mAP": None, "mAP50": None, "mAP_images": 0, "mAP_missing": why}

        if by != "boxes":
            return unknown("masks")
        if self._quality.is_rotated:
            return unknown("rotated")
        pairs = self._drawn([(self.found[name], true) for name, true in self._true.items() if true is not None])
        if not pairs:
            return unknown("too many")
        from ymir_exc import evaluation
        try:
            figures = evaluation.mean_average_precision(
                [(true.boxes, true.classes) for _, true in pairs],
                [(found.boxes, found.scores / FULL_SCORE, found.classes) for found, _ in pairs], len(self._classes.names))
        except ModuleNotFoundError:
            return unknown("no pycocotools")
        return {**figures, "mAP_images": len(pairs), "mAP_missing": ""}

    def _drawn(self, pairs: List[Tuple[Objects, Objects]]) -> List[Tuple[Objects, Objects]]:
        """All, or as many at random as the reference implementation judges within seconds."""
        costs = [len({*found.classes.tolist(), *true.classes.tolist()}) + len(self._classes.names) / 50 for found, true in pairs]
        if sum(costs) <= MOST_JUDGED:
            return pairs
        order = random.Random(_gallery.SEED).sample(range(len(pairs)), len(pairs))
        spent = list(itertools.accumulate(costs[n] for n in order))
        return [pairs[n] for n in order[:bisect.bisect_right(spent, MOST_JUDGED)]]
