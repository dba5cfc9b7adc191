"""env.yaml and config.yaml: what images rely on, and what bad files say."""
from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import ClassVar, Dict, List, Optional

import numpy as np
import pydantic
import pytest
import yaml
from typing_extensions import Annotated

from ymir_exc import env, settings
from ymir_exc import result_writer as rw
from ymir_exc.errors import ConfigError


def write_env(platform, text):
    platform.env_file.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_the_whole_file(platform):
    current = env.get_current_env()
    assert current.dict() == platform.env
    assert dict(current.input)["assets_dir"] == str(platform.input / "assets")
    assert list(dict(current)) == ["task_id", "protocol_version", "run_training", "run_mining", "run_infer", "manifest_file",
                                   "input", "output"]


def test_defaults_of_an_empty_mapping(platform):
    write_env(platform, "{}")
    current = env.get_current_env()
    assert (current.task_id, current.protocol_version, current.run_training) == ("default-task", "0.0.1", False)
    assert current.output.monitor_file == "/out/monitor.txt"
    assert current.input.config_file == "/in/config.yaml"


def test_numbers_are_text_and_words_are_flags(platform):
    write_env(platform, "task_id: 123\nprotocol_version: 1.1\nrun_training: yes\nrun_mining: 'false'\nunknown: 1\n")
    current = env.get_current_env()
    assert (current.task_id, current.protocol_version, current.run_training, current.run_mining) == ("123", "1.1", True, False)
    assert not hasattr(current, "unknown")


def test_each_call_returns_a_fresh_object(platform):
    first = env.get_current_env()
    first.input.root_dir = "/changed"
    first.run_infer = "not checked"
    assert env.get_current_env().input.root_dir == str(platform.input)
    assert first.run_infer == "not checked"
    config = env.get_executor_config()
    config["class_names"].append("bird")
    assert env.get_executor_config() == platform.config


def test_a_changed_file_and_a_changed_setting_are_seen_at_once(platform, monkeypatch, tmp_path):
    assert env.get_current_env().task_id == "t0"
    for n in range(20):    # the same size each time, in the same instant
        platform.env["task_id"] = f"t{n % 10}"
        platform.write()
        assert env.get_current_env().task_id == f"t{n % 10}"
    other = tmp_path / "other.yaml"
    other.write_text("task_id: other")
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(other))
    assert env.get_current_env().task_id == "other"


def test_a_file_that_changes_again_within_one_tick_of_the_clock_is_seen(platform, monkeypatch):
    write_env(platform, "task_id: t0")
    stamp = os.stat(platform.env_file)
    monkeypatch.setattr(env, "_SETTLED_NS", 10**15)    # it was changed just now, however slow this machine is
    monkeypatch.setattr(os, "stat", lambda *_, **__: stamp)
    for n in range(3):
        write_env(platform, f"task_id: t{n}")
        assert env.get_current_env().task_id == f"t{n}"
    monkeypatch.setattr(env, "_SETTLED_NS", -1)
    assert env.current_env() is env.current_env()    # a settled one is read once


def test_right_values_need_no_pydantic_and_others_its_verdict(platform):
    program = ("import sys\nfrom ymir_exc import env, result_writer, util\nutil.get_merged_config()\n"
               "env.EnvConfig(task_id=7, protocol_version=1.1, input={'root_dir': '/x'})\n"
               "result_writer.Annotation(class_name=3, score='0.5', box={'x': 1.7, 'y': 2, 'w': 3, 'h': 4, 'more': 5})\n"
               "assert 'pydantic' not in sys.modules\nassert env.EnvConfig(run_infer='yes').run_infer is True\n"
               "assert 'pydantic' in sys.modules")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True)


def test_what_pydantic_made_of_it_is_of_the_same_classes():
    whole = {"run_mining": "on", "input": {"root_dir": b"/x"}, "output": env.EnvOutputConfig(root_dir="/y"), "unknown": 1}
    for made in (env.EnvConfig(**whole), env.EnvConfig.parse_obj({**whole, 7: 7})):
        assert (type(made.input), type(made.output), made.run_mining) == (env.EnvInputConfig, env.EnvOutputConfig, True)
        assert (made.input.root_dir, made.output.root_dir, made.input.models_dir) == ("/x", "/y", "/in/models")
        assert list(made.dict()) == list(env.EnvConfig().dict())
    with pytest.raises(pydantic.ValidationError, match=r"2 validation errors for EnvConfig\s+run_infer\s+[^$]*input\.root_dir"):
        env.EnvConfig(run_infer="perhaps", input={"root_dir": [1]})
    for wrong in ([], "text", None):
        with pytest.raises(pydantic.ValidationError):
            env.EnvConfig.parse_obj(wrong)
    assert env.EnvConfig.parse_obj(made) is made
    assert env.EnvConfig().input is not env.EnvConfig().input


