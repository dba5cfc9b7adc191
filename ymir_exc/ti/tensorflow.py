"""Jobs of a TensorFlow program."""
from __future__ import annotations

from typing import Any, Dict, Optional

from ymir_exc.errors import ArgumentError
from ymir_exc.ti._inputs import Place
from ymir_exc.ti.estimator import Framework


class TensorFlow(Framework):
    """A job of a TensorFlow program in script mode.

    Args:
        entry_point: The program's file, relative to `source_dir` where that is given.
        role: See `estimator.EstimatorBase`, as for all others.
        train_instance_count: Hosts.
        train_instance_type: `local`, `local_gpu` or a type of the cloud.
        py_version: Of the cloud's image.
        script_mode: True: there is no other mode.
        framework_version: Which of the cloud's images; `image_name` names another one.
        output_path: A folder, file:// or cos://.
        source_dir: The folder that the program lies in; without it the one file is handed in.
        others: `hyperparameters`, `distributions`, `image_name`, `container_log_level`, and what `estimator.EstimatorBase` takes.

    Raises:
        ArgumentError: An argument that means nothing.
    """

    framework = "tensorflow"
    first_cuda = (((2, 1), "cu101"), ((1, 15), "cu100"))

    def __init__(self, entry_point: Place, role: Optional[str] = None, train_instance_count: int = 1, train_instance_type: str = "local",
                 py_version: str = "py3", script_mode: bool = True, framework_version: str = "2.1.0", output_path: Optional[Place] = None,
                 source_dir: Optional[Place] = None, **others: Any) -> None:
        if not script_mode:
            raise ArgumentError("script_mode is False", hint="write the program as a script, and leave script_mode True")
        super().__init__(entry_point, role, train_instance_count, train_instance_type, framework_version=framework_version,
                         py_version=py_version, source_dir=source_dir, output_path=output_path, **others)
        self.script_mode = script_mode

    def _arguments(self) -> Dict[str, Any]:
        return {**super()._arguments(), "script_mode": self.script_mode}


Tensorflow = TensorFlow
