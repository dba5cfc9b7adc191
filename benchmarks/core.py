"""What the runtime's own calls cost, each beside the plainest correct way to do the same and beside the physical limit.

    python benchmarks/core.py                   # all lines, some minutes
    python benchmarks/core.py --quick           # a twentieth of the data, less than a minute
    python benchmarks/core.py --markdown        # and write the table into RESULTS.md
    python benchmarks/core.py monitor stages    # the groups whose name holds one of the words

Ours, the plain way and the limit are measured in turn, round by round; times are medians of CPU seconds of this process, of wall seconds
where processes are started or the disk is waited for. `x` is the median over the rounds of plain / ours. The plain way reads or writes
the same bytes with the standard library, PyYAML and pydantic, and checks nothing; writers publish by rename as ours do, without fsync
unless the line says so. Peak memory is what a process of its own needed above what it had once the modules were loaded.
"""
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import yaml

try:
    import orjson
except ModuleNotFoundError:
    orjson = None

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks/RESULTS.md"
HEAD = "| work | ours | plainest correct way | x | beside the limit | peak memory |\n|---|---|---|---|---|---|"
CASES: Dict[str, Callable[[Place], None]] = {}
LINES: List[str] = []
Work = Callable[[], Any]


class Place:
    """A task's folders, with the settings pointed at them."""

    def __init__(self, root: Path, scale: int) -> None:
        self.root, self.out, self.scale = root, root / "out", scale
        for folder in ("in/annotations", "out/models", "out/tensorboard", "img-man"):
            (root / folder).mkdir(parents=True)
        inside = {key: str(root / "in" / name) for key, name in {
            "root_dir": "", "assets_dir": "assets", "annotations_dir": "annotations", "models_dir": "models", "config_file": "config.yaml",
            "training_index_file": "train-index.tsv", "val_index_file": "val-index.tsv",
            "candidate_index_file": "candidate-index.tsv"}.items()}
        outside = {key: str(self.out / name) for key, name in {
            "root_dir": "", "models_dir": "models", "tensorboard_dir": "tensorboard", "training_result_file": "models/result.yaml",
            "mining_result_file": "result.tsv", "infer_result_file": "infer-result.json", "monitor_file": "monitor.txt",
            "executor_log_file": "log.txt"}.items()}
        self.env = {"task_id": "t0", "protocol_version": "1.1.0", "run_training": True, "run_mining": False, "run_infer": False,
                    "manifest_file": str(root / "img-man/manifest.yaml"), "input": inside, "output": outside}
        self.config = {"class_names": ["cat", "dog", "bird"], "gpu_id": "0", "gpu_count": 1, "task_id": "t0", "export_format": "ark:raw",
                       "epochs": 100, "lr": 0.01, "batch_size": 16, "optimizer": "sgd", "weight_decay": 0.0005}
        self.env_file = root / "in/env.yaml"
        self.env_file.write_text(yaml.safe_dump(self.env))
        (root / "in/config.yaml").write_text(yaml.safe_dump(self.config))
        (root / "img-man/training-template.yaml").write_text(yaml.safe_dump(self.config))
        from ymir_exc import settings
        settings.DEFAULT_ENV_FILE_PATH = str(self.env_file)
        time.sleep(0.1)    # a file that was written just now is read at every call

    def many(self, count: int) -> int:
        """So many of them, or fewer for a quick look."""
        return count // self.scale

    def environment(self) -> Dict[str, str]:
        """For a new Python without the hooks of an editable install (`-S`), which would load half of what is measured."""
        found = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path[1:])])
        return {**found, "PYTHONPATH": path, "DEFAULT_ENV_FILE_PATH": str(self.env_file)}


def case(function: Callable[[Place], None]) -> Callable[[Place], None]:
    """Register one group of lines."""
    CASES[function.__name__] = function
    return function


# --------------------------------------------------------------------------------------------------------------------- measuring

Times = Dict[str, List[float]]


def in_turn(works: Dict[str, Callable[[], float]], rounds: int) -> Times:
    """Measurements taken in turn, so that a slow moment of the machine meets all of them."""
    seen: Times = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            gc.collect()
            seen[name].append(work())
    return seen


def cpu(work: Work, times: int = 1) -> Callable[[], float]:
    """CPU seconds of one call of so many."""
    def measure() -> float:
        start = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - start) / times
    return measure