def test_models_are_extended_and_nested_as_those_of_pydantic():
    from pydantic import BaseModel

    class Tilted(rw.Annotation):
        angle: float = 0.0
        tags: Optional[List[str]] = None

    tilted = Tilted(class_name=3, score="0.5", box={"x": 1, "y": 2, "w": 3.9, "h": 4}, angle=2, tags=["a"])
    assert tilted.dict() == {"class_name": "3", "score": 0.5, "box": {"x": 1, "y": 2, "w": 3, "h": 4}, "angle": 2.0, "tags": ["a"]}
    assert type(tilted.box) is rw.Box
    with pytest.raises(ValueError, match="tags"):
        Tilted(class_name="a", score=0.5, box=tilted.box, tags=1)

    class Page(BaseModel):
        box: rw.Box

    assert Page(box={"x": 1, "y": 2, "w": 3, "h": 4}).box == Page(box=rw.Box(x=1, y=2, w=3, h=4)).box
    assert Page(box=tilted.box).model_dump() == {"box": {"x": 1, "y": 2, "w": 3, "h": 4}}
    with pytest.raises(ValueError, match="x"):
        Page(box={"x": "left"})


class Strict(rw.Annotation):
    """As an image declares its own to pydantic."""

    score: float = pydantic.Field(ge=0, le=1)
    rank: int = pydantic.Field(7, lt=10)
    note: str = pydantic.Field(default_factory=lambda: "made")
    share: Annotated[float, pydantic.Field(le=1)] = 0.5
    kind: ClassVar[str] = "strict"

    @pydantic.field_validator("class_name")
    @classmethod
    def lower(cls, name):
        if name == "none":
            raise ValueError("no name")
        return name.lower()


class Stricter(Strict):
    @pydantic.model_validator(mode="after")
    def whole(self):
        if self.rank > 5 and self.score < 0.1:
            raise ValueError("a low score of a high rank")
        return self


@pytest.mark.parametrize("model", [Strict, Stricter])
def test_what_a_subclass_declares_to_pydantic_counts(model):
    box = rw.Box(x=1, y=2, w=3, h=4)
    made = model(class_name="CAT", score=0.5, box=box)
    assert made.dict() == {"class_name": "cat", "score": 0.5, "box": box.dict(), "rank": 7, "note": "made", "share": 0.5}
    assert made.box is box
    assert pickle.loads(pickle.dumps(made)) == made
    assert model(class_name="a", score=0, box=box, rank=1, note="b", share=0.5).score == 0
    for wrong, words in [({"score": 5.0}, "less than or equal to 1"), ({"score": -1.0}, "greater than or equal to 0"),
                         ({"rank": 10}, "rank"), ({"class_name": "none"}, "no name"), ({"share": 1.5}, "share")]:
        with pytest.raises(pydantic.ValidationError, match=words):
            model(**{"class_name": "a", "score": 0.5, "box": box, **wrong})
    with pytest.raises(pydantic.ValidationError, match=r"score\s+Field required"):
        model(class_name="a", box=box)
    if model is Stricter:
        with pytest.raises(pydantic.ValidationError, match="a low score of a high rank"):
            model(class_name="a", score=0.05, box=box)


def test_limits_in_the_type_count_too():
    class Sure(rw.Annotation):
        share: Annotated[float, pydantic.Field(le=1), {"unit": "none"}] = 0.5    # which does not hash

    values = {"class_name": "a", "score": 0.5, "box": rw.Box(x=1, y=2, w=3, h=4)}
    assert (Sure(**values).share, Sure(**values, share="0.25").share) == (0.5, 0.25)
    with pytest.raises(pydantic.ValidationError, match="share"):
        Sure(**values, share=1.5)


def test_objects_share_no_default():
    class Tagged(rw.Annotation):
        tags: list = []
        more: Dict[str, List[int]] = {"a": []}

    def make():
        return Tagged(class_name="a", score=0.5, box=rw.Box(x=1, y=2, w=3, h=4))

    first = make()
    first.tags.append("b")
    first.more["a"].append(1)
    assert (make().tags, make().more) == ([], {"a": []})
    constructed = Tagged.construct(class_name="a")
    constructed.tags.append("b")
    assert Tagged.construct(class_name="a").tags == []


