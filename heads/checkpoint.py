"""Read and write checkpoints, the same way for every job.

A checkpoint holds weights, plain data, and hyper-parameters that name classes (``class_path``) with
their arguments. A file of a stranger can name any class of any package, and making an object of it
can run a program. So a class is looked up only if its name is on the list of classes that this
package makes networks of, or if its package is trusted by the caller.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import cache, partial
from importlib import import_module
from inspect import Parameter, getmembers, isclass, signature
from pathlib import Path
from pkgutil import walk_packages
from textwrap import shorten
from typing import Any, NamedTuple, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

import lightning
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters_context
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ..backbone.errors import WeightsError
from ..backbone.weights.formats import require_plausible_zip
from ..datasets.errors import DataError
from ..datasets.files import replaced_atomically
from .trust import is_trusted, trusted

CHECKPOINT_ENTRY = "mobilevision"
"""Key of a checkpoint's metadata, such as the image size and where its weights come from."""
CHECKPOINT_FORMAT = 1

RENAMED = {
    "backbone.features": "backbone.mobilenet",
    "backbone.fuse": "backbone.layers",
    "backbone.norms": "backbone.layers",
    "backbone.peers": "backbone.external_backbones",
    "heads.classification.mixing": "heads.classification.task",
    "heads.classification.mixup": "heads.classification.task",
    "heads.classification.teacher": "heads.classification.task",
    "heads.detection.anchors": "heads.detection.boxes",
    "heads.detection.box_losses": "heads.detection.losses",
    "heads.detection.matching": "heads.detection.assigners",
    "heads.detection.outputs": "heads.detection.boxes",
    "heads.detection.postprocess": "heads.detection.boxes",
    "heads.detection.prediction_heads": "heads.detection.ssd",
    "heads.detection.predictors": "heads.detection.ssd",
    "heads.detection.pyramid": "heads.detection.fpn",
    "heads.detection.roi": "heads.detection.faster_rcnn_heads",
    "heads.detection.rpn": "heads.detection.faster_rcnn_heads",
    "heads.face_attributes.mixing": "heads.face_attributes.task",
    "heads.face_attributes.mixup": "heads.face_attributes.task",
    "heads.face_attributes.job": "heads.face_attributes.task",
    "heads.face_attributes.teacher": "heads.face_attributes.task",
    "heads.face_embedding.external_teachers": "heads.face_embedding.teachers",
    "heads.face_embedding.foreign": "heads.face_embedding.teachers",
    "heads.face_embedding.table_teacher": "heads.face_embedding.teachers",
    "heads.teachers": "heads.distillation",
    "heads.teachers.CheckpointTeacher": "heads.classification.task.CheckpointTeacher",
}
"""Module or class path in older checkpoints -> the current one, without the package."""

_PACKAGE = __name__.partition(".")[0]
_ROOMS = (f"{_PACKAGE}.backbone", f"{_PACKAGE}.heads")
# How LightningCLI marks hyper-parameters that are class paths and arguments.
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"
_CLASS = "_class_path"
_HYPER_PARAMETERS = "hyper_parameters"
# Arguments of backbones that read or download weights, which a checkpoint holds itself.
_WEIGHT_OPTIONS = {"weights": None, "download": False}
# Factories of teachers outside this package; they are called in training alone.
_TEACHER = re.compile(r"torchvision\.models\.[^.]*|timm\.create_model", re.DOTALL)

_TORCH_KINDS = (nn.Module, Optimizer, LRScheduler)

T = TypeVar("T", bound=LightningModule)


class CheckpointError(DataError, WeightsError):
    """A checkpoint is absent, damaged, refused or for another job; the message says what to do."""


# --- allowed classes


@cache
def allowed_classes() -> frozenset[type]:
    """Return the classes that checkpoints of strangers may name.

    They are this package's tasks, and recursively the classes in the annotations of constructors:
    networks, backbones, losses, assigners, teachers and so on; of torch the losses, optimizers and
    schedules.
    """
    own = _own_classes()
    found = {each for each in own if issubclass(each, LightningModule)}
    waiting = list(found)
    while waiting:
        kinds = {kind for hint in _hints(waiting.pop()).values() for kind in _classes_in(hint)}
        for each in own - found:
            if any(_is_kind(each, kind) for kind in kinds):
                found.add(each)
                waiting.append(each)
    return frozenset(found | set(_torch_classes().values()))


