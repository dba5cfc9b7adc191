"""Estimators: what a job is made of, and the calls that begin, follow and find jobs."""
from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type

from ymir_exc import _files
from ymir_exc.errors import ArgumentError
from ymir_exc.ti import _inputs, _names, _plan, _record, _tensorboard
from ymir_exc.ti import session as _session
from ymir_exc.ti._inputs import Inputs, Place
from ymir_exc.ti._stores import COS
from ymir_exc.ti.job import TrainingJob

_LOG = logging.getLogger(__name__)
_REGISTRY = "ccr.ccs.tencentyun.com/ti_containers"


class EstimatorBase:
    """What all estimators have in common. `latest_training_job` is the job that was begun, or attached to, last.

    Args:
        role: Kept in the record; this machine knows no roles.
        train_instance_count: Hosts, each a container of its own.
        train_instance_type: `local` runs without GPUs; `local_gpu` shares this machine's GPUs out equally, and needs one a host; a type
            of the cloud gets GPUs where there are enough.
        hyperparameters: For the program; never changed.
        envs: Environment of the program.
        train_volume_size: Kept in the record.
        train_max_run: Seconds after which the job is stopped.
        train_max_wait: Kept in the record.
        input_mode: `File`.
        output_path: A folder, file:// or cos://; `./ti-output` otherwise.
        subnet_id: Kept in the record.
        security_group_ids: Kept in the record.
        base_job_name: What names of jobs begin with; the image's name otherwise.
        train_retry_when_resource_insufficient: Kept in the record.
        ti_session: A `session.Session`; one with its defaults otherwise.

    Raises:
        ArgumentError: An argument that means nothing.
    """

    def __init__(self, role: Optional[str], train_instance_count: int, train_instance_type: str, *,
                 hyperparameters: Optional[Mapping[str, Any]] = None, envs: Optional[Mapping[str, Any]] = None,
                 train_volume_size: int = 0, train_max_run: float = 86400, train_max_wait: float = 172800, input_mode: str = "File",
                 output_path: Optional[Place] = None, subnet_id: Optional[str] = None, security_group_ids: Optional[List[str]] = None,
                 base_job_name: Optional[str] = None, train_retry_when_resource_insufficient: bool = False,
                 ti_session: Optional[_session.Session] = None) -> None:
        if isinstance(train_instance_count, bool) or not isinstance(train_instance_count, int) or train_instance_count < 1:
            raise ArgumentError(f"train_instance_count is {train_instance_count!r}", hint="1 or more")
        if not isinstance(train_instance_type, str) or not train_instance_type:
            raise ArgumentError(f"train_instance_type is {train_instance_type!r}", hint="'local', 'local_gpu' or a type of the cloud")
        if not isinstance(train_max_run, (int, float)) or not train_max_run > 0:
            raise ArgumentError(f"train_max_run is {train_max_run!r}", hint="seconds, more than 0")
        if input_mode != "File":
            raise ArgumentError(f"input_mode is {input_mode!r}", hint="'File'")
        self.role, self.train_instance_count, self.train_instance_type = role, train_instance_count, train_instance_type
        self.envs, self.train_volume_size = envs, train_volume_size
        self.train_max_run, self.train_max_wait, self.input_mode = train_max_run, train_max_wait, input_mode
        self.output_path, self.base_job_name = output_path, base_job_name
        self.subnet_id, self.security_group_ids = subnet_id, security_group_ids
        self.train_retry_when_resource_insufficient = train_retry_when_resource_insufficient
        self.ti_session = ti_session or _session.Session()
        self.latest_training_job: Optional[TrainingJob] = None
        self._hyperparameters: Dict[str, Any] = dict(hyperparameters or {})

    # ------------------------------------------------------------------------------------------------ what the classes differ in

    def train_image(self) -> str:
        """The image that the job runs."""
        raise NotImplementedError

    def _program(self) -> Tuple[Optional[Path], Dict[str, Any]]:
        """The program to hand in, and the hyper-parameters that tell of it."""
        return None, {}

    def _arguments(self) -> Dict[str, Any]:
        """The constructor's, for those who attach."""
        return {
            "role": self.role, "train_instance_count": self.train_instance_count, "train_instance_type": self.train_instance_type,
            "hyperparameters": self._hyperparameters, "envs": dict(self.envs or {}), "train_volume_size": self.train_volume_size,
            "train_max_run": self.train_max_run, "train_max_wait": self.train_max_wait, "input_mode": self.input_mode,
            "output_path": None if self.output_path is None else _session.output_of(self.output_path), "subnet_id": self.subnet_id,
            "security_group_ids": self.security_group_ids, "base_job_name": self.base_job_name,
            "train_retry_when_resource_insufficient": self.train_retry_when_resource_insufficient,
        }

    # -------------------------------------------------------------------------------------------------------------------- jobs

    def hyperparameters(self) -> Dict[str, Any]:
        """The user's hyper-parameters, a copy."""
        return dict(self._hyperparameters)

    def set_hyperparameters(self, **values: Any) -> None:
        """Add hyper-parameters for the next job."""
        self._hyperparameters.update(values)

    def fit(self, inputs: Inputs = None, wait: bool = True, logs: bool = True, job_name: Optional[str] = None,
            run_tensorboard_locally: bool = False) -> None:
        """Run a job. Ctrl-C stops it in order, a second one at once; in both cases what it has left is collected.

        Args:
            inputs: A path, file:// or cos:// for the channel `training`, or a dict of channel and such.
            wait: Return when it has ended; otherwise it goes on, whatever becomes of this process.
            logs: Show what its containers print, while waiting.
            job_name: Its name; a new one of the image's name and the time otherwise.
            run_tensorboard_locally: Show its checkpoints in TensorBoard, while waiting.

        Raises:
            ArgumentError: An argument, a program or a name that will not do.
            DatasetError: An input does not exist.
            ConfigError: A cos:// URI, and no way to get there.
            NoGpuError: `local_gpu`, and fewer GPUs than hosts; or other jobs have them.
            EngineError: The container engine is missing or does not answer.
            JobFailedError: The job ended as Failed; a ValueError too.
        """
        started = self.latest_training_job = self.ti_session.start(self._request(inputs, job_name))
        if self.ti_session.dry_run:
            return
        if run_tensorboard_locally and not wait:
            _LOG.warning("run_tensorboard_locally has no effect without wait=True")
        try:
            if wait:
                self._wait(started, logs, run_tensorboard_locally)
        except KeyboardInterrupt:
            started.interrupted()
            raise

    def _wait(self, started: TrainingJob, logs: bool, with_tensorboard: bool) -> None:
        live = started.folder.hosts / started.spec().hosts[0] / "output" / "checkpoints"
        with _tensorboard.running(live, self.ti_session.tell) if with_tensorboard else contextlib.nullcontext():
            started.wait(logs=logs)
        state = started.state()
        if state.status != _record.COMPLETED:
            _LOG.warning("job %s ended as %s: %s", started.name, state.status, state.reason)

    def _request(self, inputs: Inputs, job_name: Optional[str]) -> _session.Request:
        image = self.train_image()
        code, told = self._program()
        values = _inputs.encoded(self._hyperparameters)    # now: a value that will not do is told before anything is made
        output = _session.output_of(self.output_path)
        if not output.startswith(COS) and not self.ti_session.dry_run:
            _files.make_folder(output)    # so that it is the caller's, and a mistake is told before the job

        def named(name: str) -> Dict[str, str]:
            return {**values, **_inputs.encoded({**told, "ti_job_name": name} if told else {})}

        kind = next(known for known in (one.__name__ for one in type(self).__mro__) if known in _KINDS)
        arguments: Dict[str, Any] = json.loads(json.dumps(self._arguments(), default=_recorded))
        return _session.Request(self.base_job_name or _names.base_of(image), job_name, image, self.train_instance_count,
                                self.train_instance_type, _inputs.channels(inputs), output, float(self.train_max_run),
                                _inputs.environment(self.envs), named, code, kind, arguments)

    @classmethod
    def attach(cls, training_job_name: str, ti_session: Optional[_session.Session] = None, *, wait: bool = True,
               logs: bool = True) -> EstimatorBase:
        """Find a job that any process of this user has begun.

        Args:
            training_job_name: The job.
            ti_session: A session.
            wait: Return when it has ended. Ctrl-C ends the waiting, not the job.
            logs: Show what it prints, from its beginning.

        Returns:
            An estimator of the class that began it; one of a job that failed as well.

        Raises:
            UnknownJobError: There is none of this name.
            ArgumentError: It was begun by another class.
        """
        ti_session = ti_session or _session.Session()
        found = ti_session.training_job(training_job_name)
        spec = found.spec()
        kind = _kind(spec.kind)
        if not issubclass(kind, cls) and cls not in (Estimator, EstimatorBase):
            raise ArgumentError(f"job {training_job_name} was begun by {kind.__name__}, not {cls.__name__}", hint=f"{kind.__name__}.attach")
        made: EstimatorBase = kind(**spec.arguments, ti_session=ti_session)
        made.latest_training_job = found
        if wait:
            found.follow(logs=logs)
        elif logs:
            found.logs()
        return made

    def _latest(self) -> TrainingJob:
        if self.latest_training_job is None:
            raise ArgumentError("there is no job yet", hint="call fit or attach first")
        return self.latest_training_job

    def logs(self) -> None:
        """Show what the latest job has printed, from its beginning."""
        self._latest().logs()

    def stop(self) -> None:
        """Stop the latest job, and wait for its end; one that has ended stays as it is."""
        self._latest().stop()

    @property
    def model_data(self) -> Optional[str]:
        """The latest job's `model.tar.gz`; None as long as there is none, and for a job that left no model."""
        return self._latest().state().model or None


