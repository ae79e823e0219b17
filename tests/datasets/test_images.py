"""Images of every mode against Pillow, reduced decoding, and files that must be refused."""

import csv
import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import REDUCTIONS, ImageFile, letterbox, stretch

ORIENTATION = 0x0112


def scene(height: int = 61, width: int = 83) -> Image.Image:
    """Smooth and without any symmetry, so that every rotation shows."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = [40 + 190 * x / width, 200 - 150 * y / height, 128 + 90 * np.sin(x / 9 + y / 17)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def alpha_scene(mode: str) -> Image.Image:
    image = scene().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


MODES = {
    "rgb.jpg": lambda: encode(scene(), "JPEG", quality=92),
    "progressive.jpg": lambda: encode(scene(), "JPEG", progressive=True),
    "not_subsampled.jpg": lambda: encode(scene(), "JPEG", subsampling=0),
    "rgb_inside.jpg": lambda: encode(scene(), "JPEG", keep_rgb=True),
    "grey.jpg": lambda: encode(scene().convert("L"), "JPEG"),
    "cmyk.jpg": lambda: encode(scene().convert("CMYK"), "JPEG"),
    "bilevel.png": lambda: encode(scene().convert("1"), "PNG"),
    "grey.png": lambda: encode(scene().convert("L"), "PNG"),
    "palette.png": lambda: encode(scene().quantize(32), "PNG"),
    "transparent.png": lambda: encode(scene().quantize(32), "PNG", transparency=3),
    "grey_alpha.png": lambda: encode(alpha_scene("L"), "PNG"),
    "rgba.png": lambda: encode(alpha_scene("RGB"), "PNG"),
    "frames.gif": lambda: encode(
        scene(), "GIF", save_all=True, append_images=[scene().rotate(180)]
    ),
    "webp.webp": lambda: encode(scene(), "WEBP", lossless=True),
    "tiff.tif": lambda: encode(scene(), "TIFF"),
    "bmp.bmp": lambda: encode(scene(), "BMP"),
    "png_named.jpg": lambda: encode(scene(), "PNG"),
    "jpeg_named.png": lambda: encode(scene(), "JPEG"),
    "garbage_behind.jpg": lambda: encode(scene(), "JPEG") + b"more\xff\xda" * 100,
    "one_pixel.jpg": lambda: encode(scene(1, 1), "JPEG"),
    "wide.jpg": lambda: encode(scene(3, 3000), "JPEG"),
    "tall.png": lambda: encode(scene(700, 2), "PNG"),
}


@pytest.mark.parametrize("name", MODES)
def test_read__every_mode_as_pillow(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(MODES[name]())
    expected = np.asarray(Image.open(path).convert("RGB"))
    pixels = ImageFile(path).read()
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert ImageFile(path).size_hw == expected.shape[:2]
    for reduce in REDUCTIONS:
        shape = (-(-expected.shape[0] // reduce), -(-expected.shape[1] // reduce), 3)
        assert ImageFile(path).read(reduce).shape == shape


def test_read__sixteen_bit_gray_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768, 65535 - 129, 65535 - 128, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    pixels = ImageFile(tmp_path / "deep.png").read()
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255, 255]
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read__orientation_as_pillow(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(encode(scene(), kind, exif=with_orientation(orientation)))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert ImageFile(path).size_hw == expected.shape[:2]
    np.testing.assert_array_equal(ImageFile(path).read(), expected)


@pytest.mark.parametrize("reduce", REDUCTIONS[1:])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(97, 131), (96, 131), (97, 136)])
def test_read__reduced_blocks_start_at_the_corner(
    orientation: int, reduce: int, size: tuple[int, int], tmp_path: Path
) -> None:
    """With any of the sides a multiple of the blocks, which then begin at both ends alike."""
    path = tmp_path / "photo.jpg"
    options = {"quality": 97, "subsampling": 0, "exif": with_orientation(orientation)}
    path.write_bytes(encode(scene(*size), "JPEG", **options))
    image = Image.fromarray(ImageFile(path).read())
    expected = np.asarray(image.reduce(reduce)).astype(int)
    difference = np.abs(ImageFile(path).read(reduce).astype(int) - expected)
    # One pixel of the whole image is 2 to 3 levels here, and blocks that began at the wrong end
    # would be off by up to seven of them.
    assert difference[:-1, :-1].mean() < 1.0


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_read__reduced_jpeg_as_pillow_draft(reduce: int, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(scene(120, 160), "JPEG", quality=85))
    image = Image.open(path)
    image.draft("RGB", (160 // reduce, 120 // reduce))
    np.testing.assert_array_equal(ImageFile(path).read(reduce), np.asarray(image))


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    reduce=st.sampled_from(REDUCTIONS),
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
def test_read__shape_for_any_size(
    size: tuple[int, int],
    reduce: int,
    orientation: int,
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("any") / "picture"
    path.write_bytes(encode(scene(*size), kind, exif=with_orientation(orientation)))
    image = ImageFile(path)
    height, width = size if orientation < 5 else size[::-1]
    assert image.size_hw == (height, width)
    assert image.read(reduce).shape == (-(-height // reduce), -(-width // reduce), 3)


def test_read__unknown_reduction(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reduce must be one of"):
        ImageFile(tmp_path / "any.jpg").read(3)


def with_thumbnail() -> bytes:
    """A JPEG that holds another whole JPEG, end marker included, in a header segment."""
    inner = b"Thumbnail\x00" + encode(scene(20, 20), "JPEG")
    data = encode(scene(), "JPEG", quality=95)
    return data[:2] + b"\xff\xed" + (len(inner) + 2).to_bytes(2) + inner + data[2:]


def cut(data: bytes, fraction: float) -> bytes:
    return data[: int(len(data) * fraction)]


JPEG = encode(scene(), "JPEG", quality=95)
BROKEN = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"<html>404 not found</html>", "not an image"),
    "header_only.jpg": (JPEG[:200], "broken image"),
    "cut.jpg": (cut(JPEG, 0.6), "cut short"),
    "no_end_marker.jpg": (JPEG[:-2], "cut short"),
    "cut_progressive.jpg": (cut(encode(scene(), "JPEG", progressive=True), 0.7), "cut short"),
    "cut_thumbnail.jpg": (cut(with_thumbnail(), 0.8), "cut short"),
    "filled_with_zeros.jpg": (cut(JPEG, 0.6) + bytes(3 * len(JPEG)), "cut short"),
    "cut_cmyk.jpg": (cut(encode(scene().convert("CMYK"), "JPEG"), 0.7), "broken image"),
    "cut.png": (cut(encode(scene(), "PNG"), 0.6), "broken image"),
    "cut.webp": (cut(encode(scene(), "WEBP", lossless=True), 0.6), "broken image|not an image"),
    "bad_crc.png": (encode(scene(), "PNG")[:-30] + bytes(30), "broken image"),
    "float.tif": (encode(scene().convert("F"), "TIFF"), "mode 'F'"),
    "int32.tif": (encode(scene().convert("I"), "TIFF"), "mode 'I'"),
}


@pytest.mark.parametrize("reduce", [1, 2])
@pytest.mark.parametrize("name", BROKEN)
def test_read__broken_file(name: str, reduce: int, tmp_path: Path) -> None:
    path = tmp_path / name
    data, reason = BROKEN[name]
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{name}.*({reason}).*(Restore|Convert)"):
        ImageFile(path).read(reduce)


def test_read__whole_file_with_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "thumbnail.jpg"
    path.write_bytes(with_thumbnail())
    np.testing.assert_array_equal(ImageFile(path).read(), np.asarray(Image.open(path)))


def test_read__missing_file(tmp_path: Path) -> None:
    image = ImageFile(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such file.*Check"):
        image.read()
    with pytest.raises(DataError, match="no such file"):
        _ = image.size_hw


def test_read__file_vanishes_after_its_header(tmp_path: Path) -> None:
    path = tmp_path / "soon_gone.jpg"
    path.write_bytes(JPEG)
    image = ImageFile(path)
    assert image.size_hw == (61, 83)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        image.read()


def test_read__file_changes_after_its_header(tmp_path: Path) -> None:
    path = tmp_path / "changed.jpg"
    path.write_bytes(JPEG)
    image = ImageFile(path)
    assert image.size_hw == (61, 83)
    path.write_bytes(encode(scene(30, 30), "JPEG"))
    with pytest.raises(DataError, match=r"30x30 pixels.*header says 83x61"):
        image.read()


def test_read__folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="readable image file"):
        ImageFile(tmp_path).read()


def test_size_hw__needs_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(cut(JPEG, 0.8))
    assert ImageFile(path).size_hw == (61, 83)


def test_size_hw__decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(encode(Image.new("1", (20_000, 10_000)), "PNG"))
    with pytest.raises(DataError, match=r"bomb\.png: more than .* pixels"):
        _ = ImageFile(path).size_hw


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP"])
def test_size_hw_and_read__more_pixels_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "large.image"
    path.write_bytes(encode(scene(), kind))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 83)
    assert ImageFile(path).read().shape == (61, 83, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 83 - 1)
    for use in (lambda image: image.size_hw, ImageFile.read):
        with pytest.raises(DataError, match=r"large\.image: more than 5,062 pixels"):
            use(ImageFile(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert ImageFile(path).read(2).shape == (31, 42, 3)


def test_read__jpeg__may_have_twice_as_many_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(JPEG)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 83 // 2 + 1)
    assert ImageFile(path).read(8).shape == (8, 11, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 61 * 83 // 2 - 1)
    with pytest.raises(DataError, match=r"large\.jpg: more than"):
        ImageFile(path).read(8)


def test_limit__is_an_option_and_pillow_does_not_warn(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encode(scene(), "PNG"))
    script = (
        "import sys; from mobilevision.datasets.images import ImageFile, DataError\n"
        "try: print(ImageFile(sys.argv[1]).size_hw)\n"
        "except DataError as error: print(error)"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True,
            env=os.environ | {"MOBILEVISION_MAX_PIXELS": limit},
        )
        for limit in ("5063", "5062", "2000")
    ]  # fmt: skip
    assert printed[0].stdout == "(61, 83)\n"
    assert all("set MOBILEVISION_MAX_PIXELS to more" in each.stdout for each in printed[1:])
    assert not any(each.stderr for each in printed)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_read__reduced_png__is_the_average_of_the_whole(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    image = scene().convert("L") if mode == "I;16" else scene()
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
    path.write_bytes(encode(image if mode == "I;16" else image.convert(mode), "PNG"))
    whole = ImageFile(path).read()
    expected = np.asarray(Image.fromarray(whole).reduce(4))
    np.testing.assert_array_equal(ImageFile(path).read(4), expected)


def test_read__panorama(tmp_path: Path) -> None:
    path = tmp_path / "panorama.jpg"
    path.write_bytes(encode(Image.new("RGB", (12_000, 500), (10, 200, 30)), "JPEG"))
    assert ImageFile(path).read(8).shape == (63, 1500, 3)


def test_image_file__pickles(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(JPEG)
    image = ImageFile(path)
    assert image.size_hw == (61, 83)
    copy = pickle.loads(pickle.dumps(image))
    assert copy.path == path
    np.testing.assert_array_equal(copy.read(), image.read())


@pytest.mark.real_data
def test_read__odd_files_as_pillow(real_data: Path) -> None:
    rows = list(csv.DictReader((real_data / "odd" / "odd.csv").read_text().splitlines()))
    for row in rows:
        path = real_data / "odd" / row["file"]
        # Pillow turns floats into RGB by clipping them, which is no image.
        if row["pillow_load"] != "ok" or row["mode"] == "F":
            with pytest.raises(DataError, match=re.escape(str(path))):
                ImageFile(path).read()
            continue
        pixels = ImageFile(path).read()
        assert pixels.shape[:2] == ImageFile(path).size_hw
        if row["mode"] != "I;16":
            expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            np.testing.assert_array_equal(pixels, np.asarray(expected), err_msg=row["file"])


@pytest.mark.real_data
def test_read__rotated_photos_show_the_same(real_data: Path) -> None:
    folder = real_data / "odd" / "orientation"
    first = ImageFile(folder / "landscape_1.jpg").read(2).ravel()
    for orientation in range(2, 9):
        other = ImageFile(folder / f"landscape_{orientation}.jpg").read(2).ravel()
        assert np.corrcoef(first, other)[0, 1] > 0.95


@pytest.mark.parametrize("resize", [stretch, letterbox])
def test_resize__to_its_own_size__a_copy(resize: Callable[..., np.ndarray]) -> None:
    pixels = np.array(scene())
    pixels.setflags(write=False)
    same = resize(pixels, pixels.shape[:2])
    np.testing.assert_array_equal(same, pixels)
    assert same.flags.writeable
    assert not np.shares_memory(same, pixels)


def test_letterbox__an_image_of_the_shape__nothing_filled_up() -> None:
    pixels = np.array(scene(60, 80))
    np.testing.assert_array_equal(letterbox(pixels, (30, 40)), stretch(pixels, (30, 40)))