def test_the_other_names_of_pydantic():
    values = {"class_name": "a", "score": 0.5, "box": {"x": 1, "y": 2, "w": 3, "h": 4}}
    whole = rw.Annotation(**values)
    assert rw.Annotation.parse_raw(json.dumps(values)) == rw.Annotation.model_validate_json(json.dumps(values)) == whole
    assert type(rw.Annotation.parse_raw(json.dumps(values)).box) is rw.Box
    with pytest.raises(pydantic.ValidationError):
        rw.Box.parse_raw("{")
    odd = rw.Box.construct(x="not checked")
    assert (odd.x, type(odd), rw.Box.model_construct(x="not checked")) == ("not checked", rw.Box, odd)
    assert rw.Annotation.validate(values) == whole
    assert list(rw.Annotation.__fields__) == list(rw.Annotation.model_fields) == ["class_name", "score", "box"]
    assert rw.Box.schema() == rw.Box.model_json_schema()
    assert rw.Box.schema()["required"] == ["x", "y", "w", "h"]


def test_the_schema_of_a_model_that_embeds_ours():
    class Page(pydantic.BaseModel):
        items: List[rw.Annotation]
        box: rw.Box

    schema = Page.model_json_schema()
    found = json.dumps(schema)
    for target in re.findall(r'"#/\$defs/([^"]+)"', found):
        assert target in schema["$defs"]
    assert '"class_name"' in found
    assert schema["$defs"]["Box"]["properties"]["x"]["type"] == "integer"


@pytest.mark.parametrize("statement", [
    "class S(Annotation): mask: list = []\nassert S(class_name=1, score=1, box=dict(x=1, y=1, w=1, h=1)).box.w == 1",
    "import typing\nassert typing.get_type_hints(Annotation)['box'].__name__ == 'Box'",
    "from dataclasses import dataclass\n@dataclass\nclass Page: item: Annotation",
])
def test_names_in_the_models_are_known_before_their_first_use(statement):
    program = f"from ymir_exc.result_writer import Annotation\n{statement}"
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nested_models_of_a_subclass_stay_what_they_are():
    class Tilted(rw.Box):
        angle: float = 0.0

    class Tagged(rw.Annotation):
        tags: Optional[List[str]] = None

    box = Tilted(x=1, y=2, w=3, h=4, angle=0.5)
    assert Tagged(class_name="a", score=1, box=box, tags=["b"]).box is box
    assert type(Tagged(class_name="a", score=1, box=rw.Box(x=1, y=2, w=3, h=4), tags=["b"]).box) is rw.Box


def test_options_of_pydantic_and_fields_of_a_subclass():
    current = env.EnvConfig(task_id="图")
    assert current.dict(include={"task_id": True, "input": {"root_dir"}}) == {"task_id": "图", "input": {"root_dir": "/in"}}
    assert current.json(include={"task_id"}) == '{"task_id":"图"}'
    assert current.copy(update={"task_id": "b"}).task_id == "b"
    assert current.copy().input is current.input
    assert current.copy(deep=True).input is not current.input
    assert str(current).startswith("task_id='图' ")
    assert current != current.input
    with pytest.raises(TypeError):
        hash(current)

    class More(env.EnvConfig):
        queue: str = "none"

    assert (More(queue="q", run_infer="yes").queue, More().queue, More(task_id=1).task_id) == ("q", "none", "1")


def test_the_model_behaves_as_older_callers_expect(platform):
    current = env.get_current_env()
    for twin in (current.copy(), current.copy(deep=True), copy.copy(current), copy.deepcopy(current),
                 pickle.loads(pickle.dumps(current)), env.EnvConfig(**current.dict()), env.EnvConfig.parse_obj(current.dict())):
        assert twin == current
    assert "task_id='t0'" in repr(current)
    assert env.EnvConfig.__module__ == "ymir_exc.env"
    with pytest.raises(ValueError, match="undeclared"):
        current.undeclared = 1
    with pytest.raises(ValueError, match="task_id"):
        env.EnvConfig(task_id=None)
    assert '"task_id":"t0"' in current.json().replace(" ", "")


