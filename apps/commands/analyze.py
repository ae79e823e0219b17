"""``mobilevision analyze``: the options of ``attributes``, for networks that embed faces, too."""

from jsonargparse import ArgumentParser, Namespace

from . import attributes

SUMMARY = "Embed and describe the faces of images in one pass: who is alike, and what they show."
EXAMPLES = (
    "mobilevision analyze photos --model faces.ckpt --out faces.parquet",
    "mobilevision analyze photos 'more/*.png' --model faces.ckpt --out faces.csv"
    " --pictures annotated",
    "mobilevision analyze img_align_celeba --aligned --model faces.ckpt --out celeba.csv",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    attributes.add_arguments(parser)


def run(arguments: Namespace) -> int:
    """Analyze; 1 if files could not be read, the others are done."""
    return attributes.run(arguments, embeddings=True)
