"""Starts a real image exactly as the platform does, and says what it did wrong: `ymir-exc verify`.

The image need not know this package. `verify` reads its templates through `cat`, runs a chain of tasks in which each gets the model of the
last training, and with `harsh` what else happens in the field, a container for each row. `_rows.ROWS` says what is expected and why,
and `_platforms` what differs between YMIR and Tencent TI.
"""
from __future__ import annotations

import contextlib
import json
import random
import re
import time
import uuid
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ymir_exc import _files
from ymir_exc._yaml import load_mapping
from ymir_exc.errors import EXIT_FAILED, ConfigError, WeightsError, one_line
from ymir_exc.host import _signals, findings, launch, workspace
from ymir_exc.host.engine import Engine
from ymir_exc.host.findings import Finding
from ymir_exc.host.launch import OnProgress
from ymir_exc.host.verify import _arrange, _container, _img_man, _judge, _layout, _platforms
from ymir_exc.host.verify._judge import Case, Fault
from ymir_exc.host.verify._platforms import PLATFORMS, Job
from ymir_exc.host.verify._rows import ROWS, TRAINING, Row

PASSED, FAILED, NOT_RUN, LEFT_OUT = "passed", "failed", "not run", "left out"
TEMPLATES = "templates"
DEFAULT_TIMEOUT = 3600.0

_PLATFORM_UIDS = (10_000, 60_000)    # no image has entries there, and a rootless engine can map them
_CHAIN = Row("", "", "as the platform starts it", "it succeeds, and its outputs have no error", "This is what the platform does.",
             "read the log", _judge.succeeds)

Watch = Callable[[str, Path], ContextManager[Optional[OnProgress]]]
"""Called with a row's name and its log; gives a context in which its progress is shown."""


class Options(NamedTuple):
    """What is verified, and how.

    Attributes:
        image: The image.
        data: A dataset in the platform's layout.
        out: The folder for what the tasks leave; must not exist, or be empty.
        tasks: The chain, each such as `['mining', 'infer']`; all that the image has templates for when empty.
        harsh: Whether what happens in the field is added.
        only: Names of the rows to run; all when empty.
        params: Hyper-parameters that differ from the templates.
        harsh_params: The same, of the harsh rows alone: a shorter training, say.
        model: The `out` folder of an earlier training, for a chain that begins with mining or inference.
        user: `uid:gid` in the container; when empty a random one without an entry in /etc/passwd, and root on TI.
        network: The container's network; the engine's default when empty.
        gpus: Indices such as '0,1' of this machine's GPUs; none when empty.
        timeout: Seconds for each container; 0 for no limit.
        platform: A key of `PLATFORMS`.
    """

    image: str
    data: Path
    out: Path
    tasks: Sequence[Sequence[str]] = ()
    harsh: bool = False
    only: Sequence[str] = ()
    params: Mapping[str, Any] = {}
    harsh_params: Mapping[str, Any] = {}
    model: Optional[Path] = None
    user: str = ""
    network: str = ""
    gpus: str = ""
    timeout: float = DEFAULT_TIMEOUT
    platform: str = "ymir"


class RowResult(NamedTuple):
    """One row of the result.

    Attributes:
        name: The row.
        status: `PASSED`, `FAILED`, `NOT_RUN`, or `LEFT_OUT` where the row says nothing of such an image.
        seconds: From the container's start to its end.
        what: What was done.
        expected: What the task had to do then, and why.
        why: Why it did not pass; with what was found beside that when it did.
        remedy: How to mend it.
        findings: Of its output.
        folder: Where its files are; '' when there are none.
        command: The engine's command line.
        exit_status: The container's; None when none was run.
    """

    name: str
    status: str
    seconds: float = 0.0
    what: str = ""
    expected: str = ""
    why: str = ""
    remedy: str = ""
    findings: Tuple[Finding, ...] = ()
    folder: str = ""
    command: str = ""
    exit_status: Optional[int] = None


def parse_tasks(text: str) -> List[List[str]]:
    """Read a chain such as `training,mining+infer,training`.

    Raises:
        ConfigError: A task that there is not.
    """
    chain = [[task.strip() for task in step.split("+")] for step in text.split(",") if step.strip()]
    for step in chain:
        if sorted(step) == ["infer", "mining"]:
            step.sort(reverse=True)
        elif len(step) != 1 or step[0] not in workspace.TASKS:
            raise ConfigError(f"unknown task {'+'.join(step)!r}", hint="training, mining, infer or mining+infer, with commas between them")
    return chain