def wall(work: Work, times: int = 1) -> Callable[[], float]:
    """Wall seconds of one call of so many."""
    def measure() -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times
    return measure


def process(place: Place, statement: str) -> Callable[[], float]:
    """Wall seconds of a new Python that runs a statement, its modules compiled before, as in an image."""
    argv, environment = [sys.executable, "-S", "-c", statement], place.environment()
    subprocess.run(argv, check=True, env=environment)
    return wall(lambda: subprocess.run(argv, check=True, env=environment))


def peak_memory(place: Place, program: str) -> str:
    """What a process needs at most, above what it had before; its memory is its own, so that this one's size does not matter."""
    head = ("import re, numpy\nfrom ymir_exc import dataset_reader, result_writer, util\nfrom ymir_exc.env import DatasetType\n"
            "util.get_merged_config()\n"
            "def peak(): return int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\nbase = peak()\n")
    done = subprocess.run([sys.executable, "-S", "-c", f"{head}{program}\nprint(peak() - base)"], env=place.environment(),
                          stdout=subprocess.PIPE, text=True, check=True)
    return f"{int(done.stdout) / 1024:.0f} MiB"


class Named(NamedTuple):
    """A column of the measurements, and what it is."""

    column: str
    name: str


def add(name: str, found: Times, ours: str, plain: Named, limit: Optional[Named] = None, memory: str = "") -> None:
    """Add a line to the table and show it."""
    seconds = statistics.median(found[ours])
    ratio = statistics.median(p / o for p, o in zip(found[plain.column], found[ours]))
    beside = "-"
    if limit is not None:
        times = statistics.median(o / b for o, b in zip(found[ours], found[limit.column]))
        beside = f"{unit(statistics.median(found[limit.column]))} {limit.name} ({times:.1f}x)"
    times_plain = f"{unit(statistics.median(found[plain.column]))} {plain.name}"
    LINES.append(f"| {name} | {unit(seconds)} | {times_plain} | {ratio:.1f}x | {beside} | {memory or '-'} |")
    print(LINES[-1], flush=True)


def unit(seconds: float) -> str:
    """Seconds in a unit that reads well."""
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"


def short(count: int) -> str:
    """A number of lines: 10M, 500k."""
    return f"{count / 1e6:g}M" if count >= 1_000_000 else f"{count / 1e3:g}k"


# ------------------------------------------------------------------------------------------------------------------------- start

NAIVE = '''
import yaml, easydict, pydantic
class Input(pydantic.BaseModel):
    {inside}
class Output(pydantic.BaseModel):
    {outside}
class Env(pydantic.BaseModel):
    task_id: str; protocol_version: str; run_training: bool; run_mining: bool; run_infer: bool; manifest_file: str
    input: Input; output: Output
with open({env_file!r}) as f: env = Env.model_validate(yaml.safe_load(f))
with open(env.input.config_file) as f: param = yaml.safe_load(f)
with open({template!r}) as f: param = {{**yaml.safe_load(f), **param}}
easydict.EasyDict(ymir=env, param=param)
'''
WRITER = "from tensorboard.summary.writer.event_file_writer import EventFileWriter"
AT_TOP = {
    "util": f"import glob, logging, socket, subprocess, easydict, pydantic, yaml; pydantic.BaseModel; {WRITER}",
    "monitor": f"import pydantic, yaml; pydantic.BaseModel; {WRITER}",
    "env": "import pydantic, yaml; pydantic.BaseModel",
}


@case
def start(place: Place) -> None:
    """Cold imports, and a process's first configuration."""
    statements = {"bare": "import os", "pydantic": "import pydantic; pydantic.BaseModel"}
    for module, imports in AT_TOP.items():
        statements[module], statements[f"plain {module}"] = f"import ymir_exc.{module}", imports
    statements["first"] = "from ymir_exc import util; util.get_merged_config()"
    statements["naive"] = NAIVE.format(
        env_file=str(place.env_file), template=str(place.root / "img-man/training-template.yaml"),
        inside="; ".join(f"{key}: str" for key in place.env["input"]), outside="; ".join(f"{key}: str" for key in place.env["output"]))
    found = in_turn({name: process(place, statement) for name, statement in statements.items()}, 15 if place.scale == 1 else 5)
    bare = found.pop("bare")
    above = {name: [value - base for value, base in zip(values, bare)] for name, values in found.items()}
    for module in AT_TOP:
        add(f"cold `import ymir_exc.{module}`, above a bare interpreter", above, module, Named(f"plain {module}", "all imports at the top"))
    add("first `get_merged_config()` of a process, above a bare interpreter", above, "first",
        Named("naive", "pydantic models, yaml.safe_load, EasyDict"), Named("pydantic", "import pydantic alone"))


