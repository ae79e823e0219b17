"""Commands that download, check, convert and generate data."""

import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ...datasets.errors import DataError
from ..command import Command, add_batch_size, add_device, add_inputs
from ..errors import EXIT_FAULT


def _add_download_coco(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        default=Path("data/coco"),
        help="Folder to download into and unpack in.",
    )
    parser.add_argument(
        "--year", type=int, choices=[2014, 2017], default=2017, help="Which edition."
    )
    parser.add_argument(
        "--splits",
        type=str,
        metavar="NAMES",
        default="train,val",
        help="What to fetch, separated by commas.",
    )
    parser.add_argument("--yes", action="store_true", help="Start without asking.")
    parser.add_argument(
        "--base-url",
        type=str,
        metavar="URL",
        default=None,
        help="Mirror to use in place of the official server.",
    )


def _download_coco(arguments: Namespace) -> int:
    """Show what is missing and how large it is, ask, and fetch it."""
    from ...datasets.detection.coco_download import (
        BASE_URL,
        download_coco,
        missing_archives,
        space_needed,
    )
    from ...datasets.download import format_size

    splits = [split.strip() for split in arguments.splits.split(",") if split.strip()]
    archives = missing_archives(arguments.root, arguments.year, splits)
    if not archives:
        print(f"{arguments.root}: COCO {arguments.year} ({', '.join(splits)}) is there already.")
        return 0
    for archive in archives:
        print(f"{archive.name:<30}{format_size(archive.size):>12}")
    print(f"{'to download':<30}{format_size(sum(a.size for a in archives)):>12}")
    print(f"{'disk space while unpacking':<30}{format_size(space_needed(archives)):>12}")
    if not (arguments.yes or _confirmed(arguments.root)):
        return EXIT_FAULT
    base_url = arguments.base_url or BASE_URL
    download_coco(arguments.root, year=arguments.year, splits=splits, base_url=base_url)
    print(f"{arguments.root}: complete. Next: mobilevision data check {arguments.root}")
    return 0


def _confirmed(root: Path) -> bool:
    if not sys.stdin.isatty():
        raise DataError("nothing was downloaded: add --yes where nobody can be asked")
    print(f"Download into {root}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    print("nothing was downloaded", file=sys.stderr)
    return False


def _add_download_cifar10(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        default=Path("data/cifar10"),
        help="Folder to download into and unpack in.",
    )


def _download_cifar10(arguments: Namespace) -> int:
    """Fetch it, or say that it is there."""
    from ...datasets.classification.cifar import download_cifar10

    fetched = download_cifar10(arguments.root)
    print(f"{arguments.root}: CIFAR-10 is {'complete' if fetched else 'there already'}.")
    return 0


def _add_check(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="Folder of the data set.")
    parser.add_argument("--quick", action="store_true", help="Do not decode the images.")
    parser.add_argument("--json", action="store_true", help="Print JSON in place of text.")


def _check(arguments: Namespace) -> int:
    """Check, print the report, and return 1 if there were faults."""
    from ...datasets.detection.check import check_dataset

    report = check_dataset(arguments.root, quick=arguments.quick)
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report)
    return 0 if report.ok else EXIT_FAULT


def _add_gps(parser: ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="DIR", help="Folders of photos, or photos.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="TABLE", help="Table, as csv or Parquet."
    )


def _gps(arguments: Namespace) -> int:
    """Write the table and say how many photos have no position."""
    from ...datasets.geolocation.coordinates import write_positions
    from ...datasets.geolocation.exif import read_gps
    from ..batch.inputs import find_files

    files = [file for file in find_files(arguments.inputs) if not file.is_video]
    report = read_gps([file.path for file in files], [file.name for file in files])
    write_positions(arguments.out, report.table)
    print(f"{arguments.out}: {len(report.table.files):,} of {len(files):,} photos")
    for reason, names in report.without.items():
        if names:
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            print(f"  {len(names):,} {reason.value}: {shown}")
    return 0


def _add_shard(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--photos",
        type=Path,
        required=True,
        metavar="TABLE",
        help="Table of photos (csv or Parquet: file, latitude, longitude).",
    )
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="Folder that files lie in."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="Folder for the shards."
    )
    parser.add_argument(
        "--per-shard", type=int, metavar="N", default=5000, help="Photos in each shard."
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="Leave out photos that are not there."
    )


def _shard(arguments: Namespace) -> int:
    """Write the shards; 1 if photos were left out."""
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
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        print(f"  left out, absent or empty: {len(missing):,} ({shown})")
    return EXIT_FAULT if missing else 0


def _add_find_faces(parser: ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="The table, .parquet."
    )
    add_batch_size(parser, 16, "Images looked at together.")
    add_device(parser)


def _find_faces(arguments: Namespace) -> int:
    """Find; 1 if files could not be read, the others are in the table."""
    from ..batch.faces import find_faces

    counts = find_faces(arguments.inputs, arguments.out, arguments.batch_size, arguments.device)
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0


