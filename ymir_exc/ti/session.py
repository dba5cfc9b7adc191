"""The session: where jobs run and are kept, and where data goes that a program uploads."""
from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import ymir_exc
from ymir_exc.errors import ArgumentError
from ymir_exc.host.engine import Engine
from ymir_exc.ti import _gpus, _names, _plan, job
from ymir_exc.ti._inputs import Place
from ymir_exc.ti._record import Folder, Home, Spec, State, default_home
from ymir_exc.ti._stores import COS, FileStore, Store, clean_key, local_path, open_store, put_below
from ymir_exc.ti.job import TrainingJob

STOP_SECONDS = 120


class Request(NamedTuple):
    """What an estimator asks for; see `_record.Spec` for the words that are not explained here.

    Attributes:
        base: What the job's name begins with.
        name: The job's name itself; None for a new one.
        hyperparameters: From the job's name to the encoded values.
        code: The program's file or folder; None where the image has its own.
    """

    base: str
    name: Optional[str]
    image: str
    hosts: int
    instance_type: str
    channels: Dict[str, Dict[str, str]]
    output: str
    max_run: float
    envs: Dict[str, str]
    hyperparameters: Callable[[str], Dict[str, str]]
    code: Optional[Path]
    kind: str
    arguments: Dict[str, Any]


class Session:
    """Runs jobs in containers of this machine. No account and no configuration are needed; nothing is asked before a job begins.

    Args:
        engine: docker or podman; '' for the first that is installed.
        dry_run: Tell the commands that would be run, and run and write nothing.
        home: Where jobs are kept; see `_record.default_home` for where otherwise.
        gpus: Indices such as '0,1' in place of all that no other job has; '' for none.
        shm_size: Of /dev/shm in a container.
        docker_args: Further words for `docker run`, before the image.
        stop_timeout: Seconds that a container has to end when it is stopped.
        bucket: Where `upload_data` puts what is given no bucket; None for a folder of this machine.
        tell: Called with each command of a dry run, and with TensorBoard's address; prints by default.
    """

    def __init__(self, *, engine: str = "", dry_run: bool = False, home: Optional[Place] = None, gpus: Optional[str] = None,
                 shm_size: str = "16g", docker_args: Sequence[str] = (), stop_timeout: int = STOP_SECONDS, bucket: Optional[str] = None,
                 tell: Optional[Callable[[str], None]] = None) -> None:
        if isinstance(docker_args, str):
            raise ArgumentError("docker_args is one string", hint="a list of words: ['--ipc', 'host']")
        self.engine = engine
        self.dry_run = dry_run
        self.home = Home(local_path(home) if home is not None else default_home())
        self.gpus = gpus
        self.shm_size = shm_size
        self.docker_args = [str(word) for word in docker_args]
        self.stop_timeout = int(stop_timeout)
        self.bucket = bucket
        self.tell = tell or (lambda line: print(line, flush=True))    # noqa: T201 - a notebook's reader is told here

    # ------------------------------------------------------------------------------------------------------------------ data

    def upload_data(self, path: Place, bucket: Optional[str] = None, key_prefix: str = "data") -> str:
        """Put a file or a folder where jobs find it.

        Args:
            path: It; of a folder all files, under their names relative to it.
            bucket: A bucket of the object store; None for the session's, and without that a folder of this machine.
            key_prefix: What keys begin with. Slashes at its ends and doubled ones do not count.

        Returns:
            The URI for `fit`: of the prefix for a folder, of the object for a file.

        Raises:
            DatasetError: `path` does not exist.
            ConfigError: A bucket, and no way to get there.
        """
        source, prefix = local_path(path), clean_key(key_prefix or "")
        bucket = bucket or self.bucket
        store: Store = FileStore(self.home.path / "data")
        if bucket:
            store, below = open_store(bucket if bucket.startswith(COS) else f"{COS}{bucket}")
            prefix = "/".join(part for part in (below, prefix) if part)
        if self.dry_run:
            return store.uri(prefix if source.is_dir() else "/".join(part for part in (prefix, source.name) if part))
        return put_below(store, source, prefix)

    # ------------------------------------------------------------------------------------------------------------------ jobs

    def list_training_jobs(self) -> List[TrainingJob]:
        """All jobs of this user, the newest first."""
        return job.list_jobs(self.home)

    def training_job(self, name: str) -> TrainingJob:
        """A job that any process of this user has begun.

        Raises:
            UnknownJobError: There is none of this name.
        """
        return TrainingJob.find(name, self.home)

    def describe_training_job(self, name: str) -> Dict[str, Any]:
        """A job in the words of the API."""
        return self.training_job(name).describe()

    def stop_training_job(self, name: str) -> None:
        """Stop a job, and wait for its end; one that has ended stays as it is."""
        self.training_job(name).stop()

    def start(self, request: Request) -> TrainingJob:
        """Begin a job; a process of its own runs it from here on.

        Raises:
            ArgumentError: The name is taken, or cannot be one.
            NoGpuError: There are fewer GPUs than hosts, or other jobs have them.
            EngineError: The container engine is missing or does not answer.
            StorageError: The job's folder cannot be written.
        """
        engine = Engine(self.engine)
        names = iter([_names.check_job_name(request.name)]) if request.name is not None else _names.job_names(request.base)
        gpus = _gpus.split(request.instance_type, request.hosts, self.gpus)

        def share(used: Mapping[str, str]) -> List[List[str]]:
            nonlocal gpus
            if any(gpus) and used:
                gpus = _gpus.split(request.instance_type, request.hosts, self.gpus, used)
            return gpus

        if self.dry_run:
            name = next(names)
            folder, spec = Folder(self.home.jobs / name), self._spec(request, name, engine.program, gpus)
            make, runs, ends = _plan.commands(spec, folder)
            job.show_plan([[engine.program, *words] for words in (make, *runs, *ends)], self.tell)
            return TrainingJob(name)
        engine.check()

        def fill(folder: Folder, name: str) -> None:
            spec = self._spec(request, name, engine.program, gpus)
            if request.code is not None and not folder.code.exists():
                _plan.copy_code(request.code, folder.code, (self.home.path, self.home.jobs), request.output)
            shutil.rmtree(folder.hosts, ignore_errors=True)    # of a name that was taken meanwhile
            _plan.lay_out(spec, folder)
            folder.write_spec(spec)
            folder.write_state(State())

        made: Optional[TrainingJob] = None
        try:
            with deferred():
                folder, fd = self.home.create(names, fill, share)
                try:
                    _spawn(folder, fd)
                finally:
                    made = TrainingJob(folder.path.name, folder)
        except KeyboardInterrupt:
            if made is not None:
                made.interrupted()
            raise
        return made

    def _spec(self, request: Request, name: str, engine: str, gpus: List[List[str]]) -> Spec:
        root = os.geteuid() == 0    # what root's containers leave is given back at the end
        return Spec(name, uuid.uuid4().hex[:10], request.image, engine, _plan.hosts_of(request.hosts), gpus, request.channels,
                    request.output, request.max_run, request.envs, request.hyperparameters(name), request.code is not None,
                    "" if root else f"{os.geteuid()}:{os.getegid()}", self.docker_args, self.shm_size, self.stop_timeout, request.kind,
                    request.arguments, time.time())


