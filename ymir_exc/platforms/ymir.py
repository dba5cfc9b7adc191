"""YMIR: the contract itself. env.yaml and config.yaml are checked, nothing is translated."""
from __future__ import annotations

import os
from typing import Any, Dict, Optional

from ymir_exc import settings
from ymir_exc.errors import YmirError
from ymir_exc.platforms.base import Outcome, Prepared, write_final


class YmirPlatform:
    """`/in/env.yaml`, or wherever `DEFAULT_ENV_FILE_PATH` says."""

    name = "ymir"

    def __init__(self) -> None:
        self._monitor_file: Optional[str] = None
        self._task_id = ""

    def detect(self) -> bool:
        """Whether env.yaml is there, or ought to be: a variable that names a missing one is an error, not another platform."""
        if os.environ.get("DEFAULT_ENV_FILE_PATH"):
            return True
        try:
            os.lstat(settings.DEFAULT_ENV_FILE_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:    # there, but not for this uid: `prepare` says so
            return True
        return True

    def prepare(self) -> Prepared:
        """Check that env.yaml and config.yaml can be read, as the program will read them.

        Raises:
            ConfigError: One of them is missing or wrong.
        """
        from ymir_exc import env
        path = os.path.abspath(settings.DEFAULT_ENV_FILE_PATH)
        try:
            files = env.task_files(path)
        except YmirError:
            self._guess_monitor(path)
            raise
        self._monitor_file, self._task_id = files.monitor_file, files.task_id
        env.config_at(files.config_file, path)
        folders = (files.output_dir, files.models_dir, os.path.dirname(files.training_result_file), os.path.dirname(files.monitor_file))
        return Prepared(path, _variables(path), files.monitor_file, files.task_id, tuple(dict.fromkeys(folders)))

    def finish(self, outcome: Outcome) -> None:
        """Leave the final word in monitor.txt, unless the program did.

        Raises:
            StorageError: It could not be written.
        """
        if self._monitor_file is not None:
            write_final(self._monitor_file, self._task_id, outcome)

    def _guess_monitor(self, path: str) -> None:
        """Where a failure can be told although env.yaml is wrong: what can be read of it, else the contract's own place."""
        from ymir_exc import env, monitor
        raw = _read_roughly(path)
        output = raw.get("output")
        places = [output.get("monitor_file") if isinstance(output, dict) else None, env.OUTPUT_DEFAULTS["monitor_file"]]
        for place in places:
            if isinstance(place, str) and os.path.isdir(os.path.dirname(place)):
                earlier = monitor.read_record(place)
                task_id = raw.get("task_id") or (earlier.task_id if earlier else env.TASK_DEFAULTS["task_id"])
                self._monitor_file, self._task_id = place, str(task_id)
                return


def _read_roughly(path: str) -> Dict[str, Any]:
    from ymir_exc._yaml import load_mapping
    try:
        return load_mapping(path)
    except YmirError:
        return {}


def _variables(path: str) -> Dict[str, str]:
    """The program's readers look at the default place unless told."""
    return {} if path == "/in/env.yaml" else {"DEFAULT_ENV_FILE_PATH": path}
