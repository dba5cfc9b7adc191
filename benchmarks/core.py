"""What the runtime's own calls cost, each beside the plainest correct way to do the same and beside the physical limit.

    python benchmarks/core.py             # all lines, some minutes
    python benchmarks/core.py monitor     # the lines whose name holds this word

Times are CPU seconds of this process where the work is its own, wall seconds where processes are started; medians of several rounds. `x`
says how many times as long the plain way takes. The plain way reads or writes the same bytes with the standard library and PyYAML,
checking nothing; writers publish by rename as ours do, but without fsync unless the line says so.
"""
from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import yaml

ROWS: List[Row] = []
CASES: Dict[str, Callable[[Place], None]] = {}


class Row(NamedTuple):
    """One line of the table; seconds."""

    name: str
    ours: float
    plain: float
    plain_is: str
    limit: Optional[float] = None
    limit_is: str = ""


class Place:
    """A task's folders, with the settings pointed at them."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "out"
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


def case(function: Callable[[Place], None]) -> Callable[[Place], None]:
    """Register one group of lines."""
    CASES[function.__name__] = function
    return function


def cpu(work: Callable[[], Any], times: int = 1, rounds: int = 5) -> float:
    """CPU seconds of one call: the median of the rounds."""
    seen = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        for _ in range(times):
            work()
        seen.append((time.process_time() - start) / times)
    return statistics.median(seen)


def in_turn(works: Dict[str, Callable[[], float]], rounds: int = 9) -> Dict[str, float]:
    """Medians of measurements taken in turn, so that a slow moment of the machine meets all of them."""
    seen: Dict[str, List[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seen[name].append(work())
    return {name: statistics.median(values) for name, values in seen.items()}


def process(statement: str) -> Callable[[], float]:
    """Wall seconds of a new Python that runs a statement, its modules compiled before, as in an image."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}

    def run() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, env=environ)
        return time.perf_counter() - start

    run()
    return run


def add(name: str, ours: float, plain: float, plain_is: str, limit: Optional[float] = None, limit_is: str = "") -> None:
    """Add a line to the table and show it."""
    row = Row(name, ours, plain, plain_is, limit, limit_is)
    ROWS.append(row)
    print(show(row), flush=True)


def show(row: Row) -> str:
    """One line of the table in Markdown."""
    beside = f"{unit(row.limit)} {row.limit_is} ({row.ours / row.limit:.1f}x)" if row.limit else "-"
    return f"| {row.name} | {unit(row.ours)} | {unit(row.plain)} {row.plain_is} | {row.plain / row.ours:.1f}x | {beside} |"


def unit(seconds: float) -> str:
    """Seconds in a unit that reads well."""
    for scale, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {name}"
    return f"{seconds / 1e-9:.3g} ns"


@case
def imports(place: Place) -> None:
    """Cold imports, and a process's first configuration."""
    statements = {"bare": "pass", "pydantic": "import pydantic; pydantic.BaseModel"}
    for module in ("util", "monitor", "env", "result_writer", "dataset_reader", "executor"):
        statements[module] = f"import ymir_exc.{module}"
    prefix = f"import os; os.environ['DEFAULT_ENV_FILE_PATH'] = {str(place.env_file)!r}; "
    statements["first"] = prefix + "from ymir_exc import util; util.get_merged_config()"
    statements["plain first"] = (f"import yaml, easydict, pydantic; pydantic.BaseModel; L = yaml.SafeLoader; "
                                 f"e = yaml.load(open({str(place.env_file)!r}), L); "
                                 "easydict.EasyDict(yaml.load(open(e['input']['config_file']), L))")
    found = in_turn({name: process(statement) for name, statement in statements.items()})
    for module in ("util", "monitor", "env", "result_writer", "dataset_reader", "executor"):
        add(f"cold `import ymir_exc.{module}`", found[module], found["pydantic"], "`import pydantic`", found["bare"], "python -c pass")
    add("first `get_merged_config()` of a process", found["first"], found["plain first"], "yaml + easydict + pydantic", found["bare"],
        "python -c pass")