def exit_code(rows: Sequence[RowResult]) -> int:
    """0 when every row passed, and there is one; else 1: a row that could not be run tells nothing good of an image."""
    judged = [row for row in rows if row.status != LEFT_OUT]
    return 0 if judged and all(row.status == PASSED for row in judged) else EXIT_FAILED


def verify(engine: Engine, options: Options, *, watch: Optional[Watch] = None,
           on_row: Optional[Callable[[RowResult], None]] = None) -> List[RowResult]:
    """Run the rows, one container after the other.

    Args:
        engine: Runs the containers.
        options: What to do.
        watch: Shows the progress of a row.
        on_row: Called with each row when it is over.

    Returns:
        The rows; they are also in `verify.json` in the `out` folder.

    Raises:
        ConfigError: The dataset, the `out` folder or a row's name is wrong.
        EngineError: The engine does not answer, or has no such image.
    """
    _check(options)
    engine.check()
    description = engine.image(options.image)
    made = _Verification(engine, options, watch or (lambda _, __: contextlib.nullcontext(None)), on_row or (lambda _: None))
    with _signals.stoppable():
        made.run()
    if not engine.dry_run:
        _files.write_bytes(options.out / "verify.json", json.dumps(as_json(options, made.rows, description), ensure_ascii=False,
                                                                   indent=2).encode("utf-8"), sync=False)
    return made.rows


def as_json(options: Options, rows: Sequence[RowResult], description: Mapping[str, Any]) -> Dict[str, Any]:
    """Plain values: the image, the rows, and whether all passed."""
    return {"image": options.image, "platform": options.platform, "image_id": str(description.get("Id", "")), "data": str(options.data),
            "out": str(options.out), "passed": exit_code(rows) == 0,
            "rows": [{**row._asdict(), "findings": findings.as_json(row.findings)} for row in rows]}


def _check(options: Options) -> None:
    known = [TEMPLATES, *workspace.TASKS, "mining+infer", *(row.name for row in ROWS)]
    for name in options.only:
        if re.sub(r"-\d+$", "", name) not in known:
            raise ConfigError(f"there is no row {name!r}", hint=f"one of {', '.join(known)}")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConfigError(f"{options.out} is not an empty folder", hint="choose a new folder")
    if not (options.data / "in" / "config.yaml").is_file():
        raise ConfigError(f"{options.data} is no dataset: it has no in/config.yaml", hint="ymir-exc sample makes one")
    if options.model is not None:
        PLATFORMS[options.platform].check_model(options.model)
    for path in (options.data.resolve(), options.out.resolve()):
        if ":" in str(path):
            raise ConfigError(f"{path} has a colon in its name, and no engine can bind it", hint="choose another folder")
    if not options.user and (options.platform == "ymir" or options.harsh or options.only):
        _layout.check_readable(options.data)


