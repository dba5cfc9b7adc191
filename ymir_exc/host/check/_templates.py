"""Judges what an image tells the platform when it is added: the manifest and the templates of hyper-parameters (contract 1.3, 1.4)."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Iterator, List

from ymir_exc._yaml import nearest
from ymir_exc.errors import ConfigError
from ymir_exc.host.check._config import format_problem, pattern_problems, shm_problem
from ymir_exc.host.check._env import read_mapping
from ymir_exc.host.findings import Finding, Severity, rule
from ymir_exc.util import OBJECT_TYPE_FOLDERS, RESERVED_KEYS

ANY = rule(
    "N501", Severity.ERROR, "An image has at least one template", "The platform refuses the image: a template says that it can do the task",
    "Write training-template.yaml, mining-template.yaml or infer-template.yaml; one that is empty of choices holds gpu_count: 0")
MANIFEST = rule(
    "N502", Severity.ERROR, "manifest.yaml is a YAML mapping in UTF-8, with no key twice",
    "The platform takes it for missing: the image then detects boxes, without live code", "Mend the line that is named")
NO_MANIFEST = rule(
    "N503", Severity.NOTE, "An image has a manifest.yaml", "The platform takes the image for one that detects boxes",
    "Write object_type: 2, 3, 4 or 50")
OBJECT_TYPE = rule(
    "N504", Severity.ERROR, "object_type is a number or a list of numbers", "The platform refuses the image", "Write 2, or [2, 4]")
CODE = rule(
    "N505", Severity.ERROR, "object_type is 2, 3, 4 or 50", "The platform refuses the image, or offers it for nothing",
    "2 is for boxes, 3 for semantic and 4 for instance segmentation, 50 for multi-modal")
FOLDER = rule(
    "N506", Severity.ERROR, "Each object type of a list has a folder with templates", "The platform refuses the image",
    "Put the templates into det, semantic-seg, instance-seg or multi-modal")
IGNORED = rule(
    "N507", Severity.WARNING, "Templates lie where the manifest says", "The platform does not read them there",
    "With a number as object_type templates lie beside the manifest, with a list in a folder for each type")
FLAG = rule(
    "N508", Severity.WARNING, "enable_livecode and is_official are true or false", "The platform takes any text for true",
    "Write true or false without quotes")
MANIFEST_KEY = rule(
    "N509", Severity.WARNING, "No key of the manifest is nearly one that is known", "The platform passes over it", "Mend the key")
MAPPING = rule(
    "N510", Severity.ERROR, "A template is a YAML mapping in UTF-8, with no key twice",
    "The platform takes it for missing, and the task is not offered", "Mend the line that is named")
NAME = rule(
    "N511", Severity.WARNING, "No file is nearly called like a template", "The platform does not read it",
    "Call it training-template.yaml, mining-template.yaml or infer-template.yaml")
KEY = rule(
    "N512", Severity.ERROR, "The keys of a template are text", "get_merged_config() refuses it: such a key cannot be an attribute",
    "Put the key in quotes")
FLAT = rule(
    "N513", Severity.WARNING, "A template is flat",
    "The web form shows lists and mappings as text, and hands them on as text once they are edited",
    "Give each value a key of its own, or let the program read text")
LONG_KEY = rule(
    "N514", Severity.WARNING, "A key has at most 50 characters", "The web form refuses it", "Shorten it")
LONG_TEXT = rule(
    "N515", Severity.WARNING, "A text has at most 100 characters", "The web form refuses it",
    "Shorten it, or keep it in a file of the image")
LONG_NUMBER = rule(
    "N516", Severity.WARNING, "A number has at most 20 characters", "The web form refuses it", "Round it")
RESERVED = rule(
    "N517", Severity.WARNING, "A template leaves to the platform what the platform writes",
    "Users see a value that is overwritten or deleted, whatever they set", "Remove the key")
FALSY = rule(
    "N518", Severity.NOTE, "No default is empty, and for mining and inference none is 0 or false",
    "The web form drops it, and the task's config.yaml lacks the key",
    "Read with util.get_merged_config(), which fills in the template's defaults")
NULL = rule(
    "N519", Severity.WARNING, "No default is null", "The web form shows an empty box, and drops the key",
    "Write a value, or remove the key")
EXPORT = rule(
    "N520", Severity.ERROR, "The export_format of a template is one that the platform exports",
    "The export fails, or the index files are empty", "Write ark:raw, voc:raw or coco:raw")
NO_EXPORT = rule(
    "N521", Severity.WARNING, "A training template has an export_format", "The platform then exports voc, whatever the program reads",
    "Add it, such as ark:raw")
SHM = rule(
    "N522", Severity.ERROR, "The shm_size of a template is a size as docker reads it", "No container of the image starts",
    "Write a number and a unit: 16G")
PATTERNS = rule(
    "N523", Severity.WARNING, "The ymir_saved_file_patterns of a template are regular expressions", "One that is none is ignored",
    r"Write .*\.yaml for what a shell writes as *.yaml")
LIVE_CODE = rule(
    "N524", Severity.WARNING, "An image with code-access.yaml has enable_livecode in its manifest",
    "Since release 2.1 the platform looks at the manifest alone", "Add enable_livecode: true, or remove code-access.yaml")

_NAMES = ("training-template.yaml", "mining-template.yaml", "infer-template.yaml")
_FLAGS = ("enable_livecode", "is_official")
# These a template may hold: the first is read from it, the form shows or hides the others and fills them in.
_SHOWN_KEYS = frozenset({"export_format", "gpu_count", "git_url", "git_branch", "code_config"})


def check_templates(path: Path) -> Iterator[Finding]:
    """Judge an image's `img-man` folder.

    Args:
        path: The folder.

    Yields:
        What is wrong, the manifest first.
    """
    path = Path(path)
    manifest, findings = _manifest(path)
    yield from findings
    kinds = manifest.get("object_type", 2)
    if isinstance(kinds, list):
        folders = [path / OBJECT_TYPE_FOLDERS[kind] for kind in kinds if type(kind) is int and kind in OBJECT_TYPE_FOLDERS]
        for folder in folders:
            if not _templates_in(folder):
                yield Finding(FOLDER, f"{folder} holds no template", str(path / "manifest.yaml"), None, "object_type")
    else:
        folders = [path]
        if not _templates_in(path):
            yield Finding(ANY, f"{path} holds none of {', '.join(_NAMES)}", str(path))
    for folder in (path, *(path / name for name in OBJECT_TYPE_FOLDERS.values())):
        if folder in folders:
            yield from _near_names(folder)
            for name in _templates_in(folder):
                yield from _check_template(folder / name)
        else:
            for name in _templates_in(folder):
                yield Finding(IGNORED, f"object_type is {kinds!r:.60}: {folder / name} is not read", str(folder / name))
    if (path / "code-access.yaml").exists() and not manifest.get("enable_livecode"):
        yield Finding(LIVE_CODE, "enable_livecode is missing or false", str(path / "manifest.yaml"), None, "enable_livecode")


def _templates_in(folder: Path) -> List[str]:
    return [name for name in _NAMES if os.path.lexists(folder / name)]


def _manifest(folder: Path) -> Any:
    path = folder / "manifest.yaml"
    if not os.path.lexists(path):
        return {}, [Finding(NO_MANIFEST, f"{path} does not exist", str(path))]
    try:
        manifest = read_mapping(str(path), "the image's manifest")
    except ConfigError as e:
        return {}, [Finding(MANIFEST, e.message, str(path))]
    return manifest, list(_check_manifest(manifest, str(path)))


def _check_manifest(manifest: Dict[str, Any], place: str) -> Iterator[Finding]:
    value = manifest.get("object_type", 2)
    codes = value if isinstance(value, list) else [value]
    if not codes or any(type(code) is not int for code in codes):
        yield Finding(OBJECT_TYPE, f"object_type is {value!r:.60}", place, None, "object_type")
    else:
        for code in codes:
            if code not in OBJECT_TYPE_FOLDERS:
                yield Finding(CODE, f"object_type holds {code}", place, None, "object_type")
    for key in _FLAGS:
        if not isinstance(manifest.get(key, False), bool):
            yield Finding(FLAG, f"{key} is {manifest[key]!r:.60}", place, None, key)
    missing = [key for key in ("object_type", *_FLAGS) if key not in manifest]
    for key in manifest:
        close = nearest(str(key), missing) if key not in ("object_type", *_FLAGS) else None
        if close:
            yield Finding(MANIFEST_KEY, f"{key} seems to be meant for {close}", place, None, str(key))


def _near_names(folder: Path) -> Iterator[Finding]:
    missing = [name for name in _NAMES if not os.path.lexists(folder / name)]
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        close = nearest(path.name, missing) if path.suffix in (".yaml", ".yml") and path.name not in _NAMES else None
        if close:
            yield Finding(NAME, f"{path.name} seems to be meant for {close}", str(path))


def _check_template(path: Path) -> Iterator[Finding]:
    place = str(path)
    try:
        template = read_mapping(place, "the template")
    except ConfigError as e:
        yield Finding(MAPPING, e.message, place)
        return
    is_training = path.name == _NAMES[0]
    for key, value in template.items():
        yield from _check_value(key, value, is_training, place)
    if template.get("export_format"):
        kind, problem = format_problem(template["export_format"])
        if kind and (kind != "none" or is_training):
            yield Finding(EXPORT, problem, place, None, "export_format")
    elif is_training:
        yield Finding(NO_EXPORT, "export_format is missing or empty", place, None, "export_format")
    problem = shm_problem(template.get("shm_size"))
    if problem:
        yield Finding(SHM, problem, place, None, "shm_size")
    for problem in pattern_problems(template.get("ymir_saved_file_patterns")):
        yield Finding(PATTERNS, problem, place, None, "ymir_saved_file_patterns")


def _check_value(key: Any, value: Any, is_training: bool, place: str) -> Iterator[Finding]:
    if not isinstance(key, str):
        yield Finding(KEY, f"the key {key!r:.60} is a {type(key).__name__}", place, None, str(key))
        return
    if len(key) > 50:
        yield Finding(LONG_KEY, f"{len(key)} characters: {key:.60}", place, None, key)
    if key in RESERVED_KEYS - _SHOWN_KEYS:
        yield Finding(RESERVED, f"the platform writes {key}", place, None, key)
    elif value is None:
        yield Finding(NULL, f"{key} is null", place, None, key)
    elif isinstance(value, (list, dict)):
        yield Finding(FLAT, f"{key} is a {'list' if isinstance(value, list) else 'mapping'}", place, None, key)
    elif value == "" or (not value and not is_training):
        if key not in _SHOWN_KEYS:
            yield Finding(FALSY, f"{key} is {value!r}", place, None, key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and len(repr(value)) > 20:
        yield Finding(LONG_NUMBER, f"{key} has {len(repr(value))} characters", place, None, key)
    elif isinstance(value, str) and len(value) > 100:
        yield Finding(LONG_TEXT, f"{key} has {len(value)} characters", place, None, key)