@case
def configuration(place: Place) -> None:
    """Reading it again."""
    import pydantic
    from easydict import EasyDict

    from ymir_exc import env, util
    inside, outside = (pydantic.create_model(part, **dict.fromkeys(place.env[part], (str, ...))) for part in ("input", "output"))
    flags = dict.fromkeys(("run_training", "run_mining", "run_infer"), (bool, ...))
    texts = dict.fromkeys(("task_id", "protocol_version", "manifest_file"), (str, ...))
    model = pydantic.create_model("Env", **flags, **texts, input=(inside, ...), output=(outside, ...))
    template = place.root / "img-man/training-template.yaml"

    def plain_env() -> Any:
        with open(place.env_file, encoding="utf-8") as f:
            return model.model_validate(yaml.safe_load(f))

    def plain_config() -> Any:
        current, param = plain_env(), {}
        for path in (template, current.input.config_file):
            with open(path, encoding="utf-8") as f:
                param.update(yaml.safe_load(f))
        return EasyDict({"param": param, "ymir": current})

    found = in_turn({
        "stat": cpu(lambda: os.stat(place.env_file), 5000),
        "three": cpu(lambda: [os.stat(place.env_file) for _ in range(3)], 5000),
        "env": cpu(env.get_current_env, 5000), "plain env": cpu(plain_env, 20),
        "config": cpu(util.get_merged_config, 2000), "plain config": cpu(plain_config, 20),
    }, 7)
    add("`get_current_env()`, later calls", found, "env", Named("plain env", "yaml.safe_load, pydantic model"), Named("stat", "os.stat"))
    add("`get_merged_config()`, later calls", found, "config", Named("plain config", "the same, template, EasyDict"),
        Named("three", "os.stat of three files"))


# ---------------------------------------------------------------------------------------------------------------------- progress

@case
def monitor(place: Place) -> None:
    """Progress, in a loop."""
    from ymir_exc import env, util
    from ymir_exc import monitor as ours
    target = place.out / "plain.txt"

    def replace() -> None:
        temp = f"{target}.tmp"
        with open(temp, "w", encoding="utf-8") as f:
            f.write(f"t0\t{time.time():.6f}\t0.50\t2\t0\n")
        os.replace(temp, target)

    def plain() -> None:
        with open(place.env_file, encoding="utf-8") as f:
            env.EnvConfig.parse_obj(yaml.safe_load(f))
        replace()

    def force() -> None:
        ours._writer.next_write = 0.0
        ours.write_monitor_logger(0.5)

    cfg = util.get_merged_config()
    found = in_turn({
        "logger": cpu(lambda: ours.write_monitor_logger(0.5), 20_000),
        "process": cpu(lambda: util.write_ymir_monitor_process(cfg, "training", 0.5, "task"), 20_000),
        "force": cpu(force, 100), "plain": cpu(plain, 20), "replace": cpu(replace, 100),
    }, 7)
    slow, limit = Named("plain", "yaml.safe_load of env.yaml; open, write, rename"), Named("replace", "open, write, rename")
    add("`write_monitor_logger` in a loop", found, "logger", slow, limit)
    add("`write_ymir_monitor_process` in a loop", found, "process", slow, limit)
    add("`write_monitor_logger`, a call that writes", found, "force", slow, limit)
    waits = in_turn({"force": wall(force, 20), "plain": wall(plain, 20), "replace": wall(replace, 20)}, 7)
    add("the same, wall time with the disk's", waits, "force", slow, limit)