@pytest.mark.parametrize("base", ["pydantic", "pydantic.v1"])
def test_predictions_that_an_older_version_pickled(monkeypatch, base):
    BaseModel = pytest.importorskip(base).BaseModel
    box = type("Box", (BaseModel,), {"__module__": "ymir_exc.result_writer", "__annotations__": dict.fromkeys("xywh", int)})
    annotation = type("Annotation", (BaseModel,), {"__module__": "ymir_exc.result_writer",
                                                   "__annotations__": {"class_name": str, "score": float, "box": box}})
    with monkeypatch.context() as patch:
        patch.setattr(rw, "Box", box)
        patch.setattr(rw, "Annotation", annotation)
        text = pickle.dumps([annotation(class_name="cat", score=0.5, box=box(x=1, y=2, w=3, h=4))])
    found = pickle.loads(text)
    assert found == [rw.Annotation(class_name="cat", score=0.5, box=rw.Box(x=1, y=2, w=3, h=4))]
    assert found[0].box.dict() == {"x": 1, "y": 2, "w": 3, "h": 4}


# Values, and whether they are right for each type: as pydantic 1 took them, for which the images in the wild were written.
ODD = [True, 0, 2, 1.5, -3.7, "5", " 5 ", "5.5", "yes", "Off", "2", "", b"5", b"\xff", None, [1], {}, float("nan"), float("inf"),
       Decimal("1.5"), Fraction(7, 2), 1j, np.int64(7), np.float32(0.1), np.bool_(True), np.array(5), np.array([1, 2]), np.array("a"),
       object()]


@pytest.mark.parametrize("value", ODD, ids=lambda value: re.sub(" at 0x.*", ">", repr(value)))
def test_values_are_taken_as_by_pydantic_1(value):
    v1 = pytest.importorskip("pydantic.v1")
    theirs = v1.create_model("Theirs", whole=(int, ...), number=(float, ...), text=(str, ...), flag=(bool, ...))

    def taken(make, name):
        try:
            return repr(make(name))
        except ValueError:
            return None

    def by_pydantic(name):
        return getattr(theirs(**{"whole": 1, "number": 1, "text": "", "flag": True, name: value}), name)

    def by_ours(name):
        box = {"x": 1, "y": 1, "w": 1, "h": 1}
        return {"whole": lambda: rw.Box(**{**box, "y": value}).y, "text": lambda: env.EnvConfig(task_id=value).task_id,
                "number": lambda: rw.Annotation(class_name="a", score=value, box=box).score,
                "flag": lambda: env.EnvConfig(run_infer=value).run_infer}[name]()

    for name in ("whole", "number", "text", "flag"):
        assert taken(by_ours, name) == taken(by_pydantic, name), name


@pytest.mark.parametrize(("text", "words"), [
    ("", "is empty"),
    ("# nothing\n", "is empty"),
    ("- a\n- b\n", "must be a mapping"),
    ("just text", "must be a mapping"),
    ("task_id: [unclosed\n", "line 2: not valid YAML"),
    ("task_id: a\ntask_id: b\n", "line 2: not valid YAML: the key 'task_id' is there twice"),
    ("task_id: null\n", "task_id: .*got None"),
    ("run_training: perhaps\n", "run_training: .*got 'perhaps'"),
    ("input: [1]\n", "input: "),
    ("input: {root_dir: {a: 1}}\n", r"input\.root_dir: "),
    ("run_training: 7\nrun_trainin: true\n", "is run_trainin meant to be run_training"),
    (b"task_id: \xff\xfe\n", "line 1: not UTF-8"),
    ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ("task_id: *nowhere", "not valid YAML"),
])
def test_bad_env_files_are_one_typed_error(platform, text, words):
    write_env(platform, text)
    for read in (env.get_current_env, lambda: env.task_files(str(platform.env_file))):
        with pytest.raises(ConfigError, match=words) as caught:
            read()
        assert str(platform.env_file) in str(caught.value)
        assert caught.value.return_code == 300001


