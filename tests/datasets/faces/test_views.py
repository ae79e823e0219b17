"""Views of faces."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.alignment import ARCFACE_TEMPLATE, align_face
from mobilevision.datasets.faces.sources import CelebAFaces, Faces, FolderFaces
from mobilevision.datasets.faces.views import FaceViews, ViewRecipe, student_noise
from mobilevision.datasets.images import ImageFile

STILL = ViewRecipe(*[0.0] * 15)


def smooth(seed: int, size_hw: tuple[int, int]) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 6, 3)).astype(np.float32)
    grown = cv2.resize(noise, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(grown, 0, 255).astype(np.uint8)


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), smooth(number, (112, 112)))
    return FolderFaces(tmp_path).read()


def with_landmarks(faces: Faces) -> Faces:
    return faces._replace(landmarks_xy=np.stack([ARCFACE_TEMPLATE + 3] * len(faces.files)))


def test_view_0__is_the_plain_face(faces: Faces) -> None:
    plain = ImageFile(faces.root / faces.files[2]).read()
    assert np.array_equal(FaceViews(faces).render(2), plain)
    aligned = FaceViews(with_landmarks(faces)).render(2)
    assert np.array_equal(aligned, align_face(plain, ARCFACE_TEMPLATE + 3))


def test_views__are_functions_of_seed_file_and_number(faces: Faces) -> None:
    views, again = FaceViews(faces), FaceViews(faces)
    drawn = [views.render(1, view) for view in range(1, 6)]
    for view in (5, 1, 3):  # in any order
        assert np.array_equal(again.render(1, view), drawn[view - 1])
    assert len({face.tobytes() for face in drawn}) == 5
    assert not np.array_equal(FaceViews(faces, seed=1).render(1, 1), drawn[0])
    assert not np.array_equal(views.render(2, 1), drawn[0])


def test_views__show_the_same_at_any_size(faces: Faces) -> None:
    views = FaceViews(with_landmarks(faces))
    for view in range(1, 25):
        small, large = views.render(0, view, 112), views.render(0, view, 224)
        halved = cv2.resize(large, (112, 112), interpolation=cv2.INTER_AREA)
        inner = np.abs(halved.astype(int) - small)[8:-8, 8:-8]
        assert inner.mean() < 3, view


def test_kept_images__are_read_once_and_give_the_same_views(faces: Faces) -> None:
    keeping = FaceViews(with_landmarks(faces), keep_images=True)
    expected = [FaceViews(with_landmarks(faces)).render(1, view) for view in (0, 3, 4)]
    for index in range(6):
        keeping.render(index)
        (faces.root / faces.files[index]).unlink()
    for view, pixels in zip((0, 3, 4), expected, strict=True):
        assert np.array_equal(keeping.render(1, view), pixels)
    assert np.array_equal(keeping.render(1), expected[0])


def test_is_mixed__tells_views_that_depend_on_other_faces(faces: Faces) -> None:
    others = [faces.files[0], *reversed(faces.files[1:])]
    views, reordered = FaceViews(faces), FaceViews(faces._replace(files=tuple(others)))
    drawn = range(40)
    mixed = [views.is_mixed(0, view) for view in drawn]
    changed = [not np.array_equal(views.render(0, v), reordered.render(0, v)) for v in drawn]
    assert not mixed[0]
    assert 10 < sum(mixed) < 35
    # Sometimes the other is the same file in both lists.
    assert all(told or not seen for told, seen in zip(mixed, changed, strict=True))
    assert sum(changed) > sum(mixed) / 2


def test_fingerprint__changes_with_everything_that_views_depend_on(faces: Faces) -> None:
    aligned = with_landmarks(faces)
    assert aligned.landmarks_xy is not None
    prints = [
        FaceViews(faces).fingerprint,
        FaceViews(faces, seed=1).fingerprint,
        FaceViews(faces, recipe=ViewRecipe(shift=1.0)).fingerprint,
        FaceViews(faces._replace(files=faces.files[:5])).fingerprint,
        FaceViews(aligned).fingerprint,
        FaceViews(aligned._replace(landmarks_xy=aligned.landmarks_xy + 1)).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert FaceViews(faces, size=160).fingerprint == prints[0]


def test_recipe__of_zeros_leaves_the_face(faces: Faces) -> None:
    difference = FaceViews(faces, recipe=STILL).render(3, 7).astype(int)
    assert np.abs(difference - FaceViews(faces).render(3)).max() <= 1


CHANGES: dict[str, tuple[ViewRecipe, Callable[[np.ndarray, np.ndarray], bool]]] = {
    "mirror": (replace(STILL, mirror=1.0), lambda new, old: np.abs(new - old[:, ::-1]).max() <= 1),
    "grey": (replace(STILL, grey=1.0), lambda new, _: np.ptp(new, axis=2).max() == 0),
    "blend": (replace(STILL, blend=1.0), lambda new, old: 5 < np.abs(new - old).mean() < 100),
    "patchwork": (
        replace(STILL, patchwork=1.0),
        # Some places are all of one face, and some of the other.
        lambda new, old: (np.abs(new - old).max(2) <= 4).any() and np.abs(new - old).mean() > 3,
    ),
    "warp": (replace(STILL, warp=1.0, warp_strength=5.0), lambda new, old: (new != old).any()),
    "brightness": (
        replace(STILL, brightness=0.3),
        # One factor for all, but for rounding and where white is reached.
        lambda new, old: np.ptp((new / np.maximum(old, 1))[(new < 255) & (new > 100)]) < 0.03,
    ),
    "low_resolution": (
        replace(STILL, low_resolution=1.0),
        lambda new, old: 0 < np.abs(new - old).mean() < 5,
    ),
    "blur": (replace(STILL, blur=1.0), lambda new, old: 0 < np.abs(new - old).mean() < 5),
}


@pytest.mark.parametrize("name", CHANGES)
def test_recipe__each_part_does_what_it_says(faces: Faces, name: str) -> None:
    recipe, fits = CHANGES[name]
    old = FaceViews(faces).render(4).astype(int)
    assert fits(FaceViews(faces, recipe=recipe).render(4, 2).astype(int), old)


@pytest.mark.parametrize(
    "options", [{"shift": -1.0}, {"blend": 0.7, "patchwork": 0.4}, {"grey": 1.2}]
)
def test_recipe__out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(DataError, match="nothing may be negative"):
        ViewRecipe(**options)


def test_student_noise__is_the_arithmetic_it_says() -> None:
    pixels = smooth(9, (40, 30))
    assert student_noise(pixels, 0.0, np.random.default_rng(0)) is pixels
    noisy = student_noise(pixels, 0.2, np.random.default_rng(5))
    gains = np.exp(np.random.default_rng(5).normal(0, (0.2, 0.2, 0.06, 0.06, 0.06)))
    lit = pixels * gains[0]
    expected = ((lit - lit.mean()) * gains[1] + lit.mean()) * gains[2:]
    np.testing.assert_array_equal(noisy, np.clip(np.round(expected), 0, 255))


@pytest.mark.real_data
def test_views__of_real_faces_stay_faces_of_the_same_position(real_data: Path) -> None:
    views = FaceViews(CelebAFaces(real_data / "celeba", ["val"]).read(), 112)
    plain = np.stack([views.render(index) for index in range(40)]).astype(float).mean(0)
    drawn = np.stack([views.render(index, 1) for index in range(40)]).astype(float).mean(0)
    # The mean face has eyes and mouth in their places in both, and not on its head.
    upright, turned = (
        np.corrcoef(each.mean(2).ravel(), drawn.mean(2).ravel())[0, 1]
        for each in (plain, plain[::-1])
    )
    assert upright > 0.8 > turned + 0.2
