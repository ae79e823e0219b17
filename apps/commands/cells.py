"""``mobilevision cells build``."""

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Part the Earth into cells by where photos are (PlaNet's classes)."
EXAMPLES = (
    "mobilevision cells build --photos train.csv --max 10000 --min 50 --out cells.parquet",
    "mobilevision cells build --photos train.csv --max 1000 --min 50 --out cells.csv"
    " --picture cells.png --coastline coastline.geojson",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
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


def run(arguments: Namespace) -> int:
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
