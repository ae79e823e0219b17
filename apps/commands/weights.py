"""Commands that list, download and import published weights."""

import json

from jsonargparse import ArgumentParser, Namespace

from ..command import Command, add_flag, add_path, add_size, chosen_size_hw


def _add_list(parser: ArgumentParser) -> None:
    add_flag(parser, "--json", "Print JSON instead of text.")


def _list(arguments: Namespace) -> int:
    from ...backbone.weights.hub import PUBLIC_WEIGHTS, cached_path

    paths = {name: cached_path(name) for name in PUBLIC_WEIGHTS}
    there = {name: str(path) if path.is_file() else None for name, path in paths.items()}
    if arguments.json:
        rows = [{"name": name, **weights._asdict(), "path": there[name]}
                for name, weights in PUBLIC_WEIGHTS.items()]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return 0
    for name, weights in PUBLIC_WEIGHTS.items():
        print(name)
        print(f"  {weights.source}, width {weights.width_mult}, {weights.licence}")
        print(f"  {there[name] or 'not downloaded'}")
    return 0


def _add_download(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name",
        help="A name of 'mobilevision weights list', or hf:OWNER/REPOSITORY[@REVISION] for "
        "model.safetensors of a repository on the Hugging Face hub.",
    )
    sentence = "Mirror of the archive, or a copy here; its checksum must be the same."
    parser.add_argument("--url", metavar="URL_OR_FILE", help=sentence)
    sentence = "Expected hash of a file of the Hugging Face hub; by default the one that it states"
    own = "names of the list have their own"
    parser.add_argument("--sha256", metavar="HEX", help=f"{sentence}; {own}.")


def _download(arguments: Namespace) -> int:
    from ...backbone.weights.hub import cached_path, fetch, parse_name
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
    if (path := cached_path(arguments.name)).is_file():
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
    parser.add_argument("--licence", metavar="TEXT", help=sentence)


def _import_weights(arguments: Namespace) -> int:
    from ..importing import format_card, import_weights

    options = {name: arguments[name] for name in ("sha256", "labels", "licence")}
    size_hw = chosen_size_hw(arguments)
    imported = import_weights(arguments.source, arguments.out, size_hw=size_hw, **options)
    print(format_card(imported))
    return 0


COMMANDS = {
    "weights list": Command(
        (_add_list, _list),
        "List the public weights that have a name, and which are downloaded.",
        "mobilevision weights list",
        "mobilevision weights list --json",
    ),
    "weights download": Command(
        (_add_download, _download),
        "Download public weights by name, verified, and resume where it stopped.",
        "mobilevision weights download mobilenet_v1_1.0_224",
        "mobilevision weights download hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k",
    ),
    "import": Command(
        (_add_import_weights, _import_weights),
        "Turn public weights of TensorFlow, Keras, timm or Pytorch_Retinaface into a checkpoint.",
        "mobilevision import ssd_mobilenet_v1_0.75_coco_quant --out ssd.ckpt",
        "mobilevision import mobilenet_1_0_224_tf.h5 --out mobilenet.ckpt",
        "mobilevision import frozen_inference_graph.pb --licence Apache-2.0 --out ppn.ckpt",
        "mobilevision import hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k --out m.ckpt",
    ),
}
