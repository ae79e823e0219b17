"""Commands that download, check, convert and generate data."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ...datasets.errors import DataError
from ..command import (
    EXIT_FAULT,
    Command,
    add_batch_size,
    add_detector,
    add_device,
    add_flag,
    add_inputs,
    add_number,
    add_path,
    add_size,
)


def _add_root(parser: ArgumentParser, default: str) -> None:
    sentence = "Folder to download into and unpack in."
    add_path(parser, "--root", sentence, "FOLDER", default=Path(default))


def _add_download_coco(parser: ArgumentParser) -> None:
    _add_root(parser, "data/coco")
    add = parser.add_argument
    add("--year", type=int, choices=[2014, 2017], default=2017, help="Which edition.")
    sentence = "What to fetch, separated by commas."
    add("--splits", metavar="NAMES", default="train,val", help=sentence)
    add_flag(parser, "--yes", "Start without asking.")
    add("--base-url", metavar="URL", help="Mirror to use instead of the official server.")


def _download_coco(arguments: Namespace) -> int:
    from ...datasets.detection.coco_download import (
        BASE_URL,
        download_coco,
        missing_archives,
        space_needed,
    )
    from ...datasets.download import format_size

    root, year = arguments.root, arguments.year
    splits = [split.strip() for split in arguments.splits.split(",") if split.strip()]
    archives = missing_archives(root, year, splits)
    if not archives:
        print(f"{root}: COCO {year} ({', '.join(splits)}) is there already.")
        return 0
    for archive in archives:
        print(f"{archive.name:<30}{format_size(archive.size):>12}")
    print(f"{'to download':<30}{format_size(sum(a.size for a in archives)):>12}")
    print(f"{'disk space while unpacking':<30}{format_size(space_needed(archives)):>12}")
    if not (arguments.yes or _confirmed(root)):
        return EXIT_FAULT
    download_coco(root, year=year, splits=splits, base_url=arguments.base_url or BASE_URL)
    print(f"{root}: complete. Next: mobilevision data check {root}")
    return 0


def _confirmed(root: Path) -> bool:
    if not sys.stdin.isatty():
        raise DataError("nothing was downloaded: add --yes if there is no terminal to ask on")
    print(f"Download into {root}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    print("nothing was downloaded", file=sys.stderr)
    return False


def _add_download_cifar10(parser: ArgumentParser) -> None:
    _add_root(parser, "data/cifar10")


def _download_cifar10(arguments: Namespace) -> int:
    from ...datasets.classification.cifar import download_cifar10

    fetched = download_cifar10(arguments.root)
    print(f"{arguments.root}: CIFAR-10 is {'complete' if fetched else 'there already'}.")
    return 0


_FORMATS = ("coco", "yolo", "voc")


def _add_dataset(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="Folder of the dataset, or a YAML file of YOLO's.")
    sentence = "Format, for a folder that has several; it is recognized otherwise."
    parser.add_argument("--layout", choices=_FORMATS, help=sentence)


def _add_check(parser: ArgumentParser) -> None:
    _add_dataset(parser)
    add_flag(parser, "--quick", "Do not decode the images.")
    add_flag(parser, "--json", "Print JSON instead of text.")


def _check(arguments: Namespace) -> int:
    from ...datasets.detection.check import check_dataset

    report = check_dataset(arguments.root, arguments.layout, quick=arguments.quick)
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report)
    return 0 if report.ok else EXIT_FAULT


def _add_convert(parser: ArgumentParser) -> None:
    _add_dataset(parser)
    add_path(parser, "--out", "Folder to write; absent or empty.", "FOLDER", required=True)
    add_flag(parser, "--link", "Link the images (hard links) in place of copying them.")
    add = parser.add_argument
    sentence = "Share of the training images for a validation split, where there is none."
    add("--val-fraction", type=float, metavar="SHARE", help=sentence)
    add_number(parser, "--split-seed", 0, "Another seed holds out other images.")
    sentence = "What images without a label file are: a fault, left out, or images of no object."
    choices = ("error", "skip", "background")
    add("--unlabeled", choices=choices, default=choices[0], help=sentence)
    sentence = "Stop at what is faulty, or leave it out and count it."
    add("--on-error", choices=("raise", "skip"), default="raise", help=sentence)


def _convert(arguments: Namespace) -> int:
    from ...datasets.detection.convert import convert_dataset
    from ...datasets.detection.layout import ReadOptions

    written = convert_dataset(
        arguments.root, arguments.out, arguments.layout,
        options=ReadOptions(arguments.on_error, arguments.unlabeled),
        val_fraction=arguments.val_fraction, split_seed=arguments.split_seed, link=arguments.link,
    )  # fmt: skip
    print(written.layout)
    if written.division is not None:
        print(f"For validation, {written.division.summary()}")
    for split, annotations in written.splits.items():
        print(f"{arguments.out}, {split}: {annotations.summary()}")
    print(f"Next: mobilevision data check {arguments.out}")
    return EXIT_FAULT if any(part.faults.total for part in written.splits.values()) else 0


def _add_gps(parser: ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="DIR", help="Folders of photos, or photos.")
    add_path(parser, "--out", "Table to write, .csv or .parquet.", "TABLE", required=True)


def _gps(arguments: Namespace) -> int:
    from ...datasets.geolocation.coordinates import write_positions
    from ...datasets.geolocation.exif import read_gps
    from ..batch.inputs import find_files

    files = [file for file in find_files(arguments.inputs) if file.kind == "image"]
    report = read_gps([file.path for file in files], [file.name for file in files])
    write_positions(arguments.out, report.table)
    print(f"{arguments.out}: {len(report.table.files):,} of {len(files):,} photos")
    for reason, names in report.without.items():
        if names:
            print(f"  {len(names):,} {reason.value}: {_first_five(names)}")
    return 0


def _first_five(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _add_photos(parser: ArgumentParser) -> None:
    sentence = "Table of photos, .csv or .parquet with file, latitude, longitude."
    add_path(parser, "--photos", sentence, "TABLE", required=True)


def _add_shard(parser: ArgumentParser) -> None:
    _add_photos(parser)
    add_path(parser, "--images", "Folder of the image files.", "DIR", required=True)
    add_path(parser, "--out", "Folder for the shards.", "DIR", required=True)
    add_number(parser, "--per-shard", 5000, "Photos in each shard.")
    add_flag(parser, "--skip-missing", "Leave out photos that do not exist.")


def _shard(arguments: Namespace) -> int:
    from ...datasets.geolocation.coordinates import read_positions
    from ...datasets.geolocation.shards import write_shards

    table = read_positions(arguments.photos)
    index, missing = write_shards(
        table, arguments.images, arguments.out, arguments.per_shard, arguments.skip_missing
    )
    size = int(index.sizes.sum()) / 1e6
    photos, shards = len(index.files), len(index.shards)
    print(f"{arguments.out}: {photos:,} photos in {shards:,} shards, {size:,.1f} MB")
    if missing:
        print(f"  left out, absent or empty: {len(missing):,} ({_first_five(missing)})")
    return EXIT_FAULT if missing else 0


def _add_find_faces(parser: ArgumentParser) -> None:
    add_inputs(parser)
    add_path(parser, "--out", "Table to write, .parquet.", required=True)
    sentence = "Take the largest face of an image, or the one nearest to the center."
    add_detector(parser, ("largest", "center"), sentence)
    add_batch_size(parser, 16)
    add_device(parser)


def _find_faces(arguments: Namespace) -> int:
    from ..batch.faces import find_faces

    counts = find_faces(
        arguments.inputs, arguments.out, arguments.batch_size, arguments.device,
        arguments.detector, arguments.faces,
    )  # fmt: skip
    return EXIT_FAULT if counts.faults else 0


def _add_synthetic(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="Folder to create.")
    add_number(parser, "--train", 2000, "Number of training images.")
    add_number(parser, "--val", 200, "Number of validation images.")
    add_size(parser, "Size of every image in pixels.", default=[240, 240])
    add_number(parser, "--seed", 0, "Another seed draws other scenes.")


def _synthetic(arguments: Namespace) -> int:
    from ...datasets.synthetic.detection import write_scenes

    root, train, val = arguments.root, arguments.train, arguments.val
    size_hw = tuple(arguments.size)
    written = write_scenes(root, train=train, val=val, size_hw=size_hw, seed=arguments.seed)
    print(f"{root}: {train} + {val} images, {'written' if written else 'there already'}")
    return 0


def _add_build(parser: ArgumentParser) -> None:
    _add_photos(parser)
    add_path(parser, "--out", "Table of cells to write, .csv or .parquet.", required=True)
    add_number(parser, "--max", 10_000, "Cells with more photos are divided.")
    add_number(parser, "--min", 50, "Cells with fewer photos are dropped.")
    add_number(parser, "--min-level", 0, "S2 level of the largest cells.")
    add_number(parser, "--max-level", 30, "S2 level of the smallest cells.")
    add_path(parser, "--picture", "Draw the cells on a map.", "PNG")
    add_path(parser, "--coastline", "Coastlines for the map.", "GEOJSON")


def _build(arguments: Namespace) -> int:
    from ...datasets.geolocation.cells import build_partition
    from ...datasets.geolocation.coordinates import check_format, read_positions

    check_format(arguments.out)  # before minutes of work
    coastline = _prepare_image(arguments)
    print(f"reading {arguments.photos}", file=sys.stderr)
    table = read_positions(arguments.photos)
    print(f"dividing {len(table.files):,} photos", file=sys.stderr)
    partition, report = build_partition(
        table.latlng_deg, arguments.max, arguments.min, arguments.min_level, arguments.max_level,
        str(arguments.photos),
    )  # fmt: skip
    partition.write(arguments.out)
    print(
        f"{arguments.out}: {len(partition):,} cells of levels {partition.levels.min()} to "
        f"{partition.levels.max()} with {report.kept:,} of {report.photos:,} photos"
    )
    if report.dropped_cells:
        lost = report.photos - report.kept
        print(f"  dropped: {report.dropped_cells:,} cells with fewer, {lost:,} photos in all")
    if report.full_cells:
        print(f"  {report.full_cells:,} cells of the last level have more than {arguments.max:,}")
    if arguments.picture is not None:
        from ..callbacks.world_map import draw_partition
        from ..drawing import write_figure

        title = f"{len(partition):,} cells · {report.kept:,} photos"
        write_figure(draw_partition(partition, coastline, title), arguments.picture)
        print(f"Image: {arguments.picture}")
    return 0


def _prepare_image(arguments: Namespace) -> list[Any]:
    """Check the options of the map and read the coastline, before anything expensive is done."""
    if arguments.picture is None:
        return []
    from ..callbacks.world_map import read_coastline
    from ..drawing import check_png

    check_png(arguments.picture)
    return read_coastline(arguments.coastline)


COMMANDS = {
    "data download coco": Command(
        (_add_download_coco, _download_coco),
        "Download COCO 2017 or 2014, verified, and resume where it stopped.",
        "mobilevision data download coco",
        "mobilevision data download coco --splits val --root /disk/coco --yes",
    ),
    "data download cifar10": Command(
        (_add_download_cifar10, _download_cifar10),
        "Download CIFAR-10 in its binary version (170 MB), verified.",
        "mobilevision data download cifar10",
    ),
    "data check": Command(
        (_add_check, _check),
        "Check a detection dataset (COCO, YOLO, Pascal VOC): counts, broken files, bad boxes.",
        "mobilevision data check data/coco",
        "mobilevision data check data/coco --quick --json",
        "mobilevision data check my_yolo_data --layout yolo",
    ),
    "data convert": Command(
        (_add_convert, _convert),
        "Write a detection dataset of any known layout in COCO's format.",
        "mobilevision data convert my_yolo_data --out my_coco_data",
        "mobilevision data convert my_voc_data --out my_coco_data --val-fraction 0.2 --link",
    ),
    "data gps": Command(
        (_add_gps, _gps),
        "Table the GPS positions that photos carry in their EXIF data.",
        "mobilevision data gps photos --out photos.csv",
    ),
    "data shard": Command(
        (_add_shard, _shard),
        "Pack photos with positions into tar shards of the WebDataset form.",
        "mobilevision data shard --photos train.csv --images photos --out shards/train",
    ),
    "data find-faces": Command(
        (_add_find_faces, _find_faces),
        "Find the landmarks of faces, by which data can be aligned.",
        "mobilevision data find-faces data/faces --out landmarks.parquet",
    ),
    "data synthetic": Command(
        (_add_synthetic, _synthetic),
        "Draw a dataset of simple scenes in COCO's format.",
        "mobilevision data synthetic data/synthetic",
        "mobilevision data synthetic /tmp/scenes --train 100 --val 20 --size 300 300",
    ),
    "cells build": Command(
        (_add_build, _build),
        "Divide the Earth into cells by the density of photos (PlaNet's classes).",
        "mobilevision cells build --photos train.csv --max 10000 --min 50 --out cells.parquet",
        "mobilevision cells build --photos train.csv --max 1000 --min 50 --out cells.csv"
        " --picture cells.png --coastline coastline.geojson",
    ),
}