def _own_classes() -> set[type]:
    classes: set[type] = set()
    for room in map(import_module, _ROOMS):
        names = [each.name for each in walk_packages(room.__path__, f"{room.__name__}.")]
        for module in (room, *map(import_module, names)):
            members = getmembers(module, isclass)
            classes |= {each for _, each in members if each.__module__ == module.__name__}
    return {
        each
        for each in classes
        if not (getattr(each, "_is_protocol", False) or each.__name__.startswith("_"))
    }


@cache
def _torch_classes() -> dict[str, type]:
    """Class path -> losses, optimizers and schedules of torch."""
    places = ((nn, _Loss), (torch.optim, Optimizer), (lr_scheduler, LRScheduler))
    return {
        name: each
        for module, base in places
        for _, each in getmembers(module, lambda member, base=base: _subclass(member, base))
        for name in (f"{module.__name__}.{each.__name__}", f"{each.__module__}.{each.__name__}")
    }


def _subclass(value: Any, base: type) -> bool:
    return isinstance(value, type) and issubclass(value, base)


def _is_kind(each: type, kind: type) -> bool:
    """Whether a class fits an annotation, be it a base or a protocol."""
    if not getattr(kind, "_is_protocol", False):
        return issubclass(each, kind)
    wanted = {
        name
        for base in kind.__mro__ if base not in (object, Protocol)
        for name in (*vars(base), *vars(base).get("__annotations__", ()))
        if not name.startswith("_") or name == "__call__"
    }  # fmt: skip
    has = {name for base in each.__mro__ for name in vars(base) if base is not object}
    return wanted <= has


def _takers(made: Any) -> Iterator[Callable[..., Any]]:
    """Yield a function, or the constructor of a class and those that its ``**options`` go to."""
    if not isinstance(made, type):
        yield made
        return
    for base in made.__mro__:
        if "__init__" in vars(base):
            yield base.__init__
            if not _takes_anything(base.__init__):
                return


def _takes_anything(function: Callable[..., Any]) -> bool:
    kinds = {each.kind for each in signature(function).parameters.values()}
    return Parameter.VAR_KEYWORD in kinds


def _hints(made: Any) -> dict[str, Any]:
    """Return the annotations of parameters; as text where they cannot be resolved."""
    hints: dict[str, Any] = {}
    for function in _takers(made):
        try:
            found = get_type_hints(function)
        except Exception:  # names that are imported for type checkers alone, and whatever else
            found = dict(getattr(function, "__annotations__", {}))
        hints = found | hints  # a subclass may take less than its base
    return hints


def _parts(hint: Any) -> Iterator[Any]:
    """Yield an annotation and, recursively, everything in it."""
    listed = isinstance(hint, list)  # the arguments of a Callable
    if not listed:
        yield hint
    for each in hint if listed else get_args(hint):
        yield from _parts(each)