class Estimator(EstimatorBase):
    """A job of an image that has its program in it; it is started as `docker run IMAGE train`.

    Args:
        image_name: The image.
        role: See `EstimatorBase`, as for all others.
        train_instance_count: Hosts.
        train_instance_type: `local`, `local_gpu` or a type of the cloud.
        hyperparameters: For the program.
        others: As of `EstimatorBase`.
    """

    def __init__(self, image_name: str, role: Optional[str] = None, train_instance_count: int = 1, train_instance_type: str = "local",
                 hyperparameters: Optional[Mapping[str, Any]] = None, **others: Any) -> None:
        super().__init__(role, train_instance_count, train_instance_type, hyperparameters=hyperparameters, **others)
        if not isinstance(image_name, str) or not image_name:
            raise ArgumentError(f"image_name is {image_name!r}", hint="the image to run")
        self.image_name = image_name

    def train_image(self) -> str:
        """The image that the job runs."""
        return self.image_name

    def _arguments(self) -> Dict[str, Any]:
        return {**super()._arguments(), "image_name": self.image_name}


class Framework(EstimatorBase):
    """A job of a framework's image and a program of the user's: script mode. See the subclasses."""

    framework = ""
    first_cuda: Tuple[Tuple[Tuple[int, int], str], ...] = ()    # from which version on the image's tag says so, the newest first

    def __init__(self, entry_point: Place, role: Optional[str], train_instance_count: int, train_instance_type: str, *,
                 framework_version: str, py_version: str = "py3", source_dir: Optional[Place] = None,
                 distributions: Optional[Mapping[str, Any]] = None, image_name: Optional[str] = None,
                 container_log_level: int = logging.INFO, **others: Any) -> None:
        super().__init__(role, train_instance_count, train_instance_type, **others)
        self.entry_point, self.source_dir = entry_point, source_dir
        self.framework_version, self.py_version = framework_version, py_version
        self.distributions, self.image_name, self.container_log_level = distributions, image_name, container_log_level
        _distribution(distributions)

    def train_image(self) -> str:
        """`image_name`, or the one that the cloud has for this framework and version."""
        if self.image_name:
            return self.image_name
        try:
            version = tuple(int(part) for part in self.framework_version.split(".")[:2])
        except (AttributeError, ValueError):
            raise ArgumentError(f"framework_version is {self.framework_version!r}", hint="a version such as '1.4.0'") from None
        cuda = next((f"-gpu-{name}" for first, name in self.first_cuda if version >= first), "")
        return f"{_REGISTRY}/{self.framework}:{self.framework_version}{cuda}-{self.py_version}"

    def _program(self) -> Tuple[Optional[Path], Dict[str, Any]]:
        code, entry = _inputs.program(self.entry_point, self.source_dir)
        return code, {"ti_program": entry, "ti_submit_directory": _plan.CODE, "ti_container_log_level": self.container_log_level,
                      **_distribution(self.distributions)}

    def _arguments(self) -> Dict[str, Any]:
        return {**super()._arguments(), "entry_point": os.fspath(self.entry_point if self.source_dir is not None
                                                                             else os.path.abspath(self.entry_point)),
                "source_dir": None if self.source_dir is None else os.path.abspath(self.source_dir),
                "framework_version": self.framework_version, "py_version": self.py_version, "distributions": self.distributions,
                "image_name": self.image_name, "container_log_level": self.container_log_level}


