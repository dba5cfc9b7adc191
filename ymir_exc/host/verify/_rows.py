"""The rows that `--harsh` adds: what is done to a task, what is expected of it, why, and how to mend what fails."""
from __future__ import annotations

from typing import Any, Dict, NamedTuple, Sequence, Tuple

from ymir_exc.host.verify import _arrange, _judge
from ymir_exc.host.verify._arrange import Arrange
from ymir_exc.host.verify._container import KILL, STOP
from ymir_exc.host.verify._judge import Judge

TRAINING, RESULTS = "training", "results"


class Row(NamedTuple):
    """One thing that happens in the field.

    Attributes:
        name: As `--only` takes it.
        task: `TRAINING`, or `RESULTS`: mining and inference, as many of them as the image does.
        what: What is done, in a sentence.
        expected: What the task must then do, in a sentence.
        reason: Why that is expected.
        remedy: How to mend an image that does otherwise.
        judge: Finds the fault.
        arrange: Changes the prepared task.
        flags: For the engine, before the image.
        act: `STOP` or `KILL`, in the middle.
        network: The container's, where it matters.
        is_small: Whether /out is a volume with little space.
        has_no_gpu: Whether the container gets none, also where others do.
        is_stranger: Whether its uid has no entry in the image, also where others run as root.
    """

    name: str
    task: str
    what: str
    expected: str
    reason: str
    remedy: str
    judge: Judge
    arrange: Arrange = _arrange.nothing
    flags: Sequence[str] = ()
    act: str = ""
    network: str = ""
    is_small: bool = False
    has_no_gpu: bool = False
    is_stranger: bool = False


ROWS: Tuple[Row, ...] = (
    Row("no-network", TRAINING, "there is no network", "it trains as ever",
        "Many sites let no container out, and a download server may be gone next year.",
        "put what it downloads into the image when it is built", _judge.succeeds, network="none"),
    Row("no-home", TRAINING, "the uid has no entry in /etc/passwd, and HOME is /, where it cannot write", "it trains as ever",
        "The platform starts the image under its own uid, which no image knows.",
        "write caches to /tmp: ENV HOME=/tmp in the Dockerfile is not enough when the platform sets HOME; set TORCH_HOME, MPLCONFIGDIR and "
        "the like", _judge.succeeds, flags=("--env", "HOME=/")),
    Row("full-disk", TRAINING, "/out has 64 KiB left, or half of what the training has written",
        "it fails, says that there is no space, and leaves no torn file",
        "The platform reads result.yaml and monitor.txt of a failed training too; a torn one loses the models that were whole.",
        "write to a temporary file and rename it, and let an OSError end the program with its reason", _judge.says_full, is_small=True),
    Row("stop", TRAINING, "`docker stop` in the middle", "it ends by itself within ten seconds, with whole results or a reason",
        "An administrator stops tasks before a restart; what a training has learnt by then should not be lost.",
        "start the program by exec so that it gets SIGTERM as process 1, and handle the signal", _judge.stops, act=STOP),
    Row("kill", TRAINING, "SIGKILL in the middle", "result.yaml is whole or not there, and monitor.txt can be read",
        "The platform cancels a task by `docker rm -f`, and saves the models of a training that was cancelled.",
        "write result.yaml and monitor.txt to a temporary file in the same folder and rename it, after the model's files are whole",
        _judge.survives_kill, act=KILL),
    Row("strings", TRAINING, "all hyper-parameters are text", "it trains as ever",
        "The web form sends what a user has edited as text: '8', 'true'.", "convert each value to the type of its default",
        _judge.succeeds, _arrange.as_strings),
    Row("unseen-class", TRAINING, "a class has no object in any image", "it trains as ever",
        "A dataset seldom shows every class that was chosen for a training.",
        "a class without objects has no precision: leave it out of the mean",
        _judge.succeeds, _arrange.unseen_class),
    Row("odd-folder", TRAINING, "the images lie in a folder of the host whose name has blanks, brackets and Chinese letters",
        "it trains as ever", "/in/assets is a link to the host's folder, whose name is whatever the site has chosen.",
        "give paths to programs as lists of arguments, never through a shell, and open files as UTF-8", _judge.succeeds,
        _arrange.odd_folder),
    Row("no-gpu", TRAINING, "gpu_id asks for GPU 0, and there is none", "it fails, and says that there is no GPU (300102)",
        "A training that silently runs on the CPU takes days, and nobody is told.",
        "when gpu_id is not empty and no GPU is seen, write state 4 with code 300102 and end with a status that is not 0",
        _judge.refuses_gpu, _arrange.a_gpu, ("--env", "NVIDIA_VISIBLE_DEVICES=void"), has_no_gpu=True),
    Row("falsy-missing", RESULTS, "hyper-parameters that are 0, false or empty are missing, and so are truth values", "it works as ever",
        "The web forms of mining and inference drop every value that is 0, false or empty.",
        "take what config.yaml lacks from the image's own template", _judge.succeeds, _arrange.without_falsy),
    Row("no-candidates", RESULTS, "the candidate list is empty", "it ends with empty results, or fails and says that there is no image",
        "Filters leave nothing over at times; a division by zero tells nobody why.",
        "look at the list before the work, and fail with 300002 when it is empty", _judge.takes_nothing, _arrange.no_candidates),
    Row("broken-image", RESULTS, "one candidate more is no image",
        "the others get their results, or it fails and names the image (300003)",
        "Among a hundred thousand images one is broken, and the user must learn which.",
        "skip what cannot be decoded, or name the file in the error", _judge.leaves_one_out, _arrange.broken_image),
    Row("odd-names", RESULTS, "names of images have blanks, quotes, brackets and Chinese letters", "every image gets its result",
        "Images that are tested one by one keep the name of their address.",
        "split index lines at the TAB only, and write results under the name as it was given, in UTF-8", _judge.succeeds,
        _arrange.odd_names),
)
"""In the order in which they run: those of trainings first."""

