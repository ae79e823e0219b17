"""``mobilevision embed``."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..errors import EXIT_FAULT
from ..help import add_device, add_trust

SUMMARY = "Embed the faces of images: one Parquet table, resumable."
EXAMPLES = (
    "mobilevision embed photos --model face.ckpt --out embeddings.parquet",
    "mobilevision embed data/lfw --aligned --model face.ckpt --out lfw.parquet",
    "mobilevision embed data/celeba --layout celeba --views 12"
    " --model ncnn:teacher.param --out views.parquet",
)
_LAYOUTS = ("folder", "celeba")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="Images, folders of them, patterns."
    )
    parser.add_argument(
        "--model",
        required=True,
        help="Checkpoint of a face network, or another's: facenet:vggface2, onnx:FILE,"
        " ncnn:FILE.param.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="The table, .parquet; FILE.progress keeps what is done, delete it when you are.",
    )  # fmt: skip
    parser.add_argument(
        "--aligned", action="store_true", help="The images are aligned faces: find none."
    )
    parser.add_argument(
        "--largest", action="store_true", help="Only the largest face of each image."
    )
    parser.add_argument(
        "--views",
        type=int,
        metavar="K",
        help="K views of each face of a data set, as training draws them; the first is plain.",
    )
    parser.add_argument(
        "--layout",
        choices=_LAYOUTS,
        default="folder",
        help="Of the data set, with --views: aligned faces in folders, or CelebA.",
    )
    parser.add_argument(
        "--parts", nargs="+", default=["train"], help="Of CelebA, with --views: train, val, test."
    )
    parser.add_argument(
        "--landmarks", type=Path, metavar="FILE", help="With --views: from data find-faces."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the views.")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=16, help="Images at once in the network."
    )
    add_device(parser)
    parser.add_argument(
        "--size", type=int, metavar="PX", help="Side of the aligned faces; as in training."
    )
    add_trust(parser)


def run(arguments: Namespace) -> int:
    """Embed; 1 if files could not be read, the others are in the table."""
    from ..batch.faces import Views, embed

    views = None
    if arguments.views is not None:
        views = Views(
            arguments.views, arguments.layout, arguments.parts, arguments.landmarks, arguments.seed
        )
    counts = embed(
        arguments.inputs,
        arguments.model,
        arguments.out,
        aligned=arguments.aligned,
        largest=arguments.largest,
        views=views,
        batch_size=arguments.batch_size,
        device=arguments.device,
        size=arguments.size,
    )
    sys.stdout.flush()
    return EXIT_FAULT if counts.faults else 0
