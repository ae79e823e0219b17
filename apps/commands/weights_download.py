"""``mobilevision weights download``."""

from jsonargparse import ArgumentParser, Namespace

SUMMARY = "Download public weights by name, verified, and resume where it stopped."
EXAMPLES = ("mobilevision weights download mobilenet_v1_1.0_224",)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", type=str, help="One of the names of 'mobilevision weights list'.")
    parser.add_argument(
        "--url",
        type=str,
        metavar="URL",
        default=None,
        help="Mirror of the archive; its checksum must be the same.",
    )


def run(arguments: Namespace) -> int:
    """Fetch the archive, check it, and take the weights out of it into the cache."""
    from ...backbone.hub import cached_path, find_public
    from ...datasets.archives import extract_file
    from ...datasets.download import Checksum, download

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
