"""Textures and colors."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilevision.datasets.synthetic.scenes import (
    TEXTURES,
    Texture,
    background,
    checks,
    colorize,
    hsv,
    octave_noise,
    stretch,
)

UNIT = st.floats(0, 1, width=32)


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("size_hw", [(64, 90), (1, 1), (7, 3)])
def test_texture__any_size__float32_tones(texture: Texture, size_hw: tuple[int, int]) -> None:
    tone = texture(np.random.default_rng(0), size_hw, 0.3, 20.0)
    assert tone.dtype == np.float32
    assert tone.shape == size_hw
    assert 0 <= tone.min() <= tone.max() <= 1


@settings(max_examples=50, deadline=None)
@given(hue=st.floats(0, 0.999), saturation=UNIT, value=UNIT)
def test_hsv__any_color__agrees_with_colorsys(hue: float, saturation: float, value: float) -> None:
    expected = colorsys.hsv_to_rgb(hue, saturation, value)
    np.testing.assert_allclose(hsv(hue, saturation, value), expected, atol=1e-5)


def test_hsv__hue_outside_the_circle__wraps_around() -> None:
    np.testing.assert_allclose(hsv(1.25, 0.5, 0.8), hsv(0.25, 0.5, 0.8), atol=1e-6)
    np.testing.assert_allclose(hsv(-0.75, 0.5, 0.8), hsv(0.25, 0.5, 0.8), atol=1e-6)


def test_colorize__two_tones__gives_the_two_colors() -> None:
    red, blue = np.float32([1, 0, 0]), np.float32([0, 0, 1])
    image = colorize(np.float32([[0, 1, 0.25]]), red, blue)
    expected = [[[1, 0, 0.75]], [[0, 0, 0]], [[0, 1, 0.25]]]
    np.testing.assert_allclose(image, expected)


def test_stretch__constant__zero() -> None:
    np.testing.assert_array_equal(stretch(np.full((3, 2), 7, np.float32)), np.zeros((3, 2)))


def test_octave_noise__more_octaves__rougher() -> None:
    def roughness(octaves: int) -> float:
        noise = octave_noise(np.random.default_rng(1), (128, 128), cells=3, octaves=octaves)
        return float(np.abs(np.diff(noise, axis=1)).mean() / noise.std())

    assert roughness(5) > 1.5 * roughness(1)


def test_checks__upright__alternates_in_both_directions() -> None:
    tone = checks(np.random.default_rng(0), (80, 80), 0.0, 20.0)
    half = 10
    np.testing.assert_allclose(tone[:, :-half], 1 - tone[:, half:], atol=2e-3)
    np.testing.assert_allclose(tone[:-half], 1 - tone[half:], atol=2e-3)
    assert np.isclose(tone.mean(), 0.5, atol=0.02)


def test_background__any_seed__covers_the_image_and_differs() -> None:
    first, second = (background(np.random.default_rng(seed), (64, 96)) for seed in (0, 1))
    assert first.shape == second.shape == (3, 64, 96)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert np.abs(first - second).mean() > 0.01
