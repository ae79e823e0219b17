"""Holding out: near-duplicates on one side, every class on both, and the same every time."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from mobilevision.datasets.detection.annotations import Annotations
from mobilevision.datasets.detection.coco import read_coco
from mobilevision.datasets.detection.held_out import (
    NEAR_BITS,
    difference_hash,
    divide,
    near_duplicates,
    stratify,
)
from mobilevision.datasets.detection.layout import find_layout
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.synthetic.detection import write_scenes

from .layouts import write


def picture(seed: int, size_wh: tuple[int, int] = (320, 240)) -> Image.Image:
    """Smooth shades, other ones for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size_wh, Image.Resampling.BICUBIC)


def save(folder: Path, **images: Image.Image) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.jpg", quality=90)
    return [str(folder / f"{name}.jpg") for name in images]


def differing_bits(one: str, two: str) -> int:
    hashes = [difference_hash(ImageFile(path)) for path in (one, two)]
    return int(np.unpackbits(hashes[0] ^ hashes[1]).sum())


def test_difference_hash__ramps__the_bits_by_hand(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 252, 4, dtype=np.uint8), (63, 1))  # 63 = 9 cells of 7 pixels
    for name, pixels in {"right": ramp, "left": ramp[:, ::-1], "down": ramp.T}.items():
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{name}.png")
    bits = {
        name: np.unpackbits(difference_hash(ImageFile(tmp_path / f"{name}.png"))).reshape(2, 64)
        for name in ("right", "left", "down")
    }
    assert (bits["right"].sum(axis=1) == [64, 0]).all()
    assert (bits["left"].sum(axis=1) == [0, 0]).all()
    assert (bits["down"].sum(axis=1) == [0, 64]).all()


def test_near_duplicates__the_same_photo_stored_anew__one_group(tmp_path: Path) -> None:
    photo = picture(0)
    paths = save(
        tmp_path,
        photo=photo,
        other=picture(1),
        small=photo.resize((160, 120)),
        bright=ImageEnhance.Brightness(photo).enhance(1.2),
        mirrored=photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    )
    photo.save(tmp_path / "rough.jpg", quality=20)
    groups = near_duplicates([*paths, str(tmp_path / "rough.jpg")])
    assert groups.tolist() == [0, 1, 0, 0, 2, 0]


def test_near_duplicates__frames_and_copies__linked_by_name(tmp_path: Path) -> None:
    """A pan, whose frames lie between the two limits, and copies that Roboflow has augmented."""
    wide = picture(3, (1000, 240))
    frames = {
        f"clip_{number:03}": wide.crop((start, 0, start + 320, 240))
        for number, start in ((1, 0), (3, 80), (5, 160))
    }
    others = {"x_002": picture(11), "x_003": picture(12)}
    copies = {"a_jpg.rf.0a1b": picture(4), "a_jpg.rf.9c": picture(5), "b_jpg.rf.9c": picture(6)}
    frames, others, copies = (save(tmp_path, **images) for images in (frames, others, copies))
    assert all(differing_bits(*pair) > NEAR_BITS for pair in pairwise(frames))
    groups = near_duplicates([*frames, *others, *copies])
    assert groups.tolist() == [0, 0, 0, 1, 2, 3, 3, 4]
    renamed = save(
        tmp_path, **{f"{'abc'[row]}1": Image.open(path) for row, path in enumerate(frames)}
    )
    assert near_duplicates(renamed).tolist() == [0, 1, 2]


def test_near_duplicates__unreadable__error_or_alone(tmp_path: Path) -> None:
    paths = save(tmp_path, a=picture(0), b=picture(0), c=picture(0))
    Path(paths[1]).write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.jpg: the file is empty"):
        near_duplicates(paths)
    assert near_duplicates(paths, on_error="skip").tolist() == [0, 1, 0]


