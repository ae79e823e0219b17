"""``mobilevision import``."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Turn public weights of TensorFlow, Keras or timm into a checkpoint."
EXAMPLES = (
    "mobilevision import ssd_mobilenet_v1_0.75_coco_quant --out ssd.ckpt",
    "mobilevision import mobilenet_1_0_224_tf.h5 --out mobilenet.ckpt",
    "mobilevision import hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k --out m.ckpt",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        type=str,
        metavar="SOURCE",
        help="A file (.tflite, .npz, .h5, .safetensors, .pth), a name of 'mobilevision weights "
        "list', or hf:OWNER/REPOSITORY; names have to be downloaded before.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="Checkpoint to write, .ckpt."
    )
    parser.add_argument("--sha256", type=str, metavar="HEX", help="What the file must hash to.")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="Input size; what the file or its name says if not given.",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="Names of the classes, one a line; those of ImageNet or COCO if not given.",
    )
    parser.add_argument(
        "--licence", type=str, metavar="TEXT", help="Licence of the weights, to be kept with them."
    )


def run(arguments: Namespace) -> int:
    """Write the checkpoint and say what is in it."""
    from ..importing import format_card, import_weights

    imported = import_weights(
        arguments.source,
        arguments.out,
        sha256=arguments.sha256,
        size_hw=tuple(arguments.size) if arguments.size else None,
        labels=arguments.labels,
        licence=arguments.licence,
    )
    print(format_card(imported))
    return 0
