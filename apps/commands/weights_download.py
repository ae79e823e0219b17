"""``mobilevision weights download``."""

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Download public weights by name, verified, and resume where it stopped."
EXAMPLES = (
    "mobilevision weights download mobilenet_v1_1.0_224",
    "mobilevision weights download hf:timm/mobilenetv1_100.ra4_e3600_r224_in1k",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name",
        type=str,
        help="One of the names of 'mobilevision weights list', or hf:OWNER/REPOSITORY[@REVISION] "
        "for model.safetensors of a repository on the Hugging Face hub.",
    )
    parser.add_argument(
        "--url",
        type=str,
        metavar="URL",
        default=None,
        help="Mirror of the archive; its checksum must be the same.",
    )
    parser.add_argument(
        "--sha256",
        type=str,
        metavar="HEX",
        default=None,
        help="What a file of the Hugging Face hub must hash to; the sum that the hub states if not "
        "given. Names of the list have their own.",
    )


def run(arguments: Namespace) -> int:
    """Fetch the archive, check it, and take the weights out of it into the cache."""
    from ...backbone.weights.hub import cached_path, fetch, find_public, parse_name
    from ...datasets.download import Checksum, download, extract_file
    from ...datasets.errors import DataError

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
    weights, path = find_public(arguments.name), cached_path(arguments.name)
    if path.is_file():
        print(f"{path}: is there already")
        return 0
    archive = path.with_name(weights.url.rpartition("/")[2])
    download(arguments.url or weights.url, archive, Checksum("sha256", weights.sha256))
    extract_file(archive, weights.member, path)
    archive.unlink()
    print(path)
    return 0
