"""The models behind `ymir_exc.env` and `ymir_exc.result_writer`, which offer them under their public names.

They behave as pydantic's do, and take what images in the wild hand them: numbers where text is declared, fractions where pixels are,
tensors where a float is. A value that has the declared type, or is brought to it by a function of this file, is taken; about any other
pydantic is asked, which takes long to load, and its verdict, values or `ValidationError`, is what the caller gets. About a subclass that
declares anything to pydantic, a `Field` or a validator, it is always asked: validators are given its own object of the same fields, a
serializer counts in `json()` and in `dict()` with options.
"""
from __future__ import annotations

from typing import Any, Callable, ClassVar, Dict, Iterator, Mapping, Optional, Tuple, Type, TypeVar, Union

from ymir_exc import settings

_M = TypeVar("_M", bound="Model")

# What a key means when env.yaml lacks it (contract 2.1). The config file's place is taken at import, as older images expect.
INPUT_DEFAULTS: Mapping[str, str] = {
    "root_dir": "/in", "assets_dir": "/in/assets", "annotations_dir": "/in/annotations", "models_dir": "/in/models",
    "training_index_file": "", "val_index_file": "", "candidate_index_file": "",
    "config_file": settings.DEFAULT_CONFIG_FILE_PATH,
}
OUTPUT_DEFAULTS: Mapping[str, str] = {
    "root_dir": "/out", "models_dir": "/out/models", "tensorboard_dir": "/out/tensorboard",
    "training_result_file": "/out/models/result.yaml", "mining_result_file": "/out/result.tsv",
    "infer_result_file": "/out/infer-result.json", "monitor_file": "/out/monitor.txt",
    "executor_log_file": "/out/ymir-executor-out.log",
}
TASK_DEFAULTS: Mapping[str, Any] = {
    "task_id": "default-task", "protocol_version": "0.0.1", "run_training": False, "run_mining": False, "run_infer": False,
    "manifest_file": "/img-man/manifest.yaml",
}


def _to_text(value: Any) -> Any:
    """Numbers become text: unquoted versions and ids in YAML are numbers."""
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8")
    from decimal import Decimal
    return str(value) if isinstance(value, Decimal) else value


def _to_pixel(value: Any) -> Any:
    """Towards zero, as `int()` does; text must hold a whole number."""
    if type(value) is int:
        return value
    if value is None:
        raise ValueError("must be a number")
    try:
        return int(value.item() if getattr(value, "size", 0) == 1 else value)    # numpy 2 refuses int() of an array of one
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a whole number, or one that can be cut to it") from None