@case
def configuration(place: Place) -> None:
    """Reading it again."""
    from easydict import EasyDict

    from ymir_exc import env, util

    def plain_env() -> Any:
        with open(place.env_file, encoding="utf-8") as f:
            return env.EnvConfig.model_validate(yaml.safe_load(f))

    def plain_config() -> Any:
        current = plain_env()
        with open(current.input.config_file, encoding="utf-8") as f:
            return EasyDict({"param": yaml.safe_load(f), "ymir": current})

    stat = cpu(lambda: os.stat(place.env_file), 20_000)
    add("`get_current_env()`, later calls", cpu(env.get_current_env, 5000), cpu(plain_env, 50), "yaml.safe_load + model", stat, "os.stat")
    add("`get_merged_config()`, later calls", cpu(util.get_merged_config, 2000), cpu(plain_config, 50), "yaml.safe_load + model", 3 * stat,
        "3 x os.stat")


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
            env.EnvConfig.model_validate(yaml.safe_load(f))
        replace()

    def force() -> None:
        ours._writer.next_write = 0.0
        ours.write_monitor_logger(0.5)

    cfg = util.get_merged_config()
    slow, slow_is = cpu(plain, 50), "env.yaml + open, write, rename"
    limit, limit_is = cpu(replace, 500), "open, write, rename"
    loops = {
        "`write_monitor_logger` in a loop": cpu(lambda: ours.write_monitor_logger(0.5), 20_000),
        "`write_ymir_monitor_process` in a loop": cpu(lambda: util.write_ymir_monitor_process(cfg, "training", 0.5, "task"), 20_000),
        "`write_monitor_logger`, a call that writes": cpu(force, 500),
    }
    for name, seconds in loops.items():
        add(name, seconds, slow, slow_is, limit, limit_is)


@case
def index_files(place: Place) -> None:
    """Ten million lines."""
    from ymir_exc import dataset_reader
    from ymir_exc.env import DatasetType
    count, path = 10_000_000, place.root / "in/train-index.tsv"
    with open(path, "w", encoding="utf-8") as f:
        for start in range(0, count, 100_000):
            f.writelines(f"/in/assets/{n % 256:02x}/{n:040x}.jpg\t/in/annotations/{n % 256:02x}/{n:040x}.txt\n"
                         for n in range(start, start + 100_000))

    def read() -> None:
        with open(path, "rb", buffering=0) as f:
            while f.read(1 << 20):
                pass

    def plain() -> None:
        with open(path, encoding="utf-8") as f:
            for line in f:
                text = line.strip()
                if text:
                    columns = text.split("\t")
                    _ = columns[0], columns[1] if len(columns) > 1 else ""

    def ours() -> None:
        for _ in dataset_reader.item_paths(DatasetType.TRAINING):
            pass

    def plain_count() -> None:
        with open(path, encoding="utf-8") as f:
            sum(1 for line in f if line.strip())

    limit = cpu(read, 1, 3)
    add("`item_paths`, 10M lines", cpu(ours, 1, 3), cpu(plain, 1, 3), "for line: strip, split", limit, "reading the bytes")
    add("`items_count`, 10M lines", cpu(lambda: dataset_reader.items_count(DatasetType.TRAINING), 1, 3), cpu(plain_count, 1, 3),
        "for line: strip", limit, "reading the bytes")
    path.unlink()