@case
def tensorboard(place: Place) -> None:
    """A text."""
    from ymir_exc import monitor as ours
    ours.write_tensorboard_text("first")

    def plain() -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.text import metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        writer = EventFileWriter(str(place.out / "plain-tensorboard"))
        value = Summary.Value(tag="default/text_summary", tensor=TensorProto(dtype="DT_STRING", string_val=[b"text"]),
                              metadata=metadata.create_summary_metadata(display_name="", description=""))
        writer.add_event(Event(wall_time=time.time(), step=0, summary=Summary(value=[value])))
        writer.close()

    with open(place.out / "limit", "ab", buffering=0) as f:
        works = {"ours": wall(lambda: ours.write_tensorboard_text("text"), 100), "plain": wall(plain, 10),
                 "limit": wall(lambda: f.write(b"text" * 40), 100)}
        if importlib.util.find_spec("torch"):
            from torch.utils.tensorboard import SummaryWriter

            def torchs() -> None:
                with SummaryWriter(str(place.out / "torch-tensorboard")) as writer:
                    writer.add_text("default", "text")

            torchs()
            works["torch"] = wall(torchs, 10)
        found = in_turn(works, 7)
    limit = Named("limit", "write of as many bytes")
    add("`write_tensorboard_text` (wall)", found, "ours", Named("plain", "TensorBoard's `EventFileWriter` for each text"), limit)
    if "torch" in found:
        add("the same", found, "ours", Named("torch", "torch's `SummaryWriter` for each text"), limit)


# ----------------------------------------------------------------------------------------------------------------------- reading

@case
def index_files(place: Place) -> None:
    """Ten million lines."""
    from ymir_exc import dataset_reader
    from ymir_exc.env import DatasetType
    count, path = place.many(10_000_000), place.root / "in/train-index.tsv"
    with open(path, "w", encoding="utf-8") as f:
        for first in range(0, count, 100_000):
            f.writelines(f"/in/assets/{n % 256:02x}/{n:040x}.jpg\t/in/annotations/{n % 256:02x}/{n:040x}.txt\n"
                         for n in range(first, first + 100_000))

    def read() -> None:
        with open(path, "rb", buffering=0) as f:
            while f.read(1 << 16):
                pass

    def plain_items() -> Any:
        with open(path, encoding="utf-8") as f:
            for line in f:
                columns = line.strip().split("\t")
                if columns[0]:
                    yield columns[0], columns[1] if len(columns) > 1 else ""

    def plain() -> None:
        for _ in plain_items():
            pass

    def ours() -> None:
        for _ in dataset_reader.item_paths(DatasetType.TRAINING):
            pass

    def plain_count() -> None:
        with open(path, encoding="utf-8") as f:
            assert sum(1 for line in f if line.strip()) == count

    found = in_turn({"limit": cpu(read), "ours": cpu(ours), "plain": cpu(plain), "plain count": cpu(plain_count),
                     "count": cpu(lambda: dataset_reader.items_count(DatasetType.TRAINING))}, 3 if place.scale == 1 else 5)
    limit = Named("limit", "reading the bytes")
    add(f"`item_paths`, {short(count)} lines", found, "ours", Named("plain", "for line: strip, split, yield"), limit,
        peak_memory(place, "for _ in dataset_reader.item_paths(DatasetType.TRAINING): pass"))
    add(f"`items_count`, {short(count)} lines", found, "count", Named("plain count", "for line: strip"), limit,
        peak_memory(place, "dataset_reader.items_count(DatasetType.TRAINING)"))


@case
def bboxes(place: Place) -> None:
    """Objects of annotation files."""
    from ymir_exc import dataset_reader, util
    folder, count = place.root / "in/annotations", place.many(20_000)
    paths = [str(folder / f"{n:040x}.txt") for n in range(count)]
    for path in paths:
        Path(path).write_text("".join(f"{n % 3}, {n}, {2 * n}, {n + 80}, {2 * n + 90}, -1.0, 0.0\n" for n in range(10)))
    (place.root / "in/train-index.tsv").write_text("".join(f"/in/assets/{n:040x}.jpg\t{path}\n" for n, path in enumerate(paths)))
    cfg = util.get_merged_config()

    def plain() -> None:
        total = 0
        with open(place.root / "in/train-index.tsv", encoding="utf-8") as index:
            for row in index:
                with open(row.strip().split("\t")[1], encoding="utf-8") as f:
                    total += sum(1 for line in f if line.strip())
        assert total == 10 * count

    def read() -> None:
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 1 << 16)
            os.close(fd)

    found = in_turn({"ours": cpu(lambda: dataset_reader.bboxes_count(cfg, "train")), "plain": cpu(plain), "limit": cpu(read)}, 5)
    add(f"`bboxes_count`, {short(count)} files x 10", found, "ours", Named("plain", "open, for line: strip"),
        Named("limit", "open, read, close"))


