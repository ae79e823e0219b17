"""``mobilevision benchmark``: sides made, measured, told, drawn."""

import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ...datasets.errors import DataError
from ...datasets.files import write_atomically
from ...datasets.images import ImageFile
from ..export.exporting import made_up_picture
from .chart import draw
from .measuring import Settings, measure
from .report import as_plain, as_text, machine
from .sides import check_engine, others, sides_of


def benchmark(
    model: Path,
    against: Sequence[str],
    engine: str,
    picture: np.ndarray,
    candidates: int,
    settings: Settings,
    out: Path,
) -> str:
    """Measure a model and what it is compared with; the table.

    Args:
        model: A checkpoint or an exported file.
        against: See ``sides.others``.
        engine: See ``sides.sides_of``.
        picture: (H, W, 3) uint8.
        candidates: See ``peers.write_peer``.
        settings: How it is measured.
        out: Folder of ``benchmark.json``, ``benchmark.txt`` and ``benchmark.png``.

    Raises:
        DataError: A model cannot be read or run, or an option is wrong.
        OSError: The folder cannot be written.
    """
    check_engine(engine)
    size_hw = (picture.shape[0], picture.shape[1])
    with tempfile.TemporaryDirectory(prefix="mobilevision_") as temporary:
        folder = Path(temporary)
        print("making what is measured", file=sys.stderr)
        made = sides_of(model, engine, folder)
        peers = others(against, folder, candidates, picture)
        with tqdm(
            total=settings.steps([*made.sides, *peers]), desc="benchmark", unit="turn", smoothing=0
        ) as bar:
            measured = measure(made.sides, peers, picture, settings, folder, bar.update)
    text = as_text(measured, settings, size_hw, made.skipped)
    plain = as_plain(measured, settings, size_hw, made.skipped)
    png = io.BytesIO()
    cpu = machine(settings.threads)["cpu"]
    title = f"{cpu}, {settings.threads} thread(s), {size_hw[1]}x{size_hw[0]} px"
    draw(measured.figures, title).savefig(png, format="png")
    write_atomically(out / "benchmark.json", json.dumps(plain, indent=2).encode())
    write_atomically(out / "benchmark.txt", f"{text}\n".encode())
    write_atomically(out / "benchmark.png", png.getvalue())
    return text


def read_picture(path: Path | None, size_hw: tuple[int, int]) -> np.ndarray:
    """The picture that all sides get, (H, W, 3) uint8: a file stretched to a size, or made up.

    Raises:
        DataError: The file cannot be read, or the size is below 1.
    """
    if min(size_hw) < 1:
        raise DataError(f"--picture-size {size_hw[0]} {size_hw[1]}: both must be at least 1")
    if path is None:
        return made_up_picture(size_hw)
    return cv2.resize(ImageFile(path).read(), size_hw[::-1], interpolation=cv2.INTER_AREA)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