@case
def mining(place: Place) -> None:
    """Rankings."""
    from ymir_exc import result_writer
    for count in (1_000_000, 5_000_000):
        rng = random.Random(0)
        paths = [f"/in/assets/{n % 256:02x}/{n:040x}.jpg" for n in range(count)]
        scores = [rng.random() for _ in range(count)]
        rows = list(zip(paths, scores))
        array = np.array(scores)

        def plain(rows: List[Tuple[str, float]] = rows) -> None:
            with open(place.out / "plain.tsv", "w", encoding="utf-8") as f:
                for path, score in sorted(rows, key=lambda row: row[1], reverse=True):
                    f.write(f"{path}\t{score}\n")

        def arrays(paths: List[str] = paths, array: Any = array) -> None:
            with result_writer.MiningResultWriter(rows_in_memory=10_000_000) as writer:
                writer.add_batch(paths, array)

        rounds = 3 if count == 1_000_000 else 1
        slow = cpu(plain, 1, rounds)
        limit = cpu(lambda scores=scores: sorted(scores), 1, rounds)
        listed = cpu(lambda rows=rows: result_writer.write_mining_result(rows), 1, rounds)
        add(f"`write_mining_result`, {count // 1_000_000}M rows", listed, slow, "sorted, f.write", limit, "sorting alone")
        add(f"`MiningResultWriter`, {count // 1_000_000}M rows of arrays", cpu(arrays, 1, rounds), slow, "sorted, f.write", limit,
            "sorting alone")


def dumps_time(content: Any) -> float:
    """CPU seconds to make JSON of it."""
    return cpu(lambda: json.dumps(content), 1, 3)


@case
def detections(place: Place) -> None:
    """A hundred thousand images with ten boxes each."""
    from pydantic import BaseModel

    from ymir_exc import result_writer
    from ymir_exc.result_writer import Annotation, Box
    images, boxes = 100_000, 10
    rng = np.random.default_rng(0)
    scores = rng.random((images, boxes)).astype(np.float32)
    corners = rng.integers(0, 1000, (images, boxes, 4)).astype(np.float32)
    names = [f"/in/assets/{n:040x}.jpg" for n in range(images)]

    class PlainBox(BaseModel):
        x: int
        y: int
        w: int
        h: int

    class Plain(BaseModel):
        class_name: str
        score: float
        box: PlainBox

    def build(kind: Any, box: Any, count: int) -> Dict[str, Any]:
        return {names[n]: [kind(class_name="cat", score=0.5, box=box(x=1, y=2, w=3, h=4)) for _ in range(boxes)] for n in range(count)}

    few = images // 10
    add("build 1M `Annotation`", 10 * cpu(lambda: build(Annotation, Box, few), 1, 3), 10 * cpu(lambda: build(Plain, PlainBox, few), 1, 3),
        "bare pydantic models")
    ready = build(Annotation, Box, images)

    def dicts() -> Any:
        return {"detection": {os.path.basename(k): {"boxes": [item.model_dump() for item in v]} for k, v in ready.items()}}

    def plain() -> None:
        with open(place.out / "plain.json", "w", encoding="utf-8") as f:
            json.dump(dicts(), f)

    limit, limit_is = dumps_time(dicts()), "json.dumps of plain dicts"
    slow = cpu(plain, 1, 1)
    add("`write_infer_result`, 1M boxes", cpu(lambda: result_writer.write_infer_result(ready), 1, 3), slow, "model_dump + json.dump",
        limit, limit_is)
    built = 10 * cpu(lambda: build(Plain, PlainBox, few), 1, 1)

    def stream() -> None:
        with result_writer.InferResultWriter(["cat"]) as writer:
            for n in range(images):
                writer.add(names[n], corners[n], scores[n], np.zeros(boxes, int))

    add("`InferResultWriter`, 1M boxes of arrays", cpu(stream, 1, 3), slow + built, "build models, model_dump, json.dump", limit, limit_is)