def _spawn(folder: Folder, fd: int) -> None:
    """Start the runner, which inherits the lock, so that there is no moment in which the job seems dead."""
    environ = dict(os.environ)
    root = Path(ymir_exc.__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):    # a checkout may be known to this process alone
        environ["PYTHONPATH"] = os.pathsep.join(part for part in (str(root), environ.get("PYTHONPATH", "")) if part)
    argv = [sys.executable, "-m", "ymir_exc.ti._runner", str(folder.path), "--held"]
    try:
        with folder.runner_log.open("ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder.path, env=environ, pass_fds=(fd,),
                                       start_new_session=True)
        # It may outlive this process; where it does not, it is not to stay as a zombie.
        threading.Thread(target=process.wait, daemon=True).start()
    finally:
        os.close(fd)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Stops that come meanwhile take effect after the block; a process begun in it holds them back until it is ready for them."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def output_of(place: Optional[Place]) -> str:
    """Where outputs go: a folder, absolute, or a cos:// URI; `./ti-output` when nothing is given.

    Raises:
        ArgumentError: It is neither.
        ConfigError: A cos:// URI, and no way to get there.
        StorageError: The folder cannot be made.
    """
    text = os.fspath(place) if place is not None else "ti-output"
    if text.startswith(COS):
        open_store(text)
        return text
    folder = local_path(text)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ArgumentError(f"output_path {folder} is no folder", hint="a folder, or cos://BUCKET/KEY")
    return str(folder)


__all__ = ["Session"]
