"""The generated data set on disk."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.synthetic import detection as synthetic
from mobilevision.datasets.synthetic import generated
from mobilevision.datasets.synthetic.detection import (
    CATEGORIES,
    annotation_file,
    tight_box_xywh,
    write_scenes,
)
from mobilevision.datasets.synthetic.scenes import Scene

SIZE_HW = (96, 128)


def make(root: Path, **changes: Any) -> bool:
    options: dict[str, Any] = {"train": 12, "val": 4, "size_hw": SIZE_HW, "progress": False}
    return write_scenes(root, **(options | changes))


def document(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / annotation_file(split)).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "scenes"
    assert make(root, train=60)
    return root


@pytest.mark.parametrize(("split", "count"), [("train", 60), ("val", 4)])
def test_write_scenes__read_by_pycocotools__boxes_and_areas_are_those_of_the_masks(
    root: Path, split: str, count: int
) -> None:
    coco = COCO(root / annotation_file(split))
    assert len(coco.imgs) == count
    assert {key: value["name"] for key, value in coco.cats.items()} == CATEGORIES
    assert len(coco.anns) > count
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.shape == SIZE_HW
        assert annotation["bbox"] == list(cv2.boundingRect(mask))
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0


def test_write_scenes__images__are_whole_jpegs_of_the_size_asked_for(root: Path) -> None:
    for split in ("train", "val"):
        images = document(root, split)["images"]
        files = {path.name for path in (root / split).iterdir()}
        assert files == {image["file_name"] for image in images}
        for image in images:
            with Image.open(root / split / image["file_name"]) as opened:
                opened.load()
                assert opened.format == "JPEG"
                assert (opened.height, opened.width) == SIZE_HW
                assert (image["height"], image["width"]) == SIZE_HW


def test_write_scenes__masks__lie_on_the_colored_objects(root: Path) -> None:
    coco = COCO(root / annotation_file("train"))
    inside, outside = [], []
    for image_id, image in coco.imgs.items():
        with Image.open(root / "train" / image["file_name"]) as opened:
            saturation = np.ptp(np.asarray(opened, int), axis=2)
        masks = [coco.annToMask(annotation) for annotation in coco.imgToAnns[image_id]]
        covered = np.any([np.zeros(SIZE_HW), *masks], axis=0)
        inside.append(saturation[covered])
        outside.append(saturation[~covered])
    assert np.concatenate(inside).mean() > 2 * np.concatenate(outside).mean()


def test_write_scenes__same_seed__same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 12 + 4 + 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_write_scenes__other_seed_and_other_split__other_scenes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", seed=1)
    first, second = (document(tmp_path / name, "train")["annotations"] for name in "ab")
    assert first != second
    train, val = (tmp_path / "a" / split / "000001.jpg" for split in ("train", "val"))
    assert train.read_bytes() != val.read_bytes()


def test_write_scenes__fewer_images__starts_with_the_same_ones(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", train=3)
    for name in ("000001.jpg", "000003.jpg"):
        first, second = (tmp_path / folder / "train" / name for folder in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_write_scenes__asked_again__is_not_made_again(tmp_path: Path) -> None:
    assert make(tmp_path / "scenes")
    image = tmp_path / "scenes" / "train" / "000001.jpg"
    before = image.stat().st_mtime_ns
    assert not make(tmp_path / "scenes")
    assert image.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"train": 11}, {"val": 5}, {"size_hw": (128, 96)}]
)
def test_write_scenes__other_parameters_in_the_same_place__data_error(
    root: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match="other parameters"):
        make(root, **({"train": 60} | changes))


def test_write_scenes__folder_of_someone_else__data_error_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="was not generated"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_write_scenes__root_is_a_file__data_error(tmp_path: Path) -> None:
    (tmp_path / "scenes").write_text("dear")
    with pytest.raises(DataError, match="is a file"):
        make(tmp_path / "scenes")


def test_write_scenes__damaged_recipe__data_error(tmp_path: Path) -> None:
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        make(tmp_path)


def test_write_scenes__empty_folder__is_used(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    assert make(tmp_path / "scenes")


def test_write_scenes__interrupted__leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = 0

    def interrupt(rng: np.random.Generator, size_hw: tuple[int, int]) -> Scene:
        nonlocal drawn
        drawn += 1
        if drawn == 5:
            raise KeyboardInterrupt
        return draw(rng, size_hw)

    draw = synthetic.draw_scene
    monkeypatch.setattr(synthetic, "draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "scenes")
    assert list(tmp_path.iterdir()) == []


def test_write_scenes__another_process_was_faster__keeps_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "scenes"

    def race(*_: object, **__: object) -> bool:
        # By now the other process has published the same data set.
        monkeypatch.setattr(generated, "_publish", publish)
        make(target)
        return publish(*_, **__)

    publish = generated._publish
    monkeypatch.setattr(generated, "_publish", race)
    assert not make(target)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 0}, "at least 1 image"),
        ({"val": -1}, "at least 1 image"),
        ({"size_hw": (63, 100)}, "at least 64 pixels"),
        ({"seed": -1}, "positive"),
    ],
)
def test_write_scenes__parameter_out_of_range__data_error(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path / "scenes", **changes)
    assert list(tmp_path.iterdir()) == []


def test_synthetic__imported__needs_no_torch() -> None:
    code = (
        "import sys, mobilevision.datasets.synthetic.detection;"
        "print(sorted({'torch', 'lightning', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(mask=arrays(bool, (9, 12)).filter(lambda mask: mask.any()))
def test_tight_box_xywh__any_mask__is_that_of_cv2(mask: np.ndarray) -> None:
    assert tight_box_xywh(mask) == list(cv2.boundingRect(mask.astype(np.uint8)))


@given(x=st.integers(0, 11), y=st.integers(0, 8))
def test_tight_box_xywh__one_pixel__one_by_one(x: int, y: int) -> None:
    mask = np.zeros((9, 12), bool)
    mask[y, x] = True
    assert tight_box_xywh(mask) == [x, y, 1, 1]