def _distribution(wanted: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """What the cloud's images are told of how to run on several hosts."""
    made: Dict[str, Any] = {}
    for name, options in (wanted or {}).items():
        if name not in ("mpi", "parameter_server") or not isinstance(options, Mapping):
            raise ArgumentError(f"distributions has {name!r}: {options!r}", hint="{'mpi': {'enabled': True, 'processes_per_host': 2}} "
                                                                             "or {'parameter_server': {'enabled': True}}")
        made[f"ti_{name}_enabled"] = bool(options.get("enabled"))
        if name == "mpi" and options.get("enabled"):
            made["ti_mpi_num_of_processes_per_host"] = options.get("processes_per_host", 1)
            made["ti_mpi_custom_mpi_options"] = options.get("custom_mpi_options", "")
    return made


def _recorded(value: Any) -> Any:
    """Of what JSON does not know: hyper-parameters as they are sent, all else as text."""
    with contextlib.suppress(TypeError):
        return _inputs.plain(value)
    return str(value)


_KINDS = ("Estimator", "PyTorch", "TensorFlow")


def _kind(name: str) -> Type[Any]:
    """The class of a record."""
    from ymir_exc.ti.pytorch import PyTorch
    from ymir_exc.ti.tensorflow import TensorFlow
    return {"PyTorch": PyTorch, "TensorFlow": TensorFlow}.get(name, Estimator)