@given(
    counts=st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
def test_stratify__any_groups__classes_on_both_sides(
    counts: list[list[int]], fraction: float, seed: int
) -> None:
    table = np.array(counts)
    chosen = stratify(table, fraction, seed)
    assert (chosen == stratify(table, fraction, seed)).all()
    rarest = int(np.argsort((table > 0).sum(axis=0), kind="stable")[0])
    sides = chosen[table[:, rarest] > 0]
    if len(sides) > 1:
        assert sides.any()
        assert not sides.all()


def test_stratify__single_images__the_share_of_every_class() -> None:
    classes = np.repeat(np.arange(4), (10, 20, 100, 200))
    counts = np.eye(4, dtype=np.int64)[classes]
    chosen = stratify(counts, 0.2, 0)
    assert np.bincount(classes[chosen]).tolist() == [2, 4, 20, 40]
    assert (chosen != stratify(counts, 0.2, 1)).any()


def test_stratify__rare_class__one_on_each_side() -> None:
    counts = np.zeros((40, 2), dtype=np.int64)
    counts[:, 0] = 1
    counts[:2, 1] = 1
    assert stratify(counts, 0.1, 0)[:2].sum() == 1
    counts[1, 1] = 0
    assert not stratify(counts, 0.1, 0)[0]


def scenes(root: Path, count: int = 60) -> Annotations:
    write_scenes(root, train=count, val=1, size_hw=(64, 64), progress=False)
    return find_layout(root).read("train")


def test_divide__scenes__share_of_each_class_and_the_same_again(tmp_path: Path) -> None:
    annotations = scenes(tmp_path)
    division = divide(annotations, 0.25, seed=3)
    assert (division.held_out == divide(annotations, 0.25, seed=3).held_out).all()
    assert 10 <= division.held_out.sum() <= 20
    for group in range(division.groups.max() + 1):
        assert len(set(division.held_out[division.groups == group])) == 1
    held_out = annotations.select(division.held_out)
    assert set(held_out.boxes.labels) == set(annotations.boxes.labels)
    assert f"{division.held_out.sum()} of 60 images held out" in division.summary()
    assert division.absent == []


def test_divide__class_of_a_single_image__said(tmp_path: Path) -> None:
    annotations = scenes(tmp_path)
    alone = int(np.flatnonzero(annotations.boxes.labels == 0)[0])
    others = (annotations.boxes.labels != 0) | (np.arange(len(annotations.boxes.ids)) == alone)
    rare = Annotations.build(
        "a", annotations.categories, annotations.images, annotations.boxes.take(others),
        owners=annotations.owners[others], faults=annotations.faults,
    )  # fmt: skip
    name = annotations.categories[1]
    assert f"none of them has {name}" in divide(rare, 0.25, 0).summary()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_divide__fraction_out_of_range__error(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        divide(scenes(tmp_path, 2), fraction, 0)


def test_divide__all_alike__error_says_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, a=picture(0), b=picture(0))
    image = {"width": 320, "height": 240}
    document = {
        "images": [
            image | {"id": row, "file_name": f"{name}.jpg"} for row, name in enumerate("ab")
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write(tmp_path / "a.json", document)
    with pytest.raises(DataError, match="all images are near-duplicates or there are too few"):
        divide(read_coco(tmp_path / "a.json", tmp_path), 0.5, 0)


@pytest.mark.real_data
def test_near_duplicates__raccoons__the_known_pairs_and_no_others(real_data: Path) -> None:
    folder = real_data / "raccoon" / "images"
    paths = sorted(str(path) for path in folder.glob("*.jpg"))
    groups = near_duplicates(paths)
    numbers = np.array([int(Path(path).stem.split("-")[1]) for path in paths])
    several = [sorted(numbers[groups == group].tolist()) for group in range(groups.max() + 1)]
    assert sorted(group for group in several if len(group) > 1) == [
        [11, 116], [21, 45], [50, 52, 74], [51, 85], [65, 98], [83, 120]
    ]  # fmt: skip
