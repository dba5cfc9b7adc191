"""The pydantic models behind `ymir_exc.env` and `ymir_exc.result_writer`, which offer them under their public names.

They take what images in the wild hand them: numbers where text is declared, fractions where pixels are, tensors where a float is.
"""
from typing import Any, Dict, Type, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
from typing_extensions import Annotated

from ymir_exc.env import INPUT_DEFAULTS, OUTPUT_DEFAULTS, TASK_DEFAULTS

_M = TypeVar("_M", bound="Model")


def _to_text(value: Any) -> Any:
    """Numbers become text: unquoted versions and ids in YAML are numbers."""
    if isinstance(value, (int, float)):
        return str(value)
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _to_pixel(value: Any) -> Any:
    """Towards zero, as `int()` does; text must hold a whole number."""
    if type(value) is int:
        return value
    if value is None:
        raise ValueError("must be a number")
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a whole number, or one that can be cut to it") from None


def _to_score(value: Any) -> Any:
    """Whatever `float()` takes: numpy scalars, tensors of one element, text."""
    if type(value) is float:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        item = getattr(value, "item", None)    # numpy 2 refuses float() of a one-element array
        if item is not None and getattr(value, "size", 0) == 1:
            return float(item())
        raise ValueError("must be a number") from None


Text = Annotated[str, BeforeValidator(_to_text)]
Pixel = Annotated[int, BeforeValidator(_to_pixel)]
Score = Annotated[float, BeforeValidator(_to_score)]


class Model(BaseModel):
    """Common manners: unknown keys are dropped, assignment is not validated, the names of pydantic 1 stay."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    def dict(self, **options: Any) -> Dict[str, Any]:
        """As plain nested dicts."""
        return self.model_dump(**options)

    def copy(self: _M, *, deep: bool = False, update: Any = None, **_: Any) -> _M:
        """A copy; nested models are shared unless `deep`."""
        return self.model_copy(deep=deep, update=update)

    def json(self, **options: Any) -> str:
        """As JSON text."""
        return self.model_dump_json(**options)

    @classmethod
    def parse_obj(cls: Type[_M], obj: Any) -> _M:
        """From plain nested dicts."""
        return cls.model_validate(obj)


class EnvInputConfig(Model):
    """`input:` of env.yaml; paths inside the container."""

    root_dir: Text = INPUT_DEFAULTS["root_dir"]
    assets_dir: Text = INPUT_DEFAULTS["assets_dir"]
    annotations_dir: Text = INPUT_DEFAULTS["annotations_dir"]
    models_dir: Text = INPUT_DEFAULTS["models_dir"]
    training_index_file: Text = INPUT_DEFAULTS["training_index_file"]
    val_index_file: Text = INPUT_DEFAULTS["val_index_file"]
    candidate_index_file: Text = INPUT_DEFAULTS["candidate_index_file"]
    config_file: Text = INPUT_DEFAULTS["config_file"]


class EnvOutputConfig(Model):
    """`output:` of env.yaml; paths inside the container."""

    root_dir: Text = OUTPUT_DEFAULTS["root_dir"]
    models_dir: Text = OUTPUT_DEFAULTS["models_dir"]
    tensorboard_dir: Text = OUTPUT_DEFAULTS["tensorboard_dir"]
    training_result_file: Text = OUTPUT_DEFAULTS["training_result_file"]
    mining_result_file: Text = OUTPUT_DEFAULTS["mining_result_file"]
    infer_result_file: Text = OUTPUT_DEFAULTS["infer_result_file"]
    monitor_file: Text = OUTPUT_DEFAULTS["monitor_file"]
    executor_log_file: Text = OUTPUT_DEFAULTS["executor_log_file"]


class EnvConfig(Model):
    """The whole env.yaml (contract 2.1)."""

    task_id: Text = TASK_DEFAULTS["task_id"]
    protocol_version: Text = TASK_DEFAULTS["protocol_version"]
    run_training: bool = TASK_DEFAULTS["run_training"]
    run_mining: bool = TASK_DEFAULTS["run_mining"]
    run_infer: bool = TASK_DEFAULTS["run_infer"]
    manifest_file: Text = TASK_DEFAULTS["manifest_file"]
    input: EnvInputConfig = EnvInputConfig()
    output: EnvOutputConfig = EnvOutputConfig()


class Box(Model):
    """A box in pixels: `x`, `y` the upper left corner, `w`, `h` the extent; fractions are cut towards zero."""

    x: Pixel
    y: Pixel
    w: Pixel
    h: Pixel


class Annotation(Model):
    """One detected object."""

    class_name: Text
    score: Score
    box: Box


def _publish_as(module: str, *models: Type[BaseModel]) -> None:
    """Name the public home: there pickles of older images look for them."""
    for model in models:
        model.__module__ = module


_publish_as("ymir_exc.env", EnvInputConfig, EnvOutputConfig, EnvConfig)
_publish_as("ymir_exc.result_writer", Box, Annotation)