def test_a_missing_file_a_folder_and_a_missing_config(platform):
    (platform.input / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml does not exist"):
        env.get_executor_config()
    (platform.input / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*config\.yaml: Is a directory"):
        env.get_executor_config()
    platform.env_file.unlink()
    with pytest.raises(ConfigError, match=r"env\.yaml does not exist"):
        env.get_current_env()


@pytest.mark.parametrize(("given", "said"), [(3, "3"), ("", "''"), ("/none/config.yaml", "/none/config.yaml")])
def test_a_config_file_that_is_not_there_is_told_by_its_key(platform, given, said):
    platform.env["input"]["config_file"] = given
    platform.write()
    with pytest.raises(ConfigError, match=rf"env\.yaml: input\.config_file: {re.escape(said)} does not exist"):
        env.get_executor_config()


@pytest.mark.parametrize(("text", "words"), [
    ('"a\\0b": 1', "NUL"), ('a: {"\\0": 1}', "NUL"), ('a: ["\\0"]', "NUL"),
    ("1: a\n01: b", "line 2: .*'01' is there twice"), ("0x1: a\n1: b", "twice"), ("yes: a\ntrue: b", "twice"), ("1: a\n1.0: b", "twice"),
    ("a: 1\n'a': 2", "twice"), ("null: 1\n~: 2", "twice"),
])
def test_odd_keys(platform, text, words):
    (platform.input / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.yaml.*{words}"):
        env.get_executor_config()


def test_keys_that_only_look_alike_are_none_twice(platform):
    (platform.input / "config.yaml").write_text("1: a\n'1': b\n1.5: c\n'true': d\ntrue_: e\n")
    assert env.get_executor_config() == {1: "a", "1": "b", 1.5: "c", "true": "d", "true_": "e"}


def test_a_file_that_is_no_configuration_by_its_size(platform):
    os.truncate(platform.env_file, 4_000_001)
    with pytest.raises(ConfigError, match=r"env\.yaml is larger than 4000000 bytes"):
        env.get_current_env()


def test_merges_of_merges_are_no_doubles(platform):
    (platform.input / "config.yaml").write_text("b: &b {x: 1, y: 1}\nd: &d {<<: *b, x: 2}\ne: {<<: *d, z: 3}\n")
    assert env.get_executor_config()["e"] == {"x": 2, "y": 1, "z": 3}


@pytest.mark.parametrize("text", ["a: !!bool abc", "a: !!int ''", "a: !!float ''", "a: !!timestamp abc", "a: !!set [1]", "? [a]\n: b"])
def test_odd_tags_are_one_typed_error(platform, text):
    (platform.input / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        env.get_executor_config()


BOMBS = {
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)),
    "merges": "a: &a {k0: 1, k1: 1, k2: 1, k3: 1, k4: 1, k5: 1, k6: 1, k7: 1}\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)}\n  <<: [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)),
    "depth": "a: " + "[" * 100_000,
    "cycle": "a: &a [*a]\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon(platform, name):
    (platform.input / "config.yaml").write_text(BOMBS[name])
    with pytest.raises(ConfigError):
        env.get_executor_config()


def test_a_byte_order_mark_and_crlf(platform):
    text = yaml.safe_dump(platform.config).replace("\n", "\r\n")
    (platform.input / "config.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert env.get_executor_config() == platform.config


def test_task_files_agree_with_the_model(platform):
    files, current = env.task_files(str(platform.env_file)), env.get_current_env()
    assert files[1:] == (current.task_id, current.input.config_file, current.output.root_dir, current.output.models_dir,
                         current.output.monitor_file, current.output.training_result_file)
    platform.env["task_id"] = 7
    platform.write()
    assert env.task_files(str(platform.env_file)).task_id == "7"


@pytest.mark.parametrize(("content", "object_type"), [
    (None, 2), ("object_type: 3", 3), ("object_type: '4'", 4), ("object_type: [3, 2]", 3), ("enable_livecode: true", 2),
])
def test_manifest_object_type(platform, content, object_type):
    manifest = platform.root / "img-man" / "manifest.yaml"
    manifest.parent.mkdir()
    if content:
        manifest.write_text(content)
    assert env.get_manifest_object_type() == object_type


def test_manifest_object_type_of_the_wrong_kind(platform):
    manifest = platform.root / "img-man" / "manifest.yaml"
    manifest.parent.mkdir()
    manifest.write_text("object_type: {a: 1}")
    with pytest.raises(ConfigError, match="object_type"):
        env.get_manifest_object_type()


@pytest.mark.parametrize(("rank", "main"), [(None, True), ("0", True), ("-1", True), ("1", False), ("7", False)])
def test_main_rank(monkeypatch, rank, main):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert env.is_main_rank() is main


def test_environment_variables_set_the_paths():
    program = "from ymir_exc import env, settings; print(settings.DEFAULT_ENV_FILE_PATH, env.EnvInputConfig().config_file)"
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": "/x/env.yaml", "DEFAULT_CONFIG_FILE_PATH": "/x/c.yaml"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["/x/env.yaml", "/x/c.yaml"]