def _to_score(value: Any) -> Any:
    """Whatever `float()` takes: numpy scalars, tensors of one element, text."""
    if type(value) is float:
        return value
    try:
        return float(value.item() if getattr(value, "size", 0) == 1 else value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be a number") from None


_ABSENT: Any = object()
_NEVER = (("",), ())    # the names and types of no call
_CONVERT: Mapping[type, Callable[[Any], Any]] = {str: _to_text, int: _to_pixel, float: _to_score}
_DECLARED: Dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


class _Fields:
    """`model_fields` as pydantic tells them, when somebody asks."""

    def __get__(self, _: Any, owner: Type[Model]) -> Mapping[str, Any]:
        fields: Mapping[str, Any] = owner._in_pydantic().model_fields
        return fields


class Model:
    """Common manners: keywords only, unknown keys are dropped, assignment is not validated; the names of pydantic 1 and 2."""

    model_fields: ClassVar[Any] = _Fields()
    __fields__: ClassVar[Any] = model_fields
    _types: ClassVar[Dict[str, Any]] = {}
    _is_free: ClassVar[bool] = True
    _exact: ClassVar[Tuple[Tuple[str, ...], Tuple[Any, ...]]] = ((), ())
    _defaults: ClassVar[Dict[str, Any]] = {}
    _decorated: ClassVar[Dict[str, Any]] = {}
    _pydantic: ClassVar[Any] = None

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__:
            _DECLARED[cls.__name__] = cls
            # Types, not their names: whoever reads the hints looks names up in the public home, which loads them with their first use.
            cls.__annotations__ = {name: _DECLARED[declared] for name, declared in cls.__annotations__.items()}
            cls._types = {**cls._types, **cls.__annotations__}
        else:    # a subclass elsewhere may declare anything that pydantic knows
            from typing_extensions import get_origin, get_type_hints
            cls._types = {name: kind for name, kind in get_type_hints(cls, include_extras=True).items()
                          if not name.startswith("_") and ClassVar not in (kind, get_origin(kind))}
        cls._defaults = {name: getattr(cls, name) for name in cls._types if hasattr(cls, name)}
        cls._decorated = {**cls._decorated, **{name: value for name, value in vars(cls).items() if _is_of_pydantic(value)}}
        cls._is_free = not cls._decorated and not any(map(_is_of_pydantic, cls._defaults.values()))
        cls._exact = (tuple(cls._types), tuple(cls._types.values())) if cls._is_free else _NEVER
        cls._pydantic = None

    def __init__(self, **values: Any) -> None:
        if (tuple(values), tuple(map(type, values.values()))) != self._exact:
            values = _checked(type(self), values)
        object.__setattr__(self, "__dict__", values)

    @classmethod
    def parse_obj(cls: Type[_M], obj: Any) -> _M:
        """From plain nested dicts."""
        return obj if isinstance(obj, cls) else made_of(cls, _checked(cls, obj))

    @classmethod
    def parse_raw(cls: Type[_M], text: Union[str, bytes], **options: Any) -> _M:
        """From JSON text."""
        return made_of(cls, _back(cls, cls._in_pydantic().model_validate_json(text, **options)))

    @classmethod
    def construct(cls: Type[_M], _fields_set: Any = None, **values: Any) -> _M:
        """Of values that are not checked."""
        made: Dict[str, Any] = cls._in_pydantic().model_construct(**values).__dict__
        return made_of(cls, made)

    @classmethod
    def schema(cls, **options: Any) -> Dict[str, Any]:
        """As JSON schema; the options are pydantic's."""
        found: Dict[str, Any] = cls._in_pydantic().model_json_schema(**options)
        return found

    def dict(self, **options: Any) -> Dict[str, Any]:
        """As plain nested dicts; the options are pydantic's."""
        if options:
            made: Dict[str, Any] = self._as_pydantic().model_dump(**options)
            return made
        return {name: value.dict() if isinstance(value, Model) else value for name, value in self}

    def json(self, **options: Any) -> str:
        """As JSON text; the options are pydantic's."""
        text: str = self._as_pydantic().model_dump_json(**options)
        return text

    def copy(self: _M, *, deep: bool = False, update: Optional[Mapping[str, Any]] = None, **_: Any) -> _M:
        """A copy; nested models are shared unless `deep`."""
        if deep:
            import copy
            return made_of(type(self), {**copy.deepcopy(self.__dict__), **(update or {})})
        return made_of(type(self), {**self.__dict__, **(update or {})})

    validate = model_validate = parse_obj
    model_validate_json, model_construct, model_json_schema = parse_raw, construct, schema
    model_dump, model_dump_json, model_copy = dict, json, copy

    def __iter__(self) -> Iterator[Tuple[str, Any]]:
        return iter(self.__dict__.items())

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._types:
            raise ValueError(f'"{type(self).__name__}" object has no field "{name}"')
        self.__dict__[name] = value

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state.get("__dict__", state))    # pickles of older images, whose models are pydantic's, have it

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self)})"

    def __str__(self) -> str:
        return " ".join(f"{name}={value!r}" for name, value in self)

    def _as_pydantic(self) -> Any:
        values = {name: value._as_pydantic() if isinstance(value, Model) else value for name, value in self}
        return self._in_pydantic().model_construct(**values)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """As a field of somebody's pydantic model."""
        from pydantic_core import core_schema
        return core_schema.no_info_plain_validator_function(
            cls.parse_obj, serialization=core_schema.plain_serializer_function_ser_schema(cls.dict))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        return handler(cls._in_pydantic().__pydantic_core_schema__)

    @classmethod
    def _in_pydantic(cls) -> Any:
        """The same model, declared to pydantic."""
        if cls._pydantic is None:
            from pydantic import BeforeValidator, ConfigDict, create_model
            from typing_extensions import Annotated
            fields: Dict[str, Any] = {}
            for name, declared in cls._types.items():
                if declared in (str, int, float):
                    declared = Annotated[declared, BeforeValidator(_CONVERT[declared])]
                elif isinstance(declared, type) and issubclass(declared, Model):
                    declared = declared._in_pydantic()
                fields[name] = (declared, cls._defaults.get(name, ...))
            cls._pydantic = create_model(cls.__name__, __config__=ConfigDict(extra="ignore", protected_namespaces=()),
                                         __validators__=cls._decorated, **fields)
        return cls._pydantic


def _is_of_pydantic(value: Any) -> bool:
    """A `Field`, a validator, a serializer or the like, of the body of a class."""
    return type(value).__module__.partition(".")[0] == "pydantic" and not isinstance(value, type)


def _given(**values: Any) -> Dict[str, Any]:
    return {name: value for name, value in values.items() if value is not _ABSENT}


def made_of(kind: Type[_M], values: Dict[str, Any]) -> _M:
    """An object with these very values of all fields; nothing is checked."""
    made = object.__new__(kind)
    made.__dict__.update(values)
    return made


def _checked(kind: Type[Model], values: Any) -> Dict[str, Any]:
    """The values of all fields, converted.

    Raises:
        ValidationError: pydantic's; a value is missing or cannot be converted.
    """
    found = _converted(kind, values) if isinstance(values, dict) else None
    if found is not None:
        return found
    given = values.items() if isinstance(values, dict) else ()
    if isinstance(values, dict):
        values = {name: value.dict() if isinstance(value, Model) else value for name, value in given}
    found = _back(kind, kind._in_pydantic().model_validate(values))
    # Models stay the objects that they are: those of a subclass have more fields.
    return {**found, **{name: value for name, value in given if isinstance(value, Model) and isinstance(found.get(name), Model)
                        and isinstance(value, type(found[name]))}}