def _classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes of an annotation: those of this package, and bases of torch."""
    for each in _parts(hint):
        own = getattr(each, "__module__", "").startswith(_ROOMS)
        if isinstance(each, type) and (own or issubclass(each, _TORCH_KINDS)):
            yield each


def _returned(hint: Any) -> type | None:
    """Return the class that a Callable in an annotation returns; None without a Callable."""
    for each in _parts(hint):
        if isinstance(each, str) and "Callable" in each:
            return object
        if get_origin(each) is Callable or each is Callable:
            returned = (get_args(each) or (object,))[-1]
            return returned if isinstance(returned, type) else object
    return None


def _resolve(name: Any) -> Any:
    """Return the class of a class path; None, without importing anything, if it is not allowed.

    Raises:
        ImportError, AttributeError: There is no such class in a trusted package.
    """
    if not isinstance(name, str):
        return None
    name = _renamed(name)
    module, _, last = name.rpartition(".")
    if name.startswith(tuple(f"{room}." for room in _ROOMS)):
        with suppress(ImportError):
            found = getattr(import_module(module), last, None)
            if isinstance(found, type) and found in allowed_classes():
                return found
    elif name in _torch_classes():
        return _torch_classes()[name]
    if not is_trusted(name):
        return None
    found = getattr(import_module(module), last)
    # A name that a trusted package merely imports, such as subprocess.Popen, is not its own.
    own = name in trusted() or is_trusted(str(getattr(found, "__module__", "")))
    return found if own else None


def _renamed(name: str) -> str:
    """Return the current class path for one of an older version."""
    inside = name.removeprefix(f"{_PACKAGE}.")
    if inside == name:
        return name
    module, _, last = inside.rpartition(".")
    return f"{_PACKAGE}.{RENAMED.get(inside) or f'{RENAMED.get(module, module)}.{last}'}"


def check_classes(value: Any, source: str | Path) -> None:
    """Refuse plain data with a ``class_path``, at any depth, that is not allowed.

    Raises:
        CheckpointError: A class is neither allowed nor trusted; nothing was imported or made. The
            message names ``source``, the file.
    """
    for key, name, function in _named(value, ""):
        try:
            teacher = function and _TEACHER.fullmatch(name) is not None
            known = _resolve(name) is not None or teacher
        except (ImportError, AttributeError, ValueError) as error:
            raise CheckpointError(
                f"{source}: {key} names {name}, which cannot be imported: {error}"
            ) from error
        if not known:
            package = str(name).partition(".")[0]
            raise CheckpointError(
                f"{source}: {key} names {name!r}, and checkpoints may name only what this package "
                "makes networks of; nothing of the file was run. If you wrote that class and the "
                f"file, name its package: trust=[{package!r}] in Python, --trust {package} on the "
                "command line."
            )


def class_paths(value: Any) -> Iterator[str]:
    """Return every class path in plain data, at any depth."""
    if isinstance(value, Mapping):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from class_paths(each)


def _named(value: Any, key: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield every key with a class path, its value, and whether any function is allowed there."""
    if isinstance(value, Mapping):
        arguments: dict[str, Any] = {}
        for name in ("class_path", _CLASS):
            if name in value:
                yield f"{key}.{name}".lstrip("."), value[name], False
                arguments = {**value} if name == _CLASS else _arguments(value)
                # The caller has stopped if the class is not allowed.
                yield from _named_functions(_resolve(value[name]), arguments, key)
        for name, each in value.items():
            yield from _named(each, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, each in enumerate(value):
            yield from _named(each, f"{key}.{index}".lstrip("."))


def _named_functions(
    made: Any, arguments: Mapping[str, Any], key: str
) -> Iterator[tuple[str, Any, bool]]:
    """Yield text in the place of a function, which would be taken for its import path."""
    hints = _hints(made)
    for name, each in arguments.items():
        if _returned(hints.get(name)) is not None:
            texts = [each] if isinstance(each, str) else each if isinstance(each, list) else []
            yield from ((f"{key}.{name}", text, True) for text in texts if isinstance(text, str))


# --- building objects


def build(spec: Any, source: str | Path, **arguments: Any) -> Any:
    """Make the object that a class path and arguments describe.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}``, as in a YAML.
        source: The file it comes from, for messages.
        **arguments: Arguments in place of those of ``spec``.

    Raises:
        CheckpointError: A class is neither allowed nor trusted.
    """
    check_classes(spec, source)
    made = _resolve(spec["class_path"])
    return made(**_built_arguments(made, _arguments(spec)) | arguments)


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}


def _built_arguments(made: Any, arguments: Mapping[str, Any]) -> dict:
    hints = _hints(made)
    return {name: _built(value, hints.get(name)) for name, value in arguments.items()}


