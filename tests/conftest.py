"""Shared fixtures: where the real data is, and what to do where it is not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).resolve().parents[1]
NOT_PACKAGED = {"benchmarks", "build", "data", "dist", "docs", "runs", "tests"}


def real_data_root() -> Path:
    default = REPOSITORY.parent / "shared" / "data"
    return Path(os.environ.get("MOBILEVISION_DATA", default))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if real_data_root().is_dir():
        return
    skip = pytest.mark.skip(
        reason=f"real data not found at {real_data_root()}: set MOBILEVISION_DATA"
    )
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, labels and weights. Use together with the marker real_data."""
    return real_data_root()


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def package_folders(repository: Path) -> list[str]:
    """Folders of the tree that hold Python files, such as "heads/detection"."""
    rooms = [
        path
        for path in repository.iterdir()
        if path.is_dir()
        and path.name not in NOT_PACKAGED
        and not path.name.startswith(".")
        and not (path / "pyvenv.cfg").exists()
    ]
    files = [file for room in rooms for file in room.rglob("*.py")]
    return sorted({file.parent.relative_to(repository).as_posix() for file in files})


@pytest.fixture(scope="session")
def wheel(
    repository: Path, package_folders: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A wheel built from a copy of the tree: setuptools leaves its traces where it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (repository / name).exists():
            shutil.copy(repository / name, source)
    for room in {folder.split("/")[0] for folder in package_folders}:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / room, source / room, ignore=ignored)
    out = source / "out"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    done = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="session")
def drawn_celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CelebA's layout: 24 drawn faces, three attributes, of which nobody has Never."""
    root = tmp_path_factory.mktemp("faces") / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    rng = np.random.default_rng(0)
    where = np.array([[69, 111], [108, 111], [88, 135], [73, 152], [105, 152]])
    attributes, partition, identities, points = [], [], [], []
    for number in range(1, 25):
        red, hat = bool(number % 2), bool(number % 3)
        landmarks = where + rng.integers(-3, 4, 2)
        image = Image.new("RGB", (178, 218), tuple(rng.integers(90, 160, 3).tolist()))
        pen = ImageDraw.Draw(image)
        x, y = landmarks[2].tolist()
        pen.ellipse((x - 45, y - 70, x + 45, y + 60), (220, 90, 80) if red else (225, 200, 170))
        for px, py in landmarks.tolist():
            pen.ellipse((px - 5, py - 4, px + 5, py + 4), (40, 30, 30))
        if hat:
            pen.rectangle((x - 50, y - 95, x + 50, y - 55), (30, 30, 120))
        name = f"{number:06d}.jpg"
        image.save(root / "img_align_celeba" / name, quality=90)
        attributes.append(f"{name} {1 if red else -1:2d} {1 if hat else -1:2d} -1")
        partition.append(f"{name} {0 if number <= 12 else 1 if number <= 18 else 2}")
        identities.append(f"{name} {number // 4}")
        points.append(" ".join([name, *map(str, landmarks.ravel().tolist())]))
    heading = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y " + (
        "rightmouth_x rightmouth_y"
    )
    files = {
        "list_attr_celeba.txt": ["24", "Red_Face Wearing_Hat Never", *attributes],
        "list_eval_partition.txt": partition,
        "identity_CelebA.txt": identities,
        "list_landmarks_align_celeba.txt": ["24", heading, *points],
    }
    for name, lines in files.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def drawn_people(drawn_celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same faces of people whose pairs can be drawn, and ``teacher.npz`` of those to train on.

    Six people of two images to train on, each with an axis of its own in the teacher's eight
    numbers; four of six images to validate on and four others to test on.
    """
    root = Path(shutil.copytree(drawn_celeba, tmp_path_factory.mktemp("people") / "celeba"))
    names = [f"{number:06d}.jpg" for number in range(1, 25)]
    people = [number // 2 for number in range(12)]
    people += [first + number for first in (100, 200) for number in (0, 0, 1, 1, 2, 3)]
    lines = (f"{name} {person}" for name, person in zip(names, people, strict=True))
    (root / "identity_CelebA.txt").write_text("\n".join(lines) + "\n")
    axes = np.eye(8, dtype=np.float32)[people[:12]]
    np.savez(root / "teacher.npz", files=np.array(names[:12]), vectors=axes)
    return root


@pytest.fixture
def open_umask() -> Iterator[None]:
    """New files are everybody's, unless it is said otherwise."""
    before = os.umask(0)
    yield
    os.umask(before)
