"""Commands of galleries: ``mobilevision gallery enroll``, ``identify``, ``list`` and ``remove``."""

import json
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..command import Command, add_device, add_inputs, add_trust
from ..errors import EXIT_FAULT


def _add_enroll(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="Of the person; more faces may be added later.")
    add_inputs(parser)
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


def _enroll(arguments: Namespace) -> int:
    """Enrol; 1 if an image gave no face, the others are enrolled."""
    from ..faces.identification import Model, enroll

    model = Model(arguments.model, arguments.device, arguments.aligned)
    faults = enroll(arguments.gallery, arguments.name, arguments.inputs, model, arguments.largest)
    return EXIT_FAULT if faults else 0


def _add_identify(parser: ArgumentParser) -> None:
    add_inputs(parser)
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


def _identify(arguments: Namespace) -> int:
    """Identify; 1 if files could not be read."""
    from ..faces.identification import Model, identify

    model = Model(arguments.model, arguments.device, arguments.aligned)
    faults = identify(
        arguments.gallery, arguments.inputs, model, arguments.threshold, arguments.count,
        arguments.json,
    )  # fmt: skip
    return EXIT_FAULT if faults else 0


def _add_list(parser: ArgumentParser) -> None:
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="The gallery.")
    parser.add_argument("--json", action="store_true", help="Print JSON in place of text.")


def _list(arguments: Namespace) -> int:
    """Print each name with its number of faces."""
    from ..faces.gallery import Gallery

    people = Gallery(arguments.gallery).people()
    if arguments.json:
        print(json.dumps(people, indent=1, ensure_ascii=False))
        return 0
    for name, count in people.items():
        print(f"{count:6,}  {name}")
    return 0


def _add_remove(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="Of the person.")
    parser.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="The gallery.")


def _remove(arguments: Namespace) -> int:
    """Remove; older versions of the gallery's files go, too."""
    from ..faces.gallery import Gallery

    count = Gallery(arguments.gallery).remove(arguments.name)
    print(f"{arguments.name}: {count:,} faces removed")
    return 0


COMMANDS = {
    "gallery enroll": Command(
        "Add the faces of images to a person in a gallery.",
        (
            "mobilevision gallery enroll 'Ada Lovelace' ada1.jpg ada2.jpg --model face.ckpt"
            " --gallery people",
        ),
        _add_enroll,
        _enroll,
    ),
    "gallery identify": Command(
        "Say who of a gallery the faces of images are.",
        (
            "mobilevision gallery identify party.jpg --model face.ckpt --gallery people",
            "mobilevision gallery identify photos --model face.ckpt --gallery people --json",
        ),
        _add_identify,
        _identify,
    ),
    "gallery list": Command(
        "List the people of a gallery.",
        ("mobilevision gallery list --gallery people",),
        _add_list,
        _list,
    ),
    "gallery remove": Command(
        "Remove a person from a gallery, from its files too.",
        ("mobilevision gallery remove 'Ada Lovelace' --gallery people",),
        _add_remove,
        _remove,
    ),
}
