"""What verifying an image for one platform is made of, and the two that there are: YMIR, and Tencent TI."""
from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple

from ymir_exc._yaml import load_mapping
from ymir_exc.host import workspace
from ymir_exc.host.check._opt_ml import O102, check_tree, is_empty
from ymir_exc.host.engine import Engine
from ymir_exc.host.verify import _container, _layout, _opt_ml
from ymir_exc.host.verify._arrange import RESERVED
from ymir_exc.host.verify._container import Ended, Small
from ymir_exc.host.verify._img_man import ImgMan
from ymir_exc.host.verify._judge import Case
from ymir_exc.host.verify._rows import ROWS, TI_ROWS, Row
from ymir_exc.host.workspace import Workspace


class Job(NamedTuple):
    """One task that is to be prepared.

    Attributes:
        root: Its folder.
        data: The dataset.
        tasks: Such as `['mining', 'infer']`.
        task_id: Its name, and the container's.
        row: What is done to it.
        params: Hyper-parameters that differ from the templates.
        gpus: How many it has.
        model: What an earlier training left.
        img_man: What the image says of itself.
    """

    root: Path
    data: Path
    tasks: Sequence[str]
    task_id: str
    row: Row
    params: Mapping[str, Any]
    gpus: int
    model: Optional[Path]
    img_man: ImgMan


class Platform(Protocol):
    """How one platform lays out a task, starts it, and takes what it leaves.

    Attributes:
        rows: What happens in its field.
        left: The folder in a row's that the next task's model is taken from.
        user: `uid:gid` of its containers; '' for one that no image knows.
        is_ti: Whether it is Tencent TI.
    """

    rows: Sequence[Row]
    left: str
    user: str
    is_ti: bool

    def folders(self, job: Job) -> Workspace:
        """Where the task's files will be; makes nothing."""

    def prepare(self, job: Job) -> Workspace:
        """Make them."""

    def check_model(self, model: Path) -> None:
        """Make sure that there is a model in what an earlier training left.

        Raises:
            WeightsError: There is none.
        """

    def argv(self, engine: Engine, space: Workspace, image: str, *, user: str, shm_size: str, network: str, gpus: str,
             flags: Sequence[str]) -> List[str]:
        """The command that starts the image."""

    def small(self, space: Workspace) -> Small:
        """What is to be a volume with little space."""

    def filled(self, space: Workspace) -> Workspace:
        """The task, whose output now is what was in that volume."""

    def ready(self, job: Job, space: Workspace) -> Optional[_container.Ready]:
        """Tells when a task is in the middle; None where monitor.txt does."""

    def written(self, space: Workspace) -> List[Path]:
        """The folders that the container wrote to."""

    def judged(self, job: Job, space: Workspace, ended: Ended) -> Tuple[Case, str]:
        """What the task left, and what is to be known of it beside how it went, or ''."""


class Ymir:
    """`docker run -v in:/in:ro -v out:/out IMAGE`."""

    rows: Sequence[Row] = ROWS
    left, user, is_ti = "out", "", False

    def folders(self, job: Job) -> Workspace:
        """As of `Platform`."""
        root = job.root
        shared = [job.data.resolve() / "in" / "assets", *([root / "tensorboard"] if "training" in job.tasks else [])]
        return Workspace(root, root / "in", root / "out", root / "in" / "env.yaml", "/in", job.task_id, tuple(shared))

    def prepare(self, job: Job) -> Workspace:
        """As of `Platform`."""
        # In the container its GPUs are counted from 0.
        given = {"gpu_id": ",".join(map(str, range(job.gpus))), **job.params}
        space = workspace.prepare(job.root, job.data, job.tasks, templates=job.img_man.folder, params=given, model=job.model,
                                  in_container=True, task_id=job.task_id)
        _layout.set_object_type(space, job.img_man.object_type)
        return _layout.complete(job.row.arrange(space), job.tasks, job.model)

    def check_model(self, model: Path) -> None:
        """As of `Platform`."""
        workspace.best_stage(model)

    def argv(self, engine: Engine, space: Workspace, image: str, *, user: str, shm_size: str, network: str, gpus: str,
             flags: Sequence[str]) -> List[str]:
        """As of `Platform`."""
        return _container.argv(engine, space, image, user=user, shm_size=shm_size, flags=flags, network=network, gpus=gpus)

    def small(self, space: Workspace) -> Small:
        """As of `Platform`."""
        return Small(space.output, "/out", ("models", "monitor.txt"))

    def filled(self, space: Workspace) -> Workspace:
        """As of `Platform`."""
        return space._replace(output=space.root / _container.FULL)

    def ready(self, job: Job, space: Workspace) -> Optional[_container.Ready]:    # noqa: ARG002
        """As of `Platform`."""
        return None

    def written(self, space: Workspace) -> List[Path]:
        """As of `Platform`."""
        return [space.output, space.root / _container.FULL, space.root / "tensorboard"]

    def judged(self, job: Job, space: Workspace, ended: Ended) -> Tuple[Case, str]:
        """As of `Platform`."""
        from ymir_exc.host.check import check_output
        other = _layout.other_format(job.img_man.templates.get("training", {}), job.data) if "training" in job.tasks else ""
        return Case(ended, space, tuple(check_output(space.output, given=space.input))), other


