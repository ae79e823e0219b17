"""``mobilevision data shard``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT

SUMMARY = "Pack photos with positions into tar shards of the WebDataset form."
EXAMPLES = ("mobilevision data shard --photos train.csv --images photos --out shards/train",)


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


def run(arguments: Namespace) -> int:
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