# ----------------------------------------------------------------------------------------------------------------------- results

@case
def mining(place: Place) -> None:
    """Rankings."""
    from ymir_exc import result_writer
    for count, rounds in ((place.many(1_000_000), 3), (place.many(5_000_000), 1 if place.scale == 1 else 3)):
        rng = random.Random(0)
        paths = [f"/in/assets/{n % 256:02x}/{n:040x}.jpg" for n in range(count)]
        scores = [rng.random() for _ in range(count)]
        rows, array = list(zip(paths, scores)), np.array(scores)

        def plain(rows: List[Tuple[str, float]] = rows) -> None:
            with open(place.out / "plain.tsv.tmp", "w", encoding="utf-8") as f:
                for path, score in sorted(rows, key=lambda row: row[1], reverse=True):
                    f.write(f"{path}\t{score}\n")
            os.replace(place.out / "plain.tsv.tmp", place.out / "plain.tsv")

        def arrays(paths: List[str] = paths, array: Any = array) -> None:
            with result_writer.MiningResultWriter() as writer:
                for first in range(0, len(paths), 10_000):
                    writer.add_batch(paths[first:first + 10_000], array[first:first + 10_000])

        found = in_turn({"plain": cpu(plain), "limit": cpu(lambda scores=scores: sorted(scores)), "arrays": cpu(arrays),
                         "list": cpu(lambda rows=rows: result_writer.write_mining_result(rows))}, rounds)
        assert same_ranking(place.out / "plain.tsv", place.out / "result.tsv")
        slow, limit = Named("plain", "sorted, f.write"), Named("limit", "sorting alone")
        add(f"`write_mining_result`, {short(count)} rows", found, "list", slow, limit)
        add(f"`MiningResultWriter`, {short(count)} rows of arrays", found, "arrays", slow, limit, peak_memory(
            place, "scores = numpy.random.default_rng(0).random(10_000)\nwith result_writer.MiningResultWriter() as writer:\n"
                   f"    for n in range(0, {count}, 10_000):\n"
                   "        writer.add_batch([f'/in/assets/{i % 256:02x}/{i:040x}.jpg' for i in range(n, n + 10_000)], scores)"))


def same_ranking(one: Path, other: Path) -> bool:
    """Whether two files hold the same rows; an exponent may be written as 1e-5 or 1e-05."""
    with open(one, encoding="utf-8") as a, open(other, encoding="utf-8") as b:
        columns = ((x.split("\t"), y.split("\t")) for x, y in zip_longest(a, b, fillvalue="\t"))
        return all(x[0] == y[0] and float(x[1]) == float(y[1]) for x, y in columns)


