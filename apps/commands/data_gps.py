"""``mobilevision data gps``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Table the GPS positions that photos carry in their EXIF data."
EXAMPLES = ("mobilevision data gps photos --out photos.csv",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("inputs", nargs="+", metavar="DIR", help="Folders of photos, or photos.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="TABLE", help="Table, as csv or Parquet."
    )


def run(arguments: Namespace) -> int:
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
