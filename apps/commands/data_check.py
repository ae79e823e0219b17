"""``mobilevision data check``."""

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT

SUMMARY = "Check a detection data set (COCO, Pascal VOC): counts, broken files, bad boxes."
EXAMPLES = (
    "mobilevision data check data/coco",
    "mobilevision data check data/coco --quick --json",
    "mobilevision data check VOCdevkit",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("root", type=Path, help="Folder of the data set.")
    parser.add_argument("--quick", action="store_true", help="Do not decode the images.")
    parser.add_argument("--json", action="store_true", help="Print JSON in place of text.")


def run(arguments: Namespace) -> int:
    """Check, print the report, and return 1 if there were faults."""
    from ...datasets.detection.check import check_dataset

    report = check_dataset(arguments.root, quick=arguments.quick)
    print(json.dumps(report.as_dict(), indent=2) if arguments.json else report)
    return 0 if report.ok else EXIT_FAULT