def _built(value: Any, hint: Any) -> Any:
    """Build an argument: an object where it has a class path, else the plain value.

    jsonargparse is not used: it may take any text for an import path, or for a file with more.
    """
    if isinstance(value, Mapping) and "class_path" in value:
        made = _resolve(value["class_path"])
        arguments = _built_arguments(made, _arguments(value))
        returned = _returned(hint)
        if returned is not None and _subclass(made, returned):  # the parameter takes a factory
            return partial(made, **arguments)
        return made(**arguments)
    if isinstance(value, Mapping):
        return {key: _built(each, hint) for key, each in value.items()}
    if isinstance(value, list | tuple):
        kinds = {get_origin(each) or each for each in _parts(hint)}
        kind = tuple if isinstance(value, tuple) or tuple in kinds - {list} else list
        return kind(_built(each, hint) for each in value)
    if isinstance(value, str) and _returned(hint) is not None and str not in _parts(hint):
        return _resolve(value)
    return value


# --- reading


def read_content(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint as plain data and tensors; nothing in it is run.

    Tensors go to ``map_location``, as for ``torch.load``.

    Raises:
        CheckpointError: No such file, or it is no whole checkpoint of plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Name a checkpoint, such as best.ckpt of a run of `lightning "
            "fit` or what `mobilevision import` wrote."
        )
    try:
        require_plausible_zip(path, path)
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a broken or foreign file
        raise CheckpointError(
            f"{path}: not a checkpoint that can be read safely ({error}). Give a checkpoint "
            "that `lightning fit` wrote, for instance last.ckpt of the run."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no checkpoint but a {type(content).__name__}")
    return content


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint as ``read_content`` does, and refuse classes that are not allowed.

    Raises:
        CheckpointError: As ``read_content``, or a class is neither allowed nor trusted.
    """
    content = read_content(path, map_location)
    check_hyper_parameters(content, path)
    return content


def check_hyper_parameters(content: Mapping[str, Any], path: str | Path) -> None:
    """Refuse the content of a checkpoint whose hyper-parameters name classes that are not allowed.

    Raises:
        CheckpointError: As ``check_classes``, or they are no plain table.
    """
    hyper_parameters = content.get(_HYPER_PARAMETERS) or {}
    if not isinstance(hyper_parameters, Mapping):
        raise CheckpointError(f"{path}: its hyper-parameters are no table of names and values")
    if hyper_parameters.get("_instantiator", _INSTANTIATOR) != _INSTANTIATOR:
        raise CheckpointError(
            f"{path}: names {hyper_parameters['_instantiator']!r} to make its network, and nothing "
            f"but {_INSTANTIATOR} may stand there; nothing of the file was run."
        )
    try:
        check_classes(hyper_parameters, path)
    except RecursionError as error:
        raise CheckpointError(f"{path}: its hyper-parameters are nested too deep") from error


def load_task(
    path: str | Path,
    task: type[T],
    map_location: Any = "cpu",
    strict: bool | None = None,
    **overrides: Any,
) -> T:
    """Rebuild the task of a checkpoint.

    The weight files that its backbone was built from are not read again.

    Args:
        path: The checkpoint.
        task: Its class or a base of it; ``ImageTask`` takes any job.
        map_location: As for ``read_content``.
        strict: As for ``load_state_dict``; None leaves it to the task.
        **overrides: Arguments of the task in place of those of training.

    Raises:
        CheckpointError: As ``read_checkpoint``, or it is of another job, or cannot be rebuilt.
    """
    content = read_checkpoint(path, map_location)
    stored = {**(content.get(_HYPER_PARAMETERS) or {})}
    made = cast("type[T]", _resolve(stored[_CLASS]) if _CLASS in stored else task)
    wanted = getattr(task, "kind", task.__name__)
    if not _subclass(made, task):
        kind = getattr(made, "kind", getattr(made, "__name__", made))
        raise CheckpointError(f"{path}: is a checkpoint of {kind}, and not of {wanted}.")
    if "state_dict" not in content or not ("network" in stored or "network" in overrides):
        raise CheckpointError(
            f"{path}: does not describe its network: it holds weights alone, or was "
            f"trained from Python with objects, and is no checkpoint of {wanted} that can be "
            "rebuilt. Give one of `lightning fit` or `mobilevision import`, or build the network, "
            "load the state_dict into it and use from_network()."
        )
    try:
        return _rebuilt(made, content, stored, strict, overrides)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a constructor raises is about the stored arguments
        raise CheckpointError(
            f"{path}: no checkpoint of {wanted} that can be rebuilt ({shorten(str(error), 400)})."
        ) from error


def _rebuilt(
    made: type[T],
    content: dict[str, Any],
    stored: dict[str, Any],
    strict: bool | None,
    overrides: Mapping[str, Any],
) -> T:
    takers = list(_takers(made))
    anything = _takes_anything(takers[-1])
    taken = {name for each in takers for name in signature(each).parameters}
    plain = {
        name: value
        for name, value in stored.items()
        if not name.startswith("_") and name not in overrides and (anything or name in taken)
    }
    if "network" in plain:
        plain["network"] = without_weights(plain["network"])
    arguments = {**_built_arguments(made, plain), **overrides}
    given = stored | {name: value for name, value in overrides.items() if not callable(value)}
    # The task keeps its hyper-parameters, to be rebuilt again.
    keeping = _given_hyperparameters_context(given, _INSTANTIATOR)
    with keeping if _CLASS in stored else nullcontext():
        task = made(**arguments)
    task.on_load_checkpoint(content)
    task.load_state_dict(
        content["state_dict"], strict=task.strict_loading if strict is None else strict
    )
    return task


def without_weights(spec: Any) -> Any:
    """Return class paths and arguments of a network whose backbone reads no weight files."""
    if not isinstance(spec, Mapping):
        return spec
    return {
        key: _WEIGHT_OPTIONS[key] if key in _WEIGHT_OPTIONS else without_weights(value)
        for key, value in spec.items()
    }


# --- writing


class Plan(NamedTuple):
    """A class and its arguments: plain data, and plans of further classes."""

    made: type
    arguments: dict[str, Any]
    later: bool = False
    """What is built is a function that makes the object, of the arguments that are missing."""

    def build(self) -> Any:
        """Make an object of the class."""
        arguments = self._mapped(Plan.build)
        return partial(self.made, **arguments) if self.later else self.made(**arguments)

    def as_plain(self) -> dict[str, Any]:
        """Return it as class paths and arguments, as in a YAML."""
        return {"class_path": _path_of(self.made), "init_args": self._mapped(Plan.as_plain)}

    def _mapped(self, function: Callable[["Plan"], Any]) -> dict[str, Any]:
        return {
            name: function(value) if isinstance(value, Plan) else value
            for name, value in self.arguments.items()
        }


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def write_checkpoint(
    path: Path,
    task: type[LightningModule],
    plan: Plan,
    network: nn.Module,
    categories: dict[int, str],
    size_hw: tuple[int, int],
    provenance: dict[str, Any],
) -> None:
    """Write a network as a checkpoint of a task, whole or not at all.

    ``load_task(path, task)`` rebuilds it, and so do the command lines.

    Args:
        path: The file to write or replace.
        task: The job; takes ``network`` and ``categories``.
        plan: Class and arguments of the network.
        network: The network with its weights.
        categories: Category id -> name; the position is the class index.
        size_hw: Height and width of the images, in pixels.
        provenance: Origin of the weights; plain data.

    Raises:
        ValueError: The plan makes another network.
        OSError: The file cannot be written.
    """
    expected = {name: value.shape for name, value in plan.build().state_dict().items()}
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in state.items()} != expected:
        raise ValueError("the plan makes a network with other parameters than this one")
    content = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {f"network.{name}": value for name, value in state.items()},
        "hyper_parameters": {
            "network": plan.as_plain(),
            "categories": dict(categories),
            "_class_path": _path_of(task),
            "_instantiator": _INSTANTIATOR,
        },
        CHECKPOINT_ENTRY: {
            "format": CHECKPOINT_FORMAT,
            "size_hw": list(size_hw),
            "provenance": provenance,
        },
    }
    with replaced_atomically(path) as temporary:
        torch.save(content, temporary)
