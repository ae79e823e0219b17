"""Downloads of COCO 2014 and 2017."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..download import Checksum, download, require_space, unzip
from ..errors import DataError

BASE_URL = "http://images.cocodataset.org"
"""The official server. It has no certificate for its name, hence http and the checksums."""

COCO_SPLITS = ("train", "val")


class CocoArchive(NamedTuple):
    """A zip file of COCO: its path on the server, relative to the base address, and its bytes."""

    path: str
    size: int
    md5: str

    @property
    def name(self) -> str:
        """File name of the archive."""
        return self.path.rpartition("/")[2]


# Sizes as the official server states them (kept in many wget logs). The md5 sums of all six are in
# PaddleDetection (dataset/coco/download_coco.py); those of 2017 also in Intel's neural-compressor
# (examples/pytorch/fx/object_detection/maskrcnn/download_dataset.sh), those of the images of 2014
# also in Salesforce's LAVIS (lavis/datasets/download_scripts/download_coco.py), and that of the
# annotations of 2014 also in PaddleNLP (paddlenlp/datasets, COCOCaptions).
# fmt: off
_IMAGES = {
    (2017, "train"): CocoArchive(
        "zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    (2017, "val"): CocoArchive(
        "zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    (2014, "train"): CocoArchive(
        "zips/train2014.zip", 13_510_573_713, "0da8c0bd3d6becc4dcb32757491aca88"),
    (2014, "val"): CocoArchive(
        "zips/val2014.zip", 6_645_013_297, "a3d79f5ed8d289b7a7554ce06a5782b3"),
}
_ANNOTATIONS = {
    2017: CocoArchive("annotations/annotations_trainval2017.zip", 252_907_541,
                      "f4bbac642086de4f52a3fdda2de5fa2c"),
    2014: CocoArchive("annotations/annotations_trainval2014.zip", 252_872_794,
                      "0a379cfc70b0e71301e0f377548639bd"),
}
# fmt: on
COCO_YEARS = tuple(_ANNOTATIONS)
"""Editions that can be downloaded."""


def missing_archives(root: Path, year: int, splits: Sequence[str]) -> list[CocoArchive]:
    """Return the archives whose content a folder lacks, smallest first.

    Image folders and annotation files are complete if they exist, since ``unzip`` lets them appear
    only as a whole. For the parameters see `download_coco`.

    Raises:
        DataError: There is no such year or split.
    """
    if year not in COCO_YEARS:
        raise DataError(f"year {year}: COCO can be had for {_listed(COCO_YEARS)}")
    unknown = sorted(set(splits) - set(COCO_SPLITS))
    if unknown or not splits:
        raise DataError(f"splits {_listed(unknown)}: give one or both of {_listed(COCO_SPLITS)}")
    chosen = [split for split in COCO_SPLITS if split in splits]
    missing = [_IMAGES[year, split] for split in chosen if not (root / f"{split}{year}").is_dir()]
    annotations = [root / "annotations" / f"instances_{split}{year}.json" for split in chosen]
    if not all(path.is_file() for path in annotations):
        missing.append(_ANNOTATIONS[year])
    return sorted(missing, key=lambda archive: archive.size)


def download_coco(
    root: Path,
    *,
    year: int = 2017,
    splits: Sequence[str] = COCO_SPLITS,
    base_url: str = BASE_URL,
    progress: bool = True,
) -> list[CocoArchive]:
    """Fetch what a folder lacks of COCO into the official layout; return the fetched archives.

    Each archive is downloaded into the folder, verified, unpacked and deleted before the next.
    After an interruption the same call continues.

    Args:
        root: Folder to make; gets ``annotations/``, ``train2017/`` and so on.
        year: 2014 or 2017.
        splits: "train", "val" or both.
        base_url: Server, or a mirror with the same paths and files.
        progress: Show progress bars on stderr.

    Raises:
        DataError: See ``download`` and ``unzip``; also if the disk is too full for everything.
    """
    archives = missing_archives(root, year, splits)
    if not archives:
        return []
    root.mkdir(parents=True, exist_ok=True)
    require_space(root, space_needed(archives), what=f"COCO {year}")
    for archive in archives:
        target = root / archive.name
        download(
            f"{base_url.rstrip('/')}/{archive.path}",
            target,
            Checksum("md5", archive.md5),
            size=archive.size,
            progress=progress,
        )
        unzip(target, root, progress=progress)
        target.unlink()
    return archives


def space_needed(archives: Sequence[CocoArchive]) -> int:
    """Estimate the bytes of disk that unpacking the archives one by one takes at its peak.

    The images are as large as the archives, since JPEG does not compress further.
    """
    sizes = [archive.size for archive in archives]
    return sum(sizes) + max(sizes, default=0)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values) or "none"
