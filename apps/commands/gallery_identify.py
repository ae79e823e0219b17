"""``mobilevision gallery identify``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Say who of a gallery the faces of images are."
EXAMPLES = (
    "mobilevision gallery identify party.jpg --model face.ckpt --gallery people",
    "mobilevision gallery identify photos --model face.ckpt --gallery people --json",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="The gallery.")
    parser.add_argument("--model", required=True, help="The model of the gallery.")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="SIMILARITY",
        help="Least similarity of one person; as measured with the model if not given.",
    )
    parser.add_argument(
        "--count", type=int, metavar="N", default=1, help="People for each face at most."
    )
    parser.add_argument(
        "--aligned", action="store_true", help="The images are aligned faces: find none."
    )
    parser.add_argument("--json", action="store_true", help="Print a JSON object for each face.")
    add_device(parser)
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Identify; 1 if files could not be read."""
    from ..faces.identification import Model, identify

    model = Model(arguments.model, arguments.device, arguments.aligned)
    faults = identify(
        arguments.gallery, arguments.inputs, model, arguments.threshold, arguments.count,
        arguments.json,
    )  # fmt: skip
    return EXIT_FAULT if faults else 0
