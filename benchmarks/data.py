"""Images per second and core, from JPEG file to network input: ours against its peers.

    python benchmarks/data.py [--images DIR] [--count N] [--rounds N]

Every pipeline reads the same files, with the same boxes, on one thread; CPU time is counted. Rounds
are interleaved, so that a change of the machine's speed meets all alike; the table shows the median
of the rounds, and the ratio is the median of the ratios within a round.

The peers do what ours does with their own operations: distort colors (chance 1/2), zoom out to at
most 4 times the sides (1/2), crop around objects (6/7), mirror (1/2), resize to 300x300. "colors
last" distorts the resized image, as ours does; the plain order is the paper's. The crops of
albumentations keep all objects, so they are larger than the paper's on average.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.transforms.detection import Objects, SSDAugment

SIZE_HW = (300, 300)
FILL_RGB = (123, 117, 104)
BOXES = 7
BASELINE = "albumentations"

Pipeline = Callable[[Path, Objects, np.random.Generator], object]


def main() -> None:
    """Parse the options, run the rounds, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; default: generated")
    parser.add_argument("--count", type=int, default=100, help="pictures of each round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = options.images or write_images(Path(folder), options.count)
        paths = sorted(path for path in root.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        if not paths:
            parser.error(f"{root} holds no .jpg or .jpeg file")
        rng = np.random.default_rng(0)
        samples = [(path, draw_objects(path, rng)) for path in paths[: options.count]]
        print_table(measure(pipelines(), samples, options.rounds), len(samples), options.rounds)


def write_images(folder: Path, count: int) -> Path:
    """Write 640x480 JPEG files whose detail, and so their size, is that of photographs."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = np.zeros((480, 640, 3), np.float32)
        for level in range(8):
            cells = rng.normal(0.0, 60.0 / 2 ** (level / 2), (2 + 2**level, 2 + 2**level, 3))
            pixels += cv2.resize(cells.astype(np.float32), (640, 480))
        image = Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8))
        image.save(folder / f"{index:04d}.jpg", quality=92)
    return folder


def draw_objects(path: Path, rng: np.random.Generator) -> Objects:
    """Draw boxes for an image, of a twentieth to half of its sides."""
    height, width = ImageFile(path).size_hw
    sides = rng.uniform(0.05, 0.5, (BOXES, 2))
    starts = rng.uniform(0.0, 1.0, (BOXES, 2)) * (1.0 - sides)
    boxes = np.concatenate([starts, starts + sides], axis=1) * [width, height, width, height]
    return Objects(boxes.astype(np.float32), np.arange(BOXES), np.zeros(BOXES, np.bool_))


def pipelines() -> dict[str, Pipeline]:
    """Everything that is compared, by name."""
    return {
        "ours": our_pipeline(SSDAugment(SIZE_HW)),
        "ours, decoded whole": our_pipeline(SSDAugment(SIZE_HW, max_reduce=1)),
        BASELINE: albumentations_pipeline(colors_last=False),
        "albumentations, colors last": albumentations_pipeline(colors_last=True),
        "torchvision v2": torchvision_pipeline(),
    }


def our_pipeline(augment: SSDAugment) -> Pipeline:
    """`SSDAugment` from the file on; headers are read anew in each round."""
    return lambda path, objects, rng: augment(ImageFile(path), objects, rng)


def albumentations_pipeline(colors_last: bool) -> Pipeline:
    """The same steps with albumentations' operations, decoded by OpenCV."""
    colors = A.ColorJitter((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.1, 0.1), p=0.5)
    geometry = [
        # 0 to 1.5 sides at each edge: at most 4 times the side in total.
        A.CropAndPad(percent=(0.0, 1.5), keep_size=False, fill=FILL_RGB, p=0.5),  # pyright: ignore[reportArgumentType]
        A.BBoxSafeRandomCrop(erosion_rate=0.2, p=6 / 7),
        A.HorizontalFlip(p=0.5),
        A.Resize(*SIZE_HW),
    ]
    compose = A.Compose(
        [*geometry, colors] if colors_last else [colors, *geometry],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]),
    )

    def run(path: Path, objects: Objects, _: np.random.Generator) -> object:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        return compose(image=pixels, bboxes=objects.boxes, labels=objects.labels)

    return run


def torchvision_pipeline() -> Pipeline:
    """The same steps with torchvision's own operations of SSD, on tensors."""
    compose = v2.Compose(
        [
            v2.RandomPhotometricDistort(p=0.5),
            v2.RandomZoomOut(fill=list(FILL_RGB), p=0.5),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(p=0.5),
            v2.SanitizeBoundingBoxes(),
            v2.Resize(SIZE_HW, antialias=True),
        ]
    )

    def run(path: Path, objects: Objects, _: np.random.Generator) -> object:
        pixels = tv_tensors.Image(decode_image(str(path), mode=ImageReadMode.RGB))
        height, width = pixels.shape[-2:]
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(objects.boxes), format="XYXY", canvas_size=(height, width)
        )  # pyright: ignore[reportCallIssue]
        return compose(
            {"image": pixels, "boxes": boxes, "labels": torch.from_numpy(objects.labels)}
        )

    return run


def measure(
    named: dict[str, Pipeline], samples: list[tuple[Path, Objects]], rounds: int
) -> dict[str, list[float]]:
    """Images per second of each pipeline in each round; one round before them warms up."""
    rates: dict[str, list[float]] = {name: [] for name in named}
    for number in range(rounds + 1):
        for name, pipeline in named.items():
            rng = np.random.default_rng(number)
            start = time.process_time()
            for path, objects in samples:
                pipeline(path, objects, rng)
            if number:
                rates[name].append(len(samples) / (time.process_time() - start))
    return rates


def print_table(rates: dict[str, list[float]], count: int, rounds: int) -> None:
    """Print medians, spread, and the ratio to the plain albumentations pipeline of its round."""
    print(f"{count} images to {SIZE_HW[0]}x{SIZE_HW[1]}, one core, median of {rounds} rounds")
    print(f"{'pipeline':<30} {'images/s':>9} {'min to max':>14} {'ratio':>6}")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates[BASELINE], strict=True))
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{name:<30} {statistics.median(values):>9.0f} {spread:>14} {ratio:>6.2f}")


if __name__ == "__main__":
    main()
