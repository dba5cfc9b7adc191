"""An image against this machine: its architecture, and the CUDA that it was made for against the driver's."""
from __future__ import annotations

import json
import platform
import re
import shutil
from typing import Any, Dict, Iterator, List, Mapping, Optional

from ymir_exc.host.doctor._engine import chosen
from ymir_exc.host.doctor._gpu import Driver, driver
from ymir_exc.host.doctor._probe import Line, NoAnswer, Question, Status, ask, probe, size
from ymir_exc.host.doctor._python import fits, numbers

# torch from pip brings CUDA with it, and no variable of the image tells; its file is read, as importing it takes seconds.
_TORCH_CUDA = """import importlib.util, pathlib, re
found = importlib.util.find_spec("torch")
text = pathlib.Path(found.origin).with_name("version.py").read_text() if found else ""
print(*re.findall(r"^cuda\\b[^=]*=\\s*[\\x27\\x22]([0-9.]+)", text, re.MULTILINE))"""
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@probe("image", "the image", 60.0)
def _image(question: Question) -> Iterator[Line]:
    name = chosen(question)
    if question.image is None or name is None or shutil.which(name) is None:
        return
    found = _inspected(name, question.image)
    if found is None:
        yield Line(Status.PROBLEM, f"{name} has no image {question.image}", f"{name} pull {question.image}, or build it",
                   {"image": question.image, "present": False})
        return
    yield _architecture(question.image, found)
    settings = dict(entry.partition("=")[::2] for entry in (found.get("Config") or {}).get("Env") or ())
    try:
        known: Optional[Driver] = driver()
    except NoAnswer:    # the probe of the GPUs says so
        known = None
    wanted = cuda_wanted(settings) or (_cuda_of_torch(name, question.image) if known else None)
    if wanted is None:
        yield Line(Status.OK, f"{question.image} does not say that it needs CUDA", "", {"cuda": None})
        return
    yield cuda_line(question.image, settings, wanted, known)


def _inspected(engine: str, image: str) -> Optional[Dict[str, Any]]:
    """What the engine knows of an image; None where it has none of that name."""
    try:
        found = json.loads(ask([engine, "image", "inspect", image], 30.0))
    except NoAnswer as e:
        if re.search(r"no such image|image not known|not found|does not exist", str(e), re.IGNORECASE):
            return None
        raise
    first: Dict[str, Any] = found[0]
    return first


def _architecture(image: str, found: Mapping[str, Any]) -> Line:
    made_for, here = str(found.get("Architecture", "")), _MACHINES.get(platform.machine(), platform.machine())
    facts = {"image": image, "present": True, "architecture": made_for, "size": found.get("Size")}
    text = f"{image} is for {made_for or 'an unknown architecture'}, {size(float(found.get('Size') or 0))}"
    if made_for and made_for != here:
        return Line(Status.PROBLEM, f"{text}; this machine is {here}", f"build it with --platform linux/{here}", facts)
    return Line(Status.OK, text, "", facts)


def cuda_wanted(settings: Mapping[str, str]) -> Optional[str]:
    """The CUDA version that an image was made for, from its environment variables; None for one without CUDA."""
    found = settings.get("CUDA_VERSION", "")
    if not numbers(found):
        match = re.search(r"cuda\s*>=\s*([0-9.]+)", settings.get("NVIDIA_REQUIRE_CUDA", ""))
        found = match[1] if match else ""
    return ".".join(map(str, (*numbers(found), 0)[:2])) if numbers(found) else None


def _cuda_of_torch(engine: str, image: str) -> Optional[str]:
    """The CUDA version that an image's torch is built for; None where it has none, or no Python to ask."""
    try:
        said = ask([engine, "run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", _TORCH_CUDA], 30.0).split()
    except NoAnswer:
        return None
    return said[-1] if said and numbers(said[-1]) else None


def cuda_line(image: str, settings: Mapping[str, str], wanted: str, known: Optional[Driver]) -> Line:
    """Whether the driver will do.

    What NVIDIA's images require stands in NVIDIA_REQUIRE_CUDA: alternatives with blanks between them, each some conditions with commas
    between them. Without it, a driver runs programs of the same major version of CUDA, and of older ones.
    """
    facts = {"cuda": wanted, "driver": known.version if known else None, "driver_cuda": known.cuda if known else None}
    text = f"{image} is made for CUDA {wanted}"
    if known is None:
        return Line(Status.WARNING, f"{text}; no GPU can be used here", "it runs on the CPU with gpu_id '', if its program can", facts)
    have = f"the driver {known.version} knows CUDA {known.cuda}"
    if not numbers(known.cuda):
        return Line(Status.UNKNOWN, f"{text}; the driver {known.version} does not say which CUDA it knows",
                    "nvidia-smi shows it in its heading: drivers from before CUDA 10 do not, and are too old", facts)
    if fits(known.cuda, f">={wanted}"):
        return Line(Status.OK, f"{text}; {have}", "", facts)
    if any(_holds(alternative, known) for alternative in settings.get("NVIDIA_REQUIRE_CUDA", "").split()):
        return Line(Status.WARNING, f"{text}; {have}, which NVIDIA allows on some GPUs only", "install a newer driver to be sure", facts)
    is_near = numbers(known.cuda)[:1] == numbers(wanted)[:1] and not settings.get("NVIDIA_REQUIRE_CUDA")
    if is_near:
        return Line(Status.WARNING, f"{text}; {have}: programs that compile for the GPU as they run may fail",
                    f"install a driver that knows CUDA {wanted}", facts)
    effect = "its container will not start with a GPU" if settings.get("NVIDIA_REQUIRE_CUDA") else "its programs will find no GPU"
    return Line(Status.PROBLEM, f"{text}; {have}: {effect}",
                f"install a driver that knows CUDA {wanted}, or build the image on an older base or with an older torch", facts)


def _holds(alternative: str, known: Driver) -> bool:
    """Whether the driver meets one alternative; on the brand of the GPU nothing is known here."""
    conditions: List[str] = alternative.split(",")
    drivers = [condition[len("driver"):] for condition in conditions if condition.startswith("driver")]
    cudas = [condition[len("cuda"):] for condition in conditions if condition.startswith("cuda")]
    return bool(drivers or cudas) and all(fits(known.version, one) for one in drivers) and all(fits(known.cuda, one) for one in cudas)
