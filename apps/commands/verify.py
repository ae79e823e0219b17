"""``mobilevision verify``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ..help import add_device, add_trust

SUMMARY = "Measure how well a face model tells people apart, on pairs as LFW's."
EXAMPLES = (
    "mobilevision verify --pairs pairs.txt --images data/lfw --model face.ckpt",
    "mobilevision verify --pairs pairs.txt --embeddings lfw.parquet --json",
    "mobilevision verify --images data/celeba --layout celeba --groups Male Young"
    " --model face.ckpt",
)
_LAYOUTS = ("folder", "celeba")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    _add_faces(parser)
    parser.add_argument(
        "--model",
        help="Checkpoint of a face network, or another's: facenet:vggface2, onnx:FILE,"
        " ncnn:FILE.param.",
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="Table of cached embeddings, in place of images and a model.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON in place of a table.")
    parser.add_argument("--roc", type=Path, metavar="FILE", help="Draw the ROC curve, .png.")
    parser.add_argument(
        "--store",
        action="store_true",
        help="Put the threshold and its false accept rate into the checkpoint.",
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=32, help="Faces at once in the network."
    )
    add_device(parser)
    parser.add_argument("--size", type=int, metavar="PX", help="Side of the faces; as in training.")
    add_trust(parser)


def _add_faces(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="List in LFW's format, in folds; drawn from the people if not given.",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="Folder of the faces, one for each person."
    )
    parser.add_argument(
        "--layout",
        choices=_LAYOUTS,
        default="folder",
        help="Of the images: a folder for each person, or CelebA.",
    )
    parser.add_argument("--parts", nargs="+", default=["val"], help="Of CelebA: train, val, test.")
    parser.add_argument(
        "--groups",
        nargs="*",
        metavar="ATTRIBUTE",
        help="Of CelebA: measure faces with and without each, too; Male and Young if not given.",
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="From data find-faces, for faces that are not aligned.",
    )


def run(arguments: Namespace) -> int:
    """Measure and print."""
    from ...datasets.errors import DataError
    from ...heads.face_embedding.verification import format_table
    from ..faces.verify import HeldOut, store_threshold, verify_model, verify_table

    model, table = arguments.model, arguments.embeddings
    if (table is None) == (model is None):
        raise DataError("give either --images and --model, or --embeddings")
    if arguments.store and (model is None or not Path(model).is_file()):
        raise DataError("--store needs a checkpoint of this package as --model")
    held_out = HeldOut(
        arguments.images,
        arguments.pairs,
        arguments.layout,
        arguments.parts,
        arguments.landmarks,
        arguments.groups,
    )
    if table is not None:
        result = verify_table(held_out, table)
    else:
        result = verify_model(
            held_out,
            model,
            batch_size=arguments.batch_size,
            device=arguments.device,
            size=arguments.size,
        )
    if arguments.roc is not None:
        from ..callbacks.plots import write_roc

        write_roc(arguments.roc, result)
    if arguments.store:
        store_threshold(Path(str(model)), result)
    print(result.to_json() if arguments.json else format_table(result), end="")
    return 0
