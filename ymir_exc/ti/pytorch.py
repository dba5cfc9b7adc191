"""Jobs of a PyTorch program."""
from __future__ import annotations

from typing import Any, Mapping, Optional

from ymir_exc.ti._inputs import Place
from ymir_exc.ti.estimator import Framework


class PyTorch(Framework):
    """A job of a PyTorch program in script mode.

    Args:
        entry_point: The program's file, relative to `source_dir` where that is given.
        role: See `estimator.EstimatorBase`, as for all others.
        train_instance_count: Hosts.
        train_instance_type: `local`, `local_gpu` or a type of the cloud.
        framework_version: Which of the cloud's images; `image_name` names another one.
        source_dir: The folder that the program lies in; without it the one file is handed in.
        hyperparameters: For the program.
        others: `py_version`, `distributions`, `image_name`, `container_log_level`, and what `estimator.EstimatorBase` takes.
    """

    framework = "pytorch"
    first_cuda = (((1, 5), "cu101"), ((1, 3), "cu100"))

    def __init__(self, entry_point: Place, role: Optional[str] = None, train_instance_count: int = 1, train_instance_type: str = "local",
                 framework_version: str = "1.1.0", source_dir: Optional[Place] = None, hyperparameters: Optional[Mapping[str, Any]] = None,
                 **others: Any) -> None:
        super().__init__(entry_point, role, train_instance_count, train_instance_type, framework_version=framework_version,
                         source_dir=source_dir, hyperparameters=hyperparameters, **others)


Pytorch = PyTorch
