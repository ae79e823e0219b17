"""Commands that list, download and import published weights."""

import json
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from ..command import (
    Command,
    add_accept_license,
    add_flag,
    add_path,
    add_size,
    chosen_size_hw,
)

if TYPE_CHECKING:
    from ...backbone.weights.hub import PublicWeights


USES = {
    "detection": "mobilevision detect photo.jpg --model NAME",
    "classification": "mobilevision classify photo.jpg --model NAME",
    "face_detection": "mobilevision detect photo.jpg --model NAME",
    "face_embedding": "mobilevision verify a.jpg b.jpg --model NAME; also embed and gallery",
}
"""Job -> what is done with its public weights."""
_FIGURES = "docs/results.md"


def _add_list(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--job", choices=tuple(USES), metavar="NAME",
        help=f"Only the weights for one job: {', '.join(USES)}.",
    )  # fmt: skip
    add_flag(parser, "--json", "Print JSON instead of text.")


def _list(arguments: Namespace) -> int:
    from ...backbone.weights.hub import PUBLIC_WEIGHTS, existing_file

    chosen = {
        name: weights for name, weights in PUBLIC_WEIGHTS.items()
        if arguments.job in (None, weights.job)
    }  # fmt: skip
    there = {name: existing_file(name) for name in chosen}
    if arguments.json:
        rows = [{"name": name, **weights._asdict(), "path": there[name] and str(there[name])}
                for name, weights in chosen.items()]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return 0
    width = min(shutil.get_terminal_size().columns, 120)
    for job, use in USES.items():
        of_job = {name: weights for name, weights in chosen.items() if weights.job == job}
        if of_job:
            print(f"{job}: {use}")
        for name, weights in of_job.items():
            print(f"  {name}")
            for line in _facts(weights, there[name]):
                print(textwrap.fill(line, width, initial_indent="    ", subsequent_indent="      ",
                                    break_long_words=False, break_on_hyphens=False))  # fmt: skip
        print(end="\n" if of_job else "")
    print(f"What was measured here is in {_FIGURES}, with the commands.")
    return 0


def _facts(weights: "PublicWeights", path: Path | None) -> Iterator[str]:
    yield weights.source
    yield f"trained on: {weights.data}"
    accept = f", needs --accept-license {weights.license}" if weights.terms else ""
    yield f"license: {weights.license}{accept}; {path or 'not downloaded'}"
    here = f"measured here: {weights.measured}" if weights.measured else "not measured here"
    theirs = f"publisher's figure: {weights.published}" if weights.published else None
    yield "; ".join(filter(None, [here, theirs]))


def _add_download(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name",
        help="A name of 'mobilevision weights list', or hf:OWNER/REPOSITORY[@REVISION] for "
        "model.safetensors of a repository on the Hugging Face hub.",
    )
    sentence = (
        "Mirror of the file or archive, or a copy here; its checksum must be the same. A .bin of "
        "the same name has to lie beside a .param."
    )
    parser.add_argument("--url", metavar="URL_OR_FILE", help=sentence)
    sentence = "Expected hash of a file of the Hugging Face hub; by default the one that it states"
    own = "names of the list have their own"
    parser.add_argument("--sha256", metavar="HEX", help=f"{sentence}; {own}.")
    add_accept_license(parser)


def _download(arguments: Namespace) -> int:
    from ...backbone.weights.hub import existing_file, fetch, parse_name
    from ...datasets.errors import DataError
    from ..public import download_public

    if parse_name(arguments.name) is not None:
        if arguments.url is not None:
            raise DataError(
                f"{arguments.name}: --url is for names of the list; the hub's own mirror is "
                "chosen by the environment variable HF_ENDPOINT"
            )
        path, found = fetch(arguments.name, arguments.sha256)
        print(f"{path}\nsha256 {found}")
        return 0
    if arguments.sha256 is not None:
        raise DataError(f"{arguments.name}: --sha256 is for hf: names; this one has its own sum")
    if (path := existing_file(arguments.name)) is not None:
        print(f"{path}: is there already")
        return 0
    print(download_public(arguments.name, arguments.url))
    return 0


def _add_import_weights(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="A file (.tflite, .npz, .pb, .index of a TensorFlow checkpoint, .h5, .safetensors, "
        ".pth), a name of 'mobilevision weights list', or hf:OWNER/REPOSITORY; names have to be "
        "downloaded before.",
    )
    add_path(parser, "--out", "Checkpoint to write, .ckpt.", required=True)
    parser.add_argument("--sha256", metavar="HEX", help="Expected hash of the file.")
    add_size(parser, "Input size; that of the file or its name if not given.")
    sentence = "Names of the classes, one a line; by default those of ImageNet or COCO."
    add_path(parser, "--labels", sentence)
    sentence = "License of the weights, to be stored with them."
    parser.add_argument("--license", metavar="TEXT", help=sentence)


def _import_weights(arguments: Namespace) -> int:
    from ..importing import format_card, import_weights

    options = {name: arguments[name] for name in ("sha256", "labels", "license")}
    size_hw = chosen_size_hw(arguments)
    imported = import_weights(arguments.source, arguments.out, size_hw=size_hw, **options)
    print(format_card(imported))
    return 0


COMMANDS = {
    "weights list": Command(
        (_add_list, _list),
        "List the public weights by job: use, license, training data, figures, where they are.",
        "mobilevision weights list",
        "mobilevision weights list --job face_embedding",
        "mobilevision weights list --json",
    ),
    "weights download": Command(
        (_add_download, _download),
        "Download public weights by name, verified, and resume where it stopped.",
        "mobilevision weights download mobilenet_v1_1.0_224",
        "mobilevision weights download mobilefacenet --accept-license unstated",
        "mobilevision weights download hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k",
    ),
    "import": Command(
        (_add_import_weights, _import_weights),
        "Turn public weights of TensorFlow, Keras, timm or Pytorch_Retinaface into a checkpoint.",
        "mobilevision import ssd_mobilenet_v1_0.75_coco_quant --out ssd.ckpt",
        "mobilevision import mobilenet_1_0_224_tf.h5 --out mobilenet.ckpt",
        "mobilevision import frozen_inference_graph.pb --license Apache-2.0 --out ppn.ckpt",
        "mobilevision import hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k --out m.ckpt",
    ),
}
