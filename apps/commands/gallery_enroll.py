"""``mobilevision gallery enroll``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Add the faces of images to a person in a gallery."
EXAMPLES = (
    "mobilevision gallery enroll 'Ada Lovelace' ada1.jpg ada2.jpg --model face.ckpt"
    " --gallery people",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", help="Of the person; more faces may be added later.")
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument(
        "--gallery", type=Path, required=True, metavar="DIR", help="Made where it is absent."
    )
    parser.add_argument(
        "--model",
        required=True,
        help="Checkpoint of a face network, or another's: facenet:vggface2, onnx:FILE,"
        " ncnn:FILE.param.",
    )
    parser.add_argument("--largest", action="store_true", help="Of several faces take the largest.")
    parser.add_argument(
        "--aligned", action="store_true", help="The images are aligned faces: find none."
    )
    add_device(parser)
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Enrol; 1 if an image gave no face, the others are enrolled."""
    from ..faces.identification import Model, enroll

    model = Model(arguments.model, arguments.device, arguments.aligned)
    faults = enroll(arguments.gallery, arguments.name, arguments.inputs, model, arguments.largest)
    return EXIT_FAULT if faults else 0