def _add_synthetic(parser: ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="Folder to make.")
    parser.add_argument(
        "--train", type=int, metavar="N", default=2000, help="Number of training images."
    )
    parser.add_argument(
        "--val", type=int, metavar="N", default=200, help="Number of validation images."
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        default=[240, 240],
        help="Size of every image in pixels.",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", default=0, help="Another seed draws other scenes."
    )


def _synthetic(arguments: Namespace) -> int:
    """Write the scenes, unless the same ones are there."""
    from ...datasets.synthetic.detection import write_scenes

    height, width = arguments.size
    written = write_scenes(
        arguments.root,
        train=arguments.train,
        val=arguments.val,
        size_hw=(height, width),
        seed=arguments.seed,
    )
    state = "written" if written else "there already"
    print(f"{arguments.root}: {arguments.train} + {arguments.val} images, {state}")
    return 0


def _add_build(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--photos",
        type=Path,
        required=True,
        metavar="TABLE",
        help="Table of photos (csv or Parquet: file, latitude, longitude).",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="Cells, as csv or Parquet."
    )
    parser.add_argument(
        "--max", type=int, metavar="N", default=10_000, help="Cells with more photos are parted."
    )
    parser.add_argument(
        "--min", type=int, metavar="N", default=50, help="Cells with fewer are dropped."
    )
    parser.add_argument(
        "--min-level", type=int, metavar="L", default=0, help="S2 level of the largest cells."
    )
    parser.add_argument(
        "--max-level", type=int, metavar="L", default=30, help="S2 level of the smallest cells."
    )
    parser.add_argument("--picture", type=Path, metavar="PNG", help="Draw the cells on a map.")
    parser.add_argument(
        "--coastline", type=Path, metavar="GEOJSON", help="Coastlines for the image."
    )


def _build(arguments: Namespace) -> int:
    """Build and write the cells."""
    from ...datasets.geolocation.cells import build_partition
    from ...datasets.geolocation.coordinates import check_format, read_positions

    check_format(arguments.out)  # before minutes of work
    coastline = _prepare_image(arguments)
    print(f"reading {arguments.photos}", file=sys.stderr)
    table = read_positions(arguments.photos)
    print(f"parting {len(table.files):,} photos", file=sys.stderr)
    partition, report = build_partition(
        table.latlng_deg,
        arguments.max,
        arguments.min,
        arguments.min_level,
        arguments.max_level,
        str(arguments.photos),
    )
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
        from ..callbacks.images import write_figure
        from ..callbacks.world_map import draw_partition

        title = f"{len(partition):,} cells · {report.kept:,} photos"
        write_figure(draw_partition(partition, coastline, title), arguments.picture)
        print(f"Image: {arguments.picture}")
    return 0


def _prepare_image(arguments: Namespace) -> list[Any]:
    """The coastline, read before anything is built so that mistakes show at once."""
    if arguments.picture is None:
        return []
    from ..callbacks.images import check_png
    from ..callbacks.world_map import read_coastline

    check_png(arguments.picture)
    return read_coastline(arguments.coastline)


COMMANDS = {
    "data download coco": Command(
        "Download COCO 2017 or 2014, verified, and resume where it stopped.",
        (
            "mobilevision data download coco",
            "mobilevision data download coco --splits val --root /disk/coco --yes",
        ),
        _add_download_coco,
        _download_coco,
    ),
    "data download cifar10": Command(
        "Download CIFAR-10 in its binary version (170 MB), verified.",
        ("mobilevision data download cifar10",),
        _add_download_cifar10,
        _download_cifar10,
    ),
    "data check": Command(
        "Check a detection data set (COCO, Pascal VOC): counts, broken files, bad boxes.",
        (
            "mobilevision data check data/coco",
            "mobilevision data check data/coco --quick --json",
            "mobilevision data check VOCdevkit",
        ),
        _add_check,
        _check,
    ),
    "data gps": Command(
        "Table the GPS positions that photos carry in their EXIF data.",
        ("mobilevision data gps photos --out photos.csv",),
        _add_gps,
        _gps,
    ),
    "data shard": Command(
        "Pack photos with positions into tar shards of the WebDataset form.",
        ("mobilevision data shard --photos train.csv --images photos --out shards/train",),
        _add_shard,
        _shard,
    ),
    "data find-faces": Command(
        "Find the landmarks of faces once, so that data can be aligned by them.",
        ("mobilevision data find-faces data/faces --out landmarks.parquet",),
        _add_find_faces,
        _find_faces,
    ),
    "data synthetic": Command(
        "Draw a data set of simple scenes in COCO's format.",
        (
            "mobilevision data synthetic data/synthetic",
            "mobilevision data synthetic /tmp/scenes --train 100 --val 20 --size 300 300",
        ),
        _add_synthetic,
        _synthetic,
    ),
    "cells build": Command(
        "Part the Earth into cells by where photos are (PlaNet's classes).",
        (
            "mobilevision cells build --photos train.csv --max 10000 --min 50 --out cells.parquet",
            "mobilevision cells build --photos train.csv --max 1000 --min 50 --out cells.csv"
            " --picture cells.png --coastline coastline.geojson",
        ),
        _add_build,
        _build,
    ),
}