class Ti:
    """`docker run -v ...:/opt/ml/... IMAGE train`.

    An image without templates is TI's alone, and no result of YMIR's is expected of it.
    """

    rows: Sequence[Row] = TI_ROWS
    left, user, is_ti = _opt_ml.VIEW, "0:0", True

    def folders(self, job: Job) -> Workspace:
        """As of `Platform`."""
        return _opt_ml.folders(job.root, job.task_id)

    def prepare(self, job: Job) -> Workspace:
        """As of `Platform`."""
        space = self.folders(job)
        staged = workspace.prepare(job.root / _opt_ml.STAGED, job.data, job.tasks, templates=job.img_man.folder, params=job.params,
                                   in_container=True, task_id=job.task_id)
        if job.img_man.templates:
            _layout.set_object_type(staged, job.img_man.object_type)
        before = _values(staged)
        staged = job.row.arrange(staged)
        after = _values(staged)
        # A job names what its user has set; the image knows the rest. Of a row that changes these, all that it has made of them.
        values = after if after != before else {key: after[key] for key in job.params if key in after}
        _opt_ml.lay_out(space, staged, job.tasks, values, job.model)
        _opt_ml.clear(staged)
        return space

    def check_model(self, model: Path) -> None:
        """As of `Platform`."""
        _opt_ml.models_of(model)

    def argv(self, engine: Engine, space: Workspace, image: str, *, user: str, shm_size: str, network: str, gpus: str,
             flags: Sequence[str]) -> List[str]:
        """As of `Platform`."""
        return _opt_ml.argv(engine.program, space, image, user=user, shm_size=shm_size, flags=flags, network=network, gpus=gpus)

    def small(self, space: Workspace) -> Small:
        """As of `Platform`."""
        return Small(space.root / _opt_ml.TREE / "model", "/opt/ml/model", ("",))

    def filled(self, space: Workspace) -> Workspace:
        """As of `Platform`."""
        _opt_ml.show_models_in(space, _container.FULL)
        return space

    def ready(self, job: Job, space: Workspace) -> Optional[_container.Ready]:
        """As of `Platform`: there is a model."""
        models = space.output / "models"
        if job.img_man.templates:
            return lambda: (models / "result.yaml").exists()
        return lambda: not is_empty(models)

    def written(self, space: Workspace) -> List[Path]:
        """As of `Platform`."""
        tree = space.root / _opt_ml.TREE
        return [tree / "model", tree / "output", space.root / _container.FULL]

    def judged(self, job: Job, space: Workspace, ended: Ended) -> Tuple[Case, str]:
        """As of `Platform`."""
        found = tuple(check_tree(space.root / _opt_ml.TREE, None, {}, needs_result=bool(job.img_man.templates),
                                 models=space.root / _container.FULL if job.row.is_small else None))
        other = any(one.rule == O102 for one in found)
        told = "it left no result.yaml: judged by its exit status and by model/ alone" if other else ""
        return Case(ended, space, found, _opt_ml.failure_of(space), is_ti=True), told


PLATFORMS: Mapping[str, Platform] = {"ymir": Ymir(), "ti": Ti()}


def shm_size(job: Job) -> str:
    """Of /dev/shm, as the template or the user has it; 16 GiB for each GPU, and at least that."""
    path = job.img_man.folder / f"{job.tasks[0]}-template.yaml"
    config = {**(load_mapping(str(path)) if path.is_file() else {}), **job.params}
    return str(config.get("shm_size") or f"{16 * max(1, job.gpus)}G")


def _values(space: Workspace) -> Mapping[str, Any]:
    config = load_mapping(str(space.input / "config.yaml"))
    return {key: value for key, value in config.items() if key not in RESERVED}