@case
def detections(place: Place) -> None:
    """A hundred thousand images with ten boxes each."""
    from pydantic import BaseModel

    from ymir_exc import result_writer
    from ymir_exc.result_writer import Annotation, Box
    images, boxes = place.many(100_000), 10
    rng = np.random.default_rng(0)
    scores = rng.random((images, boxes)).astype(np.float32)
    corners = rng.integers(0, 1000, (images, boxes, 4)).astype(np.float32)
    corners[:, :, 2:] += corners[:, :, :2] + 1
    names, classes = [f"/in/assets/{n:040x}.jpg" for n in range(images)], np.zeros(boxes, int)
    made = short(images * boxes)

    class PlainBox(BaseModel):
        x: int
        y: int
        w: int
        h: int

    class Plain(BaseModel):
        class_name: str
        score: float
        box: PlainBox

    def build(kind: Any, box: Any, part: int = 1) -> Dict[str, Any]:
        return {name: [kind(class_name="cat", score=0.5, box=box(x=1, y=2, w=3, h=4)) for _ in range(boxes)] for name in names[::part]}

    few = in_turn({"ours": cpu(lambda: build(Annotation, Box, 10)), "plain": cpu(lambda: build(Plain, PlainBox, 10))}, 5)
    built = {name: [10 * value for value in values] for name, values in few.items()}
    add(f"build {made} `Annotation` (of a tenth, times ten)", built, "ours", Named("plain", "bare pydantic models"))

    def dicts(ready: Dict[str, Any]) -> Dict[str, Any]:
        return {"detection": {os.path.basename(k): {"boxes": [item.model_dump() for item in v]} for k, v in ready.items()}}

    def plain(ready: Dict[str, Any]) -> None:
        with open(place.out / "plain.json.tmp", "w", encoding="utf-8") as f:
            json.dump(dicts(ready), f)
        os.replace(place.out / "plain.json.tmp", place.out / "plain.json")

    def stream(rows: Any) -> None:
        with result_writer.InferResultWriter(["cat"]) as writer:
            for name, edges, values, kinds in rows:
                writer.add(name, edges, values, kinds)

    lists = list(zip(names, corners.tolist(), scores.astype(float).tolist(), [classes.tolist()] * images))
    ready, theirs = build(Annotation, Box), build(Plain, PlainBox)
    content = dicts(theirs)
    found = in_turn({
        "write": cpu(lambda: result_writer.write_infer_result(ready)), "plain": cpu(lambda: plain(theirs)),
        "limit": cpu(lambda: orjson.dumps(content) if orjson else json.dumps(content)),
        "lists": cpu(lambda: stream(lists)), "arrays": cpu(lambda: stream(zip(names, corners, scores, [classes] * images))),
        "both": cpu(lambda: plain(build(Plain, PlainBox))),
    }, 1 if place.scale == 1 else 3)
    limit = Named("limit", f"{'orjson' if orjson else 'json'}.dumps of plain dicts")
    add(f"`write_infer_result`, {made} boxes", found, "write", Named("plain", "model_dump, json.dump"), limit)
    both = Named("both", "build models, model_dump, json.dump")
    program = (f"boxes, scores, kinds = numpy.random.rand({boxes}, 4) * 100, numpy.random.rand({boxes}), numpy.zeros({boxes}, int)\n"
               "boxes[:, 2:] += boxes[:, :2] + 1\nwith result_writer.InferResultWriter(['cat']) as writer:\n"
               f"    for n in range({images}): writer.add(f'{{n:040x}}.jpg', boxes@, scores@, kinds@)")
    add(f"`InferResultWriter`, {made} boxes in lists", found, "lists", both, limit, peak_memory(place, program.replace("@", ".tolist()")))
    add(f"`InferResultWriter`, {made} boxes in arrays", found, "arrays", both, limit, peak_memory(place, program.replace("@", "")))


@case
def sharding(place: Place) -> None:
    """What it costs that a kill leaves the results so far: both writers, image by image, with the candidate list in blocks and without."""
    from ymir_exc import dataset_reader, result_writer
    from ymir_exc import sharding as ours
    from ymir_exc.env import DatasetType
    rng, boxes, index = np.random.default_rng(0), 10, place.root / "in/candidate-index.tsv"
    corners = (rng.random((boxes, 4)) * 100).astype(np.float32)
    corners[:, 2:] += corners[:, :2] + 1
    scores, classes, ranks = rng.random(boxes).astype(np.float32), np.zeros(boxes, int), rng.random(1000).tolist()

    def plain(writer: Any) -> Any:    # noqa: ARG001 - as `candidates`
        return (path for path, _ in dataset_reader.item_paths(DatasetType.CANDIDATE))

    def mine(paths: Callable[[Any], Any]) -> None:
        with result_writer.MiningResultWriter() as writer:
            for n, path in enumerate(paths(writer)):
                writer.add(path, ranks[n % 1000])

    def infer(paths: Callable[[Any], Any]) -> None:
        with result_writer.InferResultWriter(["cat"]) as writer:
            for path in paths(writer):
                writer.add(path, corners, scores, classes)

    values = f"numpy.full(({boxes}, 4), [0, 0, 9, 9.]), numpy.full({boxes}, 0.5), numpy.zeros({boxes}, int)"
    for work, count, writer, value in ((mine, place.many(1_000_000), "MiningResultWriter()", "0.5"),
                                       (infer, place.many(100_000), "InferResultWriter(['cat'])", values)):
        index.write_text("".join(f"/in/assets/{n % 256:02x}/{n:040x}.jpg\n" for n in range(count)))
        found = in_turn({"plain": cpu(lambda work=work: work(plain)), "ours": cpu(lambda work=work: work(ours.candidates))}, 3)
        memory = peak_memory(place, f"from ymir_exc import sharding\nwith result_writer.{writer} as w:\n"
                                    f"    for path in sharding.candidates(w): w.add(path, *[{value}])")
        name = f"`{writer.partition('(')[0]}`, {short(count)} images" + (f" of {boxes} boxes" if work is infer else "")
        add(f"{name}, with `sharding.candidates`", found, "ours", Named("plain", "with `item_paths`"), memory=memory)