@case
def stages(place: Place) -> None:
    """A model stage, eleven of them in the file."""
    from ymir_exc import _files, result_writer
    for n in range(11):
        (place.out / f"models/epoch_{n}").mkdir()
        (place.out / f"models/epoch_{n}/a.pt").write_bytes(b"w")
        result_writer.write_model_stage(f"epoch_{n}", ["a.pt"], {"mAP": n / 20})
    path = place.out / "models/result.yaml"

    def plain() -> None:
        with open(path, encoding="utf-8") as f:
            content = yaml.safe_load(f)
        content["model_stages"]["epoch_3"]["mAP"] = 0.3
        temp = f"{path}.tmp"
        with open(temp, "w", encoding="utf-8") as f:
            yaml.safe_dump(content, f)
        os.replace(temp, path)

    text = path.read_bytes()

    def fast() -> None:
        content = yaml.load(text, Loader=yaml.CSafeLoader)
        yaml.dump(content, Dumper=yaml.CSafeDumper)

    ours = cpu(lambda: result_writer.write_model_stage("epoch_3", ["a.pt"], {"mAP": 0.3}), 30)
    add("`write_model_stage`, 11 stages (CPU)", ours, cpu(plain, 30), "yaml.safe_load, safe_dump, rename", cpu(fast, 30), "C YAML")

    def wall(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    found = in_turn({"sync": lambda: wall(lambda: _files.write_bytes(path, text)),
                     "no sync": lambda: wall(lambda: _files.write_bytes(path, text, sync=False))}, 31)
    add("of which the lock-free write with fsync (wall)", found["sync"], found["no sync"], "the same without fsync")


@case
def tensorboard(place: Place) -> None:
    """A text."""
    from ymir_exc import monitor as ours
    ours.write_tensorboard_text("first")

    def plain() -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        writer = EventFileWriter(str(place.out / "plain-tb"))
        writer.add_event(Event(wall_time=time.time(), step=0))
        writer.close()

    add("`write_tensorboard_text`", cpu(lambda: ours.write_tensorboard_text("text"), 200), cpu(plain, 20), "a writer for each text")


def memory() -> Iterator[str]:
    """Peak memory of what must stay flat, each in a process of its own."""
    programs = {
        "`item_paths`, 1M lines": "for _ in dataset_reader.item_paths(DatasetType.TRAINING): pass",
        "`InferResultWriter`, 100k images x 10": (
            "import numpy as np\nb = np.zeros((10, 4)); s = np.zeros(10); c = np.zeros(10, int)\n"
            "with result_writer.InferResultWriter(['cat']) as w:\n    for n in range(100_000): w.add(f'{n}.jpg', b, s, c)"),
        "`MiningResultWriter`, 5M rows": (
            "with result_writer.MiningResultWriter() as w:\n"
            "    for n in range(0, 5_000_000, 1000): w.add_batch([f'/in/assets/{i:040x}.jpg' for i in range(n, n + 1000)], [0.5] * 1000)"),
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        with open(place.root / "in/train-index.tsv", "w", encoding="utf-8") as f:
            f.writelines(f"/in/assets/{n:040x}.jpg\t/in/annotations/{n:040x}.txt\n" for n in range(1_000_000))
        head = "import resource\nfrom ymir_exc import dataset_reader, result_writer\nfrom ymir_exc.env import DatasetType, EnvConfig\n"
        tail = "\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(place.env_file)}

        def peak(program: str) -> float:
            done = subprocess.run([sys.executable, "-c", head + program + tail], env=environ, capture_output=True, text=True, check=True)
            return float(done.stdout)

        base = peak("import numpy")
        for name, program in programs.items():
            yield f"| {name} | {peak(program) - base:.0f} MiB above the imports ({base:.0f} MiB) |"


def main() -> None:
    """Run the cases and print the tables."""
    words = sys.argv[1:]
    chosen = [name for name in CASES if not words or any(word in name for word in words)]
    print("| work | ours | plainest correct way | x | beside the limit |\n|---|---|---|---|---|", flush=True)
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            CASES[name](Place(Path(folder)))
    if not words or "memory" in words:
        print("\n| work | peak memory |\n|---|---|")
        for line in memory():
            print(line, flush=True)


if __name__ == "__main__":
    main()
