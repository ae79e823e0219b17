"""Commands of galleries: ``mobilevision gallery enroll``, ``identify``, ``list`` and ``remove``."""

import json
import sys
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..command import (
    EXIT_FAULT,
    Command,
    add_accept_license,
    add_detector,
    add_device,
    add_face_model,
    add_flag,
    add_inputs,
    add_number,
    add_path,
    add_trust,
)

if TYPE_CHECKING:
    from ..faces.identification import Model


def _add_gallery(parser: ArgumentParser, sentence: str = "Folder of the gallery.") -> None:
    add_path(parser, "--gallery", sentence, "DIR", required=True)


def _add_run(parser: ArgumentParser) -> None:
    """Declare how the images are read and where the model runs."""
    add_flag(parser, "--aligned", "The images are aligned faces: do not search for faces.")
    add_device(parser)
    add_trust(parser)


def _model(arguments: Namespace) -> "Model":
    from ..faces.identification import Model

    return Model(
        arguments.model, arguments.device, arguments.aligned, arguments.detector, arguments.faces
    )


def _add_enroll(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="Name of the person; more faces may be added later.")
    add_inputs(parser)
    _add_gallery(parser, "Folder of the gallery; created if it is absent.")
    add_face_model(parser)
    sentence = (
        "Take the largest of several faces, or the one nearest to the center; all takes none."
    )
    add_detector(parser, sentence=sentence)
    _add_run(parser)


def _enroll(arguments: Namespace) -> int:
    from ..faces.identification import enroll

    faults = enroll(arguments.gallery, arguments.name, arguments.inputs, _model(arguments))
    return EXIT_FAULT if faults else 0


def _add_identify(parser: ArgumentParser) -> None:
    add_inputs(parser)
    _add_gallery(parser)
    parser.add_argument("--model", required=True, help="The model of the gallery.")
    add_accept_license(parser)
    sentence = "Minimum similarity of a match; as measured with the model if not given."
    parser.add_argument("--threshold", type=float, metavar="SIMILARITY", help=sentence)
    add_number(parser, "--count", 1, "Maximum number of people for each face.")
    add_flag(parser, "--json", "Print a JSON object for each face.")
    add_detector(parser)
    _add_run(parser)


def _identify(arguments: Namespace) -> int:
    from ..faces.identification import identify

    faults = identify(
        arguments.gallery, arguments.inputs, _model(arguments), arguments.threshold,
        arguments.count, arguments.json,
    )  # fmt: skip
    return EXIT_FAULT if faults else 0


def _add_list(parser: ArgumentParser) -> None:
    _add_gallery(parser)
    add_flag(parser, "--json", "Print JSON instead of text.")


def _list(arguments: Namespace) -> int:
    from ..faces.gallery import Gallery

    gallery = Gallery(arguments.gallery)
    people = gallery.people()
    if gallery.threshold is not None:
        print(*gallery.threshold.explain(len(people)), sep="\n", file=sys.stderr)
    if arguments.json:
        print(json.dumps(people, indent=1, ensure_ascii=False))
        return 0
    for name, count in people.items():
        print(f"{count:6,}  {name}")
    return 0


def _add_remove(parser: ArgumentParser) -> None:
    parser.add_argument("name", help="Name of the person.")
    sentence = "Remove only the faces of these images or folders, not the whole person."
    parser.add_argument("inputs", nargs="*", metavar="IMAGE", help=sentence)
    _add_gallery(parser)


def _remove(arguments: Namespace) -> int:
    from ..faces.identification import remove

    remove(arguments.gallery, arguments.name, arguments.inputs)
    return 0


COMMANDS = {
    "gallery enroll": Command(
        (_add_enroll, _enroll),
        "Add the faces of images to a person in a gallery.",
        "mobilevision gallery enroll 'Ada Lovelace' ada1.jpg ada2.jpg --model face.ckpt"
        " --gallery people",
    ),
    "gallery identify": Command(
        (_add_identify, _identify),
        "Identify the faces of images among the people of a gallery.",
        "mobilevision gallery identify party.jpg --model face.ckpt --gallery people",
        "mobilevision gallery identify photos --model face.ckpt --gallery people --json",
    ),
    "gallery list": Command(
        (_add_list, _list),
        "List the people of a gallery.",
        "mobilevision gallery list --gallery people",
    ),
    "gallery remove": Command(
        (_add_remove, _remove),
        "Remove a person from a gallery and from all of its files.",
        "mobilevision gallery remove 'Ada Lovelace' --gallery people",
        "mobilevision gallery remove 'Ada Lovelace' ada2.jpg --gallery people",
    ),
}