_ON_TI: Dict[str, Dict[str, Any]] = {
    "no-home": {"reason": "Nobody says under which uid TI starts an image, and sites that run such images themselves choose one.",
                "is_stranger": True},
    "full-disk": {"what": "/opt/ml/model has 64 KiB left, or half of what the training has written",
                  "reason": "What lies in model/ may be all that is left of a job; a torn result.yaml hides the models that were whole."},
    "stop": {"expected": "it ends by itself within ten seconds, with 143 or 0, and with a model",
             "reason": "A job is stopped when its time is up; what it has learnt by then should not be lost.",
             "remedy": "start the program by exec so that it gets SIGTERM as process 1, and save the model before or when it comes",
             "judge": _judge.stops_with_model},
    "kill": {"expected": "result.yaml is whole or not there",
             "reason": "A machine can be lost at any time, and what lies in model/ may be all that is left of the job.",
             "remedy": "write result.yaml to a temporary file in the same folder and rename it, after the model's files are whole"},
    "strings": {"reason": "The console and other clients send a hyper-parameter as text: '8', 'true'."},
    "odd-folder": {"what": "the images lie in a folder of the channel whose name has blanks, brackets and Chinese letters",
                   "reason": "A channel has whatever names its files have in the store."},
    "no-gpu": {"what": "the machine has no GPU", "expected": "it trains on the CPU, or fails and says that there is no GPU",
               "reason": "A job does not say that it needs a GPU: the program must look whether there is one.",
               "remedy": "ask whether there is a GPU before it is used, and name it in the error", "judge": _judge.does_without_gpu,
               "arrange": _arrange.nothing},
    "falsy-missing": {"reason": "A job names the hyper-parameters that its user has set, and no others."},
    "odd-names": {"reason": "Files in a store have whatever names their owners gave them."},
}
TI_ROWS: Tuple[Row, ...] = tuple(row._replace(**_ON_TI.get(row.name, {})) for row in ROWS)
"""The same under Tencent TI."""
