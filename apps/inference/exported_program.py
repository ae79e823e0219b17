"""Files of ``torch.export`` in torch, checked so that an untrusted file cannot run code."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from ...backbone.weights.formats import require_plausible_zip
from ...datasets.errors import DataError
from .runtime import ModelMetadata
from .torch import choose_device

_EXTRA = "extra/"
_MODEL = "models/model.json"
_EXAMPLE = "data/sample_inputs/model.pt"
_CONFIG = re.compile(r"data/(weights/model_weights|constants/model_constants)_config\.json")
_KNOWN = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|byteorder|archive_format|archive_version"
    r"|\.data/(version|serialization_id)|extra/mobilevision\.\w+"
    r"|data/(weights/weight_|constants/tensor_)\d+|" + _CONFIG.pattern
)
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b)\w+\.\w+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|getitem|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_(int|float|max|min)|math\.(ceil|floor|trunc)"
)
_SIZE = re.compile(
    r"(Symbol\('\w+'|(positive|integer|nonnegative)=(True|False)"
    r"|Integer|Rational|FloatTrueDiv|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|IntTrueDiv"
    r"|ToFloat|TruncToInt|FloorToInt|CeilToInt|[su](?=\d)|\d|\.(?=\d)|[-+*/(), ])*"
)
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def read_checked(path: Path) -> tuple[io.BytesIO, dict[str, str]]:
    """Read an archive that ``mobilevision export --format exported-program`` wrote.

    Args:
        path: The file, which is not trusted.

    Returns:
        A copy for ``torch.export.load``, and the entries of the metadata.

    Raises:
        DataError: It is no such archive, or it holds something that could run code.
    """
    try:
        require_plausible_zip(path, path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            contents = {name.partition("/")[2]: archive.read(name) for name in names}
        root = names[0].partition("/")[0]
        if len(contents) != len(names) or any(not name.startswith(f"{root}/") for name in names):
            raise _refusal(path, "entries that have the same name")
        for name in contents:
            if not _KNOWN.fullmatch(name):
                raise _refusal(path, f"the entry {name}")
        for name, content in contents.items():
            if _CONFIG.fullmatch(name):
                _check_tensors(path, json.loads(content))
        contents[_MODEL] = json.dumps(_checked_model(path, contents[_MODEL])).encode()
        contents[_EXAMPLE] = _plain_example(contents[_EXAMPLE])
        entries = {
            name.removeprefix(_EXTRA): content.decode()
            for name, content in contents.items()
            if name.startswith(_EXTRA)
        }
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and json raise many kinds for a damaged file
        raise DataError(
            f"{path}: is no archive of torch.export, or is damaged ({error}). Export the "
            "checkpoint again."
        ) from error
    return _pack(root, contents), entries


def _check_tensors(path: Path, config: dict[str, Any]) -> None:
    """Check that weights and constants are stored as raw numbers, not as pickles."""
    for name, entry in config["config"].items():
        known = re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"])
        if entry["use_pickle"] is not False or not known:
            raise _refusal(path, f"the pickle {name}")


def _checked_model(path: Path, content: bytes) -> dict[str, Any]:
    """Return the graph, checked, without its provenance, which is not needed to run it.

    Loading looks up operators and container types by name and evaluates symbolic sizes, so each of
    them must match a pattern of harmless ones.
    """
    model = json.loads(content)
    model["guards_code"] = []
    model["graph_module"]["metadata"] = {}
    for node in model["graph_module"]["graph"]["nodes"]:
        node["metadata"] = {}
    if not all(re.fullmatch(r"[su]\d+", name) for name in model["range_constraints"]):
        raise _refusal(path, "ranges of something that is no size")
    for key, value in _entries(model):
        if value is None:
            continue
        if key in {"target", "as_operator"}:
            # Outputs of graphs have targets that are no strings.
            name = value if isinstance(value, str) else json.dumps(value)
            if not _OPERATOR.fullmatch(name):
                raise _refusal(path, f"the operator {value}")
        if key == "expr_str" and not _SIZE.fullmatch(value):
            raise _refusal(path, f"the expression {value}")
        if key in {"in_spec", "out_spec"}:
            kinds = {each for name, each in _entries(json.loads(value)) if name == "type"}
            if not kinds <= _TREES:
                raise _refusal(path, f"values of {kinds - _TREES}")
        if key in {"as_custom_obj", "as_graph", "as_opaque_obj"}:
            raise _refusal(path, f"an argument {key}")
    return model


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys with their values, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from _entries(child)


def _plain_example(content: bytes) -> bytes:
    """Return the example of the input, loaded and saved again.

    ``torch.export.load`` unpickles anything where ``weights_only`` fails, so that is tried here.
    """
    buffer = io.BytesIO()
    require_plausible_zip(io.BytesIO(content), "the example of the input")
    try:
        example = torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # the unpickler raises any kind
        raise ValueError(f"the example of the input: {error}") from error
    torch.save(example, buffer)
    return buffer.getvalue()


def _pack(root: str, contents: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(f"{root}/{name}", content)
    buffer.seek(0)
    return buffer


def _refusal(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: holds {what}, which `mobilevision export` does not write and which could run "
        "code. It is not loaded."
    )


class ExportedProgramRuntime:
    """A file that ``mobilevision export --format exported-program`` wrote; see ``open_runtime``.

    Args:
        path: The file, which is not trusted; see ``read_checked``.
        device: "auto" or a device of torch.
        threads: Number of threads within an operation, for the whole process.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self._device = choose_device(device)
        archive, entries = read_checked(path)
        self.metadata = ModelMetadata.from_strings(entries, str(path))
        try:
            program = torch.export.load(archive)
        except Exception as error:  # archives of other versions raise any kind
            raise DataError(
                f"{path}: torch {torch.__version__} cannot open it: {error}. Export the "
                "checkpoint again."
            ) from error
        if self._device.type != "cpu":
            program = move_to_device_pass(program, self._device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._module = program.module()
        self._names = list(self.metadata.outputs)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See ``Runtime``."""
        with torch.inference_mode():
            outputs = self._module(torch.from_numpy(images).to(self._device))
        return {
            name: output.cpu().numpy() for name, output in zip(self._names, outputs, strict=True)
        }