@case
def stages(place: Place) -> None:
    """A model stage, eleven of them in the file."""
    from ymir_exc import _files, result_writer
    for n in range(11):
        (place.out / f"models/epoch_{n}").mkdir()
        (place.out / f"models/epoch_{n}/a.pt").write_bytes(b"w")
        result_writer.write_model_stage(f"epoch_{n}", ["a.pt"], {"mAP": n / 20})
    path = place.out / "models/result.yaml"
    text = path.read_bytes()

    def plain() -> None:
        with open(path, encoding="utf-8") as f:
            content = yaml.safe_load(f)
        content["model_stages"]["epoch_3"]["mAP"] = 0.3
        temp = f"{path}.tmp"
        with open(temp, "w", encoding="utf-8") as f:
            yaml.safe_dump(content, f)
        os.replace(temp, path)

    def limit() -> None:
        yaml.dump(yaml.load(text, Loader=yaml.CSafeLoader), Dumper=yaml.CSafeDumper)

    def lock() -> None:
        with _files.lock(path.parent):
            pass

    found = in_turn({"ours": cpu(lambda: result_writer.write_model_stage("epoch_3", ["a.pt"], {"mAP": 0.3}), 20),
                     "plain": cpu(plain, 20), "limit": cpu(limit, 20)}, 7)
    add("`write_model_stage`, 11 stages (CPU)", found, "ours", Named("plain", "yaml.safe_load, safe_dump, rename"),
        Named("limit", "C YAML"))
    safe = in_turn({"sync": wall(lambda: _files.write_bytes(path, text)),
                    "no sync": wall(lambda: _files.write_bytes(path, text, sync=False)),
                    "lock": wall(lock, 10)}, 31)
    add("of which the write, with fsync of file and folder (wall)", safe, "sync", Named("no sync", "the same without fsync"))
    add("of which the lock (wall)", safe, "lock", Named("no sync", "the write without fsync"))


# ------------------------------------------------------------------------------------------------------------------------ report

def machine() -> str:
    """Date, processor, cores, Python and libraries, for a table's heading."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) if os.path.exists("/proc/cpuinfo") else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = found[1] if found else platform.machine()
    libraries = [f"{library} {version_of(library)}" for library in ("numpy", "pydantic", "PyYAML", "orjson")]
    return f"{time.strftime('%Y-%m-%d')}, {name}, {cores} cores, Python {platform.python_version()}, {', '.join(libraries)}"


def version_of(library: str) -> str:
    """Which version is installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"


def write_section(program: str, text: str) -> None:
    """Put a program's results into RESULTS.md, in the place of its earlier ones; the other programs' sections stay."""
    earlier = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in re.split(r"^## ", earlier, flags=re.M)[1:]}
    sections[program] = f"{machine()}\n\n{text.strip()}"
    parts = [f"## {name}\n{content}\n" for name, content in sorted(sections.items())]
    RESULTS.write_text("\n".join(["# Benchmarks, as measured\n", *parts]), encoding="utf-8")


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", help="groups to run: " + ", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="a twentieth of the data")
    parser.add_argument("--markdown", action="store_true", help=f"write the table into {RESULTS.name}")
    arguments = parser.parse_args()
    if arguments.words and arguments.markdown:
        parser.error("the table in RESULTS.md is written whole: leave out the words")
    print(f"{machine()}\n\n{HEAD}", flush=True)
    for name, run in CASES.items():
        if not arguments.words or any(word in name for word in arguments.words):
            with tempfile.TemporaryDirectory(prefix="ymir-bench-") as folder:
                run(Place(Path(folder), 20 if arguments.quick else 1))
    if arguments.markdown:
        what = f"{__doc__.split('    python')[-1].partition(chr(10) * 2)[2].strip()}"
        write_section("benchmarks/core.py" + (" --quick" if arguments.quick else ""), what + "\n\n" + "\n".join([HEAD, *LINES]))


if __name__ == "__main__":
    main()
