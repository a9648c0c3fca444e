"""From what a user names to a model."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hardpoint.core.access import Access
from hardpoint.core.box import Box
from hardpoint.core.errors import HardpointError, ModelError
from hardpoint.models.base import Model
from hardpoint.models.limits import limit_access
from hardpoint.models.torch import TorchModel
from hardpoint.models.weights import load_into, load_weights, refuse_file

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
_IN_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*(\.\w+)*)")
_FORMS = "give package.module:factory, FILE.py:factory, a path to an .onnx file, or a URL"


def load_model(
    spec: Any,
    *,
    weights: str | Path | None = None,
    input_range: Box | tuple[Any, Any] | None = None,
    usual_range: Box | None = None,
    access: Access | str | None = None,
    **options: Any,
) -> Model:
    """The model that ``spec`` names.

    Args:
        spec: a ``torch.nn.Module``, a model, a fitted scikit-learn classifier, ``"package.module:factory"`` or
            ``"path/to/file.py:factory"`` (your own code: imported and called, the working folder included; weights that
            it draws are the same each time), a path to an ``.onnx`` file, or a URL.
        weights: a ``.safetensors``, ``.pt`` or ``.pth`` file to copy into the module, strictly.
        input_range: ``(low, high)`` of valid inputs; each kind of model has its default.
        usual_range: what takes the place of that default, for a torch module or an ONNX file.
        access: show no more than this.
        options: further settings of the adapter, for example ``probabilities`` or ``headers``.

    Raises:
        ModelError: when nothing can be made of ``spec``, naming the cure.
        UnsafeModelFile: for files that could execute code.

    >>> load_model(nn.Linear(2, 3).eval(), input_range=(-1, 1)).access.word
    'gradients'
    """
    target, made_here = spec, False
    if isinstance(spec, str | Path):
        target, made_here = _resolve(spec)
    if made_here and isinstance(target, nn.Module):
        target.eval()  # a module nobody else holds yet
    if weights is not None:
        if not isinstance(target, nn.Module):
            raise ModelError(
                f"weights were given for {type(target).__name__}, which is no torch module",
                "give a module or a package.module:factory that makes one",
            )
        load_into(target, load_weights(weights), str(weights))
    if input_range is not None:
        options["input_range"] = input_range
    elif usual_range is not None and isinstance(target, nn.Module | Path):
        options["input_range"] = usual_range
    model = _adapt(target, options)
    return model if access is None else limit_access(model, access)


def _resolve(spec: str | Path) -> tuple[Any, bool]:
    """What a string or path stands for, and whether it was made just now."""
    text = str(spec)
    if re.match(r"https?://", text):
        return text, False
    if isinstance(spec, str) and not Path(text).exists():
        if found := _IN_FILE.fullmatch(text):
            return _call_factory(_imported_file(Path(found["file"])), found["name"]), True
        if _FACTORY.fullmatch(text):
            module, _, name = text.partition(":")
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))  # stays: the user's code may import more of itself later
            return _call_factory(_imported(module), name), True
    path = Path(spec)
    if path.suffix == ".onnx":
        return path, False
    if path.suffix in (".pt", ".pth", ".safetensors"):
        raise ModelError(
            f"{path} holds weights, not the architecture they belong to",
            f"give package.module:factory as the model and {path} as its weights",
        )
    if path.exists():
        raise refuse_file(path)
    raise ModelError(f"there is no model {text!r}", _FORMS)


def _imported_file(path: Path) -> ModuleType:
    """The Python file as a module of its own folder, as a script there would import it."""
    if not path.is_file():
        raise ModelError(f"there is no file {path}", "give its path, or package.module:factory")
    if not path.stem.isidentifier():
        raise ModelError(f"{path.name} cannot be imported by its name", "rename it to letters, digits and _")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(
            folder
        )  # behind all else, and for good: the user's code may import more of itself later
    importlib.invalidate_caches()
    plain = importlib.util.find_spec(path.stem)
    origin = None if plain is None else plain.origin
    if origin is not None and Path(origin).exists() and path.samefile(origin):
        return _imported(path.stem)
    name = f"{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"  # the plain name is another module's
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _raised(path, error) from error
    return made


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"cannot import {module!r}: no module named {error.name!r}",
            "install it, or run from the folder that holds it",
        ) from error
    except (Exception, SystemExit) as error:
        raise _raised(module, error) from error


def _raised(module: str | Path, error: BaseException) -> ModelError:
    return ModelError(f"importing {str(module)!r} raised {type(error).__name__}: {error}", "fix that module")


def _call_factory(module: ModuleType, attribute: str) -> Any:
    made: Any = module
    for name in attribute.split("."):
        if not hasattr(made, name):
            raise ModelError(
                f"{module.__name__!r} has no {attribute!r}", "name a function that returns the model"
            )
        made = getattr(made, name)
    if not callable(made) or isinstance(made, nn.Module) or (not inspect.isclass(made) and _is_model(made)):
        return made
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # a run is resumed with the same first weights
            return made()
    except HardpointError:
        raise
    except Exception as error:
        raise ModelError(
            f"{module.__name__}:{attribute} raised {type(error).__name__}: {error}",
            "make it callable without arguments",
        ) from error


def _adapt(target: Any, options: dict[str, Any]) -> Model:
    adapter: Any
    if isinstance(target, nn.Module):
        adapter = TorchModel
    elif _is_model(target):
        if options:
            raise ModelError(
                f"{', '.join(options)} cannot be set on a model that is already made",
                "set it where the model is made",
            )
        model: Model = target
        return model
    elif isinstance(target, Path):
        from hardpoint.models.onnx import OnnxModel as adapter
    elif isinstance(target, str):
        from hardpoint.models.http import HttpModel as adapter
    elif hasattr(target, "predict"):
        from hardpoint.models.sklearn import SklearnModel as adapter
    else:
        raise ModelError(f"{type(target).__name__} is no model", _FORMS + ", or a module or estimator")
    try:
        adapted: Model = adapter(target, **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ModelError(
            f"{adapter.__name__} has no option {str(error).rpartition(' ')[2]}", "see its documentation"
        ) from None
    return adapted


def _is_model(value: Any) -> bool:
    return isinstance(value, Model)
