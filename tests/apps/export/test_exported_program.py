"""Files of torch.export: the answers of eager torch, and nothing in them that runs code."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mobilevision.apps import Detector
from mobilevision.apps.export.export_module import Deployable
from mobilevision.apps.export.exported_program import written_metadata
from mobilevision.apps.export.exporting import largest_differences, made_up_image
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.apps.inference.exported_program import read_checked
from mobilevision.apps.inference.runtime import open_runtime
from mobilevision.datasets.errors import DataError

Deployables = Callable[[str], Deployable]
Programs = Callable[[str], Path]
Change = Callable[[dict[str, bytes]], None]


@pytest.mark.parametrize("kind", ["ssd", "face_detection", "face_attributes", "faces"])
def test_file__same_answers_for_any_batch_and_image(
    kind: str, deployable: Deployables, program: Programs
) -> None:
    eager = deployable(kind)
    run = open_runtime(program(kind), "cpu")
    assert run.metadata == eager.metadata
    for batch, size_hw in ((1, eager.metadata.size_hw), (3, (97, 61))):
        images = np.stack([np.roll(made_up_image(size_hw), 7 * i, axis=1) for i in range(batch)])
        with torch.no_grad():
            answers = eager.module(torch.from_numpy(images))
        expected = {
            name: x.numpy() for name, x in zip(eager.metadata.outputs, answers, strict=True)
        }
        for name, difference in largest_differences(expected, run(images)).items():
            most = {"boxes": 2e-2, "landmarks": 2e-2, "labels": 0}.get(name, 1e-4)
            assert difference <= most, name
        assert all(np.ptp(x) > 0 for name, x in expected.items() if name != "labels")


def test_file__torch_alone_opens_it(program: Programs) -> None:
    path = program("ssd")
    loaded = torch.export.load(path)
    operators = {str(node.target) for node in loaded.graph.nodes if node.op == "call_function"}
    assert not any("mobilevision" in name or "batch_norm" in name for name in operators)
    found = loaded.module()(torch.zeros(2, 40, 50, 3, dtype=torch.uint8))
    assert found[0].shape[::2] == (2, 4)
    assert len(Detector.load(path, "cpu")(made_up_image((64, 80)), 0.0)) > 0  # type: ignore[arg-type]


def test_written_facts__fixed_image__says_the_size(deployable: Deployables) -> None:
    eager = deployable("ssd")
    assert written_metadata(eager, ExportOptions()) == eager.metadata
    said = written_metadata(eager, ExportOptions(any_image=False)).preparation
    assert "(batch, 64, 80, 3)" in said
    face = written_metadata(deployable("face_embedding"), ExportOptions(any_image=False))
    assert "five landmarks" in face.preparation
    assert "64x64 px" in face.preparation


class Ran(Exception):  # noqa: N818
    """What the planted pickle raises where it is unpickled."""


def shout() -> None:
    raise Ran


class Planted:
    def __reduce__(self) -> tuple[Any, tuple]:
        return shout, ()


def edit_json(name: str, change: Callable[[Any], None]) -> Change:
    def edit(contents: dict[str, bytes]) -> None:
        value = json.loads(contents[name])
        change(value)
        contents[name] = json.dumps(value).encode()

    return edit


def as_pickle(config: Any) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def first_operator(model: Any) -> None:
    model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def first_size(model: Any) -> None:
    sizes = next(iter(model["graph_module"]["graph"]["tensor_values"].values()))["sizes"]
    sizes[0] = {"as_expr": {"expr_str": "__import__('os').getcwd()", "hint": None}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_json("data/weights/model_weights_config.json", as_pickle), "holds the pickle"),
        (edit_json("models/model.json", first_operator), r"the operator torch\.os\.system"),
        (edit_json("models/model.json", first_size), "the expression __import__"),
        (
            lambda contents: contents.update(
                {"data/sample_inputs/model.pt": pickle.dumps(Planted(), 2)}
            ),
            "damaged",
        ),
        (lambda contents: contents.update({"data/aotinductor/m/m.so": b"x"}), "the entry data/aot"),
        (lambda contents: contents.update({"data/constants/opaque_obj_0": b"x"}), "the entry"),
        (lambda contents: contents.pop("models/model.json"), "damaged"),
        (
            lambda contents: contents.pop("extra/mobilevision.format"),
            "has no metadata",
        ),
    ],
)
def test_open_runtime__archive_that_could_run_code__refused(
    change: Change, message: str, program: Programs, tmp_path: Path
) -> None:
    with zipfile.ZipFile(program("ssd")) as archive:
        contents = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(contents)
    changed = tmp_path / "changed.pt2"
    with zipfile.ZipFile(changed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"changed/{name}", content)
    with pytest.raises(DataError, match=message):
        open_runtime(changed, "cpu")


def test_open_runtime__no_archive__says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.pt2").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"is no archive of torch\.export"):
        open_runtime(tmp_path / "broken.pt2")


def test_open__unpacks_to_far_more_than_it_holds__is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(300):
            archive.writestr(f"bomb/data/weights/weight_{number}", bytes(2**20))
    with pytest.raises(DataError, match=r"bomb\.pt2: .* unpack to 314,572,800"):
        open_runtime(path, "cpu")


def test_open__damaged__is_named(program: Programs, tmp_path: Path) -> None:
    whole = program("face_attributes").read_bytes()
    path, rng = tmp_path / "damaged.pt2", np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(1, 3000, size=4):
            data[-place] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_checked(path)
        except DataError:
            refused += 1
    assert refused