def _converted(kind: Type[Model], values: Dict[Any, Any]) -> Optional[Dict[str, Any]]:
    """The values of all fields, or None when this file does not know how to convert one."""
    if not kind._is_free:
        return None
    found: Dict[str, Any] = {}
    for name, declared in kind._types.items():
        if name not in values:
            if name not in kind._defaults:
                return None
            default = kind._defaults[name]
            if isinstance(default, Model):
                default = default.copy()
            elif type(default) not in (str, int, float, bool):
                import copy
                default = copy.deepcopy(default)
            found[name] = default
            continue
        value = values[name]
        if isinstance(declared, type) and issubclass(declared, Model):
            if isinstance(value, dict):
                inner = _converted(declared, value)
                value = None if inner is None else made_of(declared, inner)
            if not isinstance(value, declared):
                return None
        elif type(value) is not declared:
            try:
                value = _CONVERT[declared](value)
            except (KeyError, TypeError, ValueError):    # also of a type that does not hash
                return None
            if type(value) is not declared:
                return None
        found[name] = value
    return found


def _back(kind: Type[Model], made: Any) -> Dict[str, Any]:
    """The values of pydantic's object."""
    found = {name: getattr(made, name) for name in kind._types}
    inner = {name: kind._types[name] for name in found if isinstance(kind._types[name], type) and issubclass(kind._types[name], Model)}
    return {**found, **{name: made_of(declared, _back(declared, found[name])) for name, declared in inner.items()}}


class EnvInputConfig(Model):
    """`input:` of env.yaml; paths inside the container."""

    root_dir: str = INPUT_DEFAULTS["root_dir"]
    assets_dir: str = INPUT_DEFAULTS["assets_dir"]
    annotations_dir: str = INPUT_DEFAULTS["annotations_dir"]
    models_dir: str = INPUT_DEFAULTS["models_dir"]
    training_index_file: str = INPUT_DEFAULTS["training_index_file"]
    val_index_file: str = INPUT_DEFAULTS["val_index_file"]
    candidate_index_file: str = INPUT_DEFAULTS["candidate_index_file"]
    config_file: str = INPUT_DEFAULTS["config_file"]


class EnvOutputConfig(Model):
    """`output:` of env.yaml; paths inside the container."""

    root_dir: str = OUTPUT_DEFAULTS["root_dir"]
    models_dir: str = OUTPUT_DEFAULTS["models_dir"]
    tensorboard_dir: str = OUTPUT_DEFAULTS["tensorboard_dir"]
    training_result_file: str = OUTPUT_DEFAULTS["training_result_file"]
    mining_result_file: str = OUTPUT_DEFAULTS["mining_result_file"]
    infer_result_file: str = OUTPUT_DEFAULTS["infer_result_file"]
    monitor_file: str = OUTPUT_DEFAULTS["monitor_file"]
    executor_log_file: str = OUTPUT_DEFAULTS["executor_log_file"]


class EnvConfig(Model):
    """The whole env.yaml (contract 2.1)."""

    task_id: str = TASK_DEFAULTS["task_id"]
    protocol_version: str = TASK_DEFAULTS["protocol_version"]
    run_training: bool = TASK_DEFAULTS["run_training"]
    run_mining: bool = TASK_DEFAULTS["run_mining"]
    run_infer: bool = TASK_DEFAULTS["run_infer"]
    manifest_file: str = TASK_DEFAULTS["manifest_file"]
    input: EnvInputConfig = EnvInputConfig()
    output: EnvOutputConfig = EnvOutputConfig()


class Box(Model):
    """A box in pixels: `x`, `y` the upper left corner, `w`, `h` the extent; fractions are cut towards zero."""

    x: int
    y: int
    w: int
    h: int

    def __init__(self, *, x: Any = _ABSENT, y: Any = _ABSENT, w: Any = _ABSENT, h: Any = _ABSENT, **more: Any) -> None:
        if type(x) is type(y) is type(w) is type(h) is int and type(self) is Box and not more:    # as nearly all of the very many are
            values = self.__dict__
            values["x"], values["y"], values["w"], values["h"] = x, y, w, h
        else:
            super().__init__(**_given(x=x, y=y, w=w, h=h), **more)


class Annotation(Model):
    """One detected object."""

    class_name: str
    score: float
    box: Box

    def __init__(self, *, class_name: Any = _ABSENT, score: Any = _ABSENT, box: Any = _ABSENT, **more: Any) -> None:
        if type(class_name) is str and type(score) is float and type(box) is Box and type(self) is Annotation and not more:
            values = self.__dict__
            values["class_name"], values["score"], values["box"] = class_name, score, box
        else:
            super().__init__(**_given(class_name=class_name, score=score, box=box), **more)


# The public homes: there pickles of older images look for them.
EnvInputConfig.__module__ = EnvOutputConfig.__module__ = EnvConfig.__module__ = "ymir_exc.env"
Box.__module__ = Annotation.__module__ = "ymir_exc.result_writer"
