"""Scenes: what is drawn is what the masks say."""

import numpy as np
import pytest

from mobilevision.datasets.synthetic.scenes import (
    COUNTS,
    LEAST_VISIBLE,
    SHAPES,
    SIZES,
    Scene,
    _leaves_others_visible,
    draw_scene,
)

SIZE_HW = (120, 144)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng([7, index]), SIZE_HW) for index in range(300)]


def test_draw_scene__equal_generators__equal_scenes() -> None:
    first, second = (draw_scene(np.random.default_rng(5), SIZE_HW) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    assert [item.label for item in first.objects] == [item.label for item in second.objects]
    for a, b in zip(first.objects, second.objects, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)


def test_draw_scene__many__types_and_ranges(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (*SIZE_HW, 3)
        assert scene.image.dtype == np.uint8
        assert scene.image.std() > 1
        for item in scene.objects:
            assert 0 <= item.label < len(SHAPES)
            assert item.mask.shape == SIZE_HW
            assert item.mask.any()


def test_draw_scene__masks_of_a_scene__do_not_overlap(scenes: list[Scene]) -> None:
    for scene in scenes:
        owners = sum((item.mask.astype(int) for item in scene.objects), np.zeros(SIZE_HW, int))
        assert owners.max() <= 1


def test_draw_scene__many__some_empty_and_all_classes(scenes: list[Scene]) -> None:
    counts = np.bincount([len(scene.objects) for scene in scenes], minlength=len(COUNTS))
    assert 0.02 <= counts[0] / len(scenes) <= 0.09
    assert counts[1:].min() > 0
    labels = np.bincount([item.label for scene in scenes for item in scene.objects])
    assert labels.min() > 0.5 * labels.mean()


def test_draw_scene__many__small_medium_and_large(scenes: list[Scene]) -> None:
    side = min(SIZE_HW)
    lengths = np.array(
        [
            np.sqrt(item.mask.sum()) / side
            for scene in scenes
            for item in scene.objects
        ]
    )  # fmt: skip
    for low, high in ((0, 32 / 240), (32 / 240, 96 / 240), (96 / 240, 1)):
        assert ((lengths >= low) & (lengths < high)).mean() > 0.08
    assert lengths.max() < SIZES[-1][2]


def test_draw_scene__some__objects_hide_parts_of_others(scenes: list[Scene]) -> None:
    # Where one object lies on another, their masks touch.
    touching = 0
    for scene in scenes:
        for item in scene.objects:
            grown = item.mask.copy()
            grown[1:] |= item.mask[:-1]
            grown[:, 1:] |= item.mask[:, :-1]
            others = [other for other in scene.objects if other is not item]
            touching += any((grown & other.mask).any() for other in others)
    assert touching > 20


def test_draw_scene__object_pixels__are_more_colorful_than_the_background(
    scenes: list[Scene],
) -> None:
    inside, outside = [], []
    for scene in scenes:
        covered = np.any([np.zeros(SIZE_HW, bool), *(item.mask for item in scene.objects)], axis=0)
        saturation = np.ptp(scene.image.astype(int), axis=2)
        inside.append(saturation[covered])
        outside.append(saturation[~covered])
    assert np.concatenate(inside).mean() > 2 * np.concatenate(outside).mean()


@pytest.mark.parametrize(("hidden", "allowed"), [(0, True), (3, True), (4, True), (5, False)])
def test_leaves_others_visible__object_of_20_pixels_with_4_hidden(
    hidden: int, allowed: bool
) -> None:
    # 4 are hidden already; with 4 more, 12 of 20 are left, the least that is allowed.
    owner = np.full((5, 10), -1, np.int16)
    owner[:2] = 0
    owner[0, :4] = 1
    mask = np.zeros((5, 10), bool)
    mask[1, :hidden] = True
    mask[4] = True
    assert LEAST_VISIBLE == 12 / 20
    assert _leaves_others_visible(owner, mask, owner, [20, 4]) == allowed


def test_shares__add_up_to_one() -> None:
    assert sum(COUNTS) == pytest.approx(1)
    assert sum(share for share, _, _ in SIZES) == pytest.approx(1)