class _Verification:
    """One call of `verify`: what is known so far."""

    def __init__(self, engine: Engine, options: Options, watch: Watch, on_row: Callable[[RowResult], None]) -> None:
        self.engine, self.options, self.watch, self.on_row = engine, options, watch, on_row
        self.out = options.out.resolve()
        self.rows: List[RowResult] = []
        self.model = options.model
        uid = random.randint(*_PLATFORM_UIDS)
        self.gpus = [index.strip() for index in options.gpus.split(",") if index.strip()]
        self.platform = PLATFORMS[options.platform]
        self.stranger = options.user or f"{uid}:{uid}"
        self.user = options.user or self.platform.user or self.stranger
        self.img_man = _img_man.ImgMan(self.out / "img-man", 2, {}, ())

    def run(self) -> None:
        """All rows that are wanted."""
        self._read_templates()
        supported = [task for task in workspace.TASKS if task in self.img_man.templates or self.engine.dry_run]
        supported = supported or (["training"] if self.platform.is_ti else [])
        results = [task for task in supported if task != "training"]
        chain = [list(step) for step in self.options.tasks] or [["training"]] * ("training" in supported) + [results] * bool(results)
        self._run_chain(chain)
        for row in self.platform.rows:
            tasks = results if row.task != TRAINING else [task for task in supported if task == "training"]
            if not self._is_wanted(row.name, self.options.harsh):
                continue
            reason = self._left_out(row)
            if reason:
                self._add(RowResult(row.name, LEFT_OUT, what=row.what, expected=f"{row.expected}. {row.reason}", why=reason))
            elif tasks:
                self._run_row(row, row.name, tasks, is_harsh=True)
            elif self.options.only:
                self._add(RowResult(row.name, NOT_RUN, what=row.what, why="the image has no template for such a task"))

    def _left_out(self, row: Row) -> str:
        """Why a row says nothing of an image that is TI's alone, without templates; '' where it does."""
        if not self.platform.is_ti or self.img_man.templates or self.engine.dry_run:
            return ""
        if row.task != TRAINING:
            return "the image has no templates in /img-man: nothing says that it mines or infers"
        if row.act == _container.KILL:
            return "without result.yaml nothing says which files of a model are whole"
        is_text = row.arrange is _arrange.as_strings and not {**self.options.params, **self.options.harsh_params}
        return "there is no hyper-parameter to be made text; --param gives one" if is_text else ""

    def _is_wanted(self, name: str, otherwise: bool = True) -> bool:
        return name in self.options.only if self.options.only else otherwise

    def _add(self, row: RowResult) -> None:
        self.rows.append(row)
        self.on_row(row)

    def _read_templates(self) -> None:
        started = time.monotonic()
        data = load_mapping(str(self.options.data / "in" / "config.yaml"))
        # TI reads no template, and starts what an entry point makes of the word `train` alone.
        plainly = ["--network", "none", "--entrypoint", ""] if self.platform.is_ti else []
        self.img_man = _img_man.read(self.engine, self.options.image, self.out / "img-man", data.get("object_type"), plainly)
        if self.platform.is_ti and not self.img_man.templates and not self.engine.dry_run:
            self.img_man = self.img_man._replace(object_type=data.get("object_type", self.img_man.object_type), faults=())
            if self._is_wanted(TEMPLATES):
                self._add(RowResult(TEMPLATES, LEFT_OUT, time.monotonic() - started, "templates are read through `cat`",
                                    why="the image has none in /img-man, and TI asks for none"))
            return
        found = [] if self.engine.dry_run else _template_findings(self.img_man.folder)
        faults = [Fault(text, "ymir-exc build checks an image's templates; nothing but the file may come on stdout")
                  for text in self.img_man.faults]
        fault = faults[0] if faults else _judge.worst(found)
        if not self._is_wanted(TEMPLATES) and fault is None:
            return
        self._add(RowResult(TEMPLATES, FAILED if fault else PASSED, time.monotonic() - started, "templates are read through `cat`",
                            "each is a mapping in YAML. The platform reads them so when the image is added",
                            "; ".join(one.why for one in faults) or (fault.why if fault else _notes(found)), fault.remedy if fault else "",
                            tuple(found), str(self.img_man.folder)))

    def _run_chain(self, chain: Sequence[Sequence[str]]) -> None:
        counts: Dict[str, int] = {}
        lacking = ""
        for tasks in chain:
            kind = "+".join(tasks)
            counts[kind] = counts.get(kind, 0) + 1
            name = kind if counts[kind] == 1 else f"{kind}-{counts[kind]}"
            # What is not asked for runs all the same where a row that is needs its model.
            needed = kind == "training" and self.model is None and self._needs_model(chain)
            if not self._is_wanted(name) and not needed:
                continue
            needs_template = not (self.engine.dry_run or self.platform.is_ti)
            without = [task for task in tasks if needs_template and task not in self.img_man.templates]
            if without:
                self._add(RowResult(name, FAILED, what=_CHAIN.what, why=f"the platform reads no template for {without[0]}",
                                    remedy=f"put {without[0]}-template.yaml into /img-man"))
                lacking = lacking or ("there is no model" if "training" in without and self.model is None else "")
                continue
            if lacking:
                self._add(RowResult(name, NOT_RUN, what=_CHAIN.what, why=lacking, remedy="mend that first"))
                continue
            row = self._run_row(_CHAIN, name, tasks, is_harsh=False)
            if tasks == ["training"]:
                if row.status == PASSED:
                    self.model = Path(row.folder) / self.platform.left
                elif self.model is None:
                    lacking = f"{name} left no model"

    def _needs_model(self, chain: Sequence[Sequence[str]]) -> bool:
        results = {"+".join(step) for step in chain if "training" not in step} | {row.name for row in ROWS if row.task != TRAINING}
        return any(re.sub(r"-\d+$", "", name) in results or re.search(r"-\d+$", name) for name in self.options.only)

    def _run_row(self, row: Row, name: str, tasks: Sequence[str], *, is_harsh: bool) -> RowResult:
        if "training" not in tasks and self.model is None and not self.engine.dry_run:
            result = RowResult(name, NOT_RUN, what=row.what, expected=row.expected, why="there is no model",
                               remedy="mend the training first, or give --model")
        else:
            try:
                result = self._try_row(row, name, tasks, is_harsh)
            except (WeightsError, launch.EngineError) as e:
                result = RowResult(name, NOT_RUN, what=row.what, expected=row.expected, why=e.message, remedy=e.hint)
        self._add(result)
        return result

    def _try_row(self, row: Row, name: str, tasks: Sequence[str], is_harsh: bool) -> RowResult:
        job, platform, options = self._job(row, name, tasks, is_harsh), self.platform, self.options
        space = platform.folders(job) if self.engine.dry_run else platform.prepare(job)
        command = platform.argv(self.engine, space, options.image, user=self.stranger if row.is_stranger else self.user,
                                shm_size=_platforms.shm_size(job), flags=row.flags, network=row.network or options.network,
                                gpus="" if row.has_no_gpu else ",".join(self.gpus))
        try:
            with contextlib.ExitStack() as stack:
                if row.is_small:
                    small = platform.small(space)
                    volume = stack.enter_context(_container.small_output(self.engine, space, options.image,
                                                                           _container.room(self.model), small))
                    command[command.index(f"-v{small.folder}:{small.seen}")] = f"-v{volume}:{small.seen}"
                with self.watch(name, space.output / "ymir-executor-out.log") as on_progress:
                    ended = _container.run(self.engine, command, space, act=row.act, limit=options.timeout, on_progress=on_progress,
                                           ready=platform.ready(job, space))
        finally:
            with _signals.uninterrupted():    # what the container wrote; its input has names of the dataset's files
                self.engine.reclaim(options.image, platform.written(space))
        result = RowResult(name, PASSED, ended.seconds, row.what, f"{row.expected}. {row.reason}", folder=str(space.root),
                           command=launch.quoted(command))
        if self.engine.dry_run:
            return result
        result = result._replace(exit_status=ended.status)
        if row.is_small:
            space = platform.filled(space)
            ended = ended._replace(record=_container.record_of(space))
        case, other = platform.judged(job, space, ended)
        result = _judged(result, row, case)
        return result._replace(why="; ".join(filter(None, (result.why, other)))) if other else result

    def _job(self, row: Row, name: str, tasks: Sequence[str], is_harsh: bool) -> Job:
        options, model = self.options, self.model if is_harsh is False or "training" not in tasks else None
        params = {**options.params, **(options.harsh_params if is_harsh else {})}
        return Job(self.out / name, options.data, tasks, f"t{uuid.uuid4().hex[:29]}", row, self._params_of(tasks[0], params),
                   len(self.gpus), model, self.img_man)

    def _params_of(self, task: str, params: Mapping[str, Any]) -> Dict[str, Any]:
        """Those that the task's template has, and those that no template has: a user may add any key to any task."""
        own = self.img_man.templates.get(task, {})
        others = {key for template in self.img_man.templates.values() for key in template}
        return {key: value for key, value in params.items() if key in own or key not in others}


def _judged(result: RowResult, row: Row, case: Case) -> RowResult:
    result = result._replace(findings=tuple(case.findings))
    fault = _judge.always(case)
    unknown = _judge.not_judgeable(case, bool(row.act), row.is_small)
    if fault is None and unknown is not None:
        return result._replace(status=NOT_RUN, why=unknown, remedy="give it more to do, by --harsh-param")
    fault = fault or row.judge(case)
    if fault is None:
        return result._replace(why=_notes(case.findings))
    return result._replace(status=FAILED, why=fault.why, remedy=fault.remedy or row.remedy)


def _notes(found: Sequence[Finding]) -> str:
    """What was found in an output that passes."""
    less = [one for one in found if one.rule.severity is findings.Severity.WARNING]
    return f"{len(less)} warning{'s' if len(less) > 1 else ''}: {one_line(less[0].message, 120)}" if less else ""


def _template_findings(folder: Path) -> List[Finding]:
    from ymir_exc.host.check._templates import check_templates
    return list(check_templates(folder))
