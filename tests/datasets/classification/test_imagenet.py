from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mobilevision.datasets.classification.imagenet import GROUND_TRUTH, ImageNetModule
from mobilevision.datasets.errors import DataError

# Numbers of the development kit, in another order than the WordNet ids.
SYNSETS = [
    (1, "n02119789", "kit fox, Vulpes macrotis"),
    (2, "n01440764", "tench, Tinca tinca"),
    (3, "n02012849", "crane"),
    (4, "n03126707", "crane"),
    (5, "n00001740", "entity"),  # inner nodes follow after the classes
]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (9, 9, 9)).save(path, format="JPEG")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    for _, wordnet_id, _ in SYNSETS[:4]:
        write_image(tmp_path / f"ILSVRC2012_img_train/{wordnet_id}/{wordnet_id}_7.JPEG")
    for number in (1, 2, 3):
        write_image(tmp_path / f"ILSVRC2012_img_val/ILSVRC2012_val_{number:08}.JPEG")
    devkit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    devkit.mkdir(parents=True)
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    records = np.array([[(*row, 0)] for row in SYNSETS], dtype=fields)
    savemat(devkit / "meta.mat", {"synsets": records})
    (devkit / GROUND_TRUTH).write_text("2\n4\n1\n")
    return tmp_path


def test_flat_validation__goes_through_the_kit_to_wordnet_order(imagenet: Path) -> None:
    module = ImageNetModule(imagenet)
    assert module.wordnet_ids == ["n01440764", "n02012849", "n02119789", "n03126707"]
    assert list(module.categories.values()) == [
        "tench", "crane (n02012849)", "kit fox", "crane (n03126707)",
    ]  # fmt: skip
    assert module.num_classes == 4
    table = module.read_table("val")
    assert table.labels.tolist() == [0, 3, 2]
    assert [Path(path).name[-6] for path in table.paths] == ["1", "2", "3"]
    assert module.read_table("train").labels.tolist() == [0, 1, 2, 3]


def test_validation__in_class_folders_and_names_from_a_list(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for wordnet_id in ("n01440764", "n02119789"):
            write_image(tmp_path / split / wordnet_id / "x.JPEG")
    (tmp_path / "synset_words.txt").write_text("n01440764 tench, Tinca\nn02119789 kit fox\n")
    module = ImageNetModule(tmp_path)
    assert module.categories == {0: "tench", 1: "kit fox"}
    assert module.read_table("val").labels.tolist() == [0, 1]


def test_faults__are_named(imagenet: Path, tmp_path: Path) -> None:
    truth = imagenet / "ILSVRC2012_devkit_t12" / "data" / GROUND_TRUTH
    truth.write_text("2\n4\n")
    with pytest.raises(DataError, match=r"3 images, and .* has 2 lines"):
        ImageNetModule(imagenet).read_table("val")
    truth.write_text("2\n4\n5\n")
    with pytest.raises(DataError, match=r"has no training folder"):
        ImageNetModule(imagenet).read_table("val")
    truth.unlink()
    with pytest.raises(DataError, match=r"Unpack ILSVRC2012_devkit_t12"):
        ImageNetModule(imagenet).read_table("val")
    with pytest.raises(DataError, match=r"image-net.org"):
        ImageNetModule(tmp_path / "absent")


def test_meta__that_is_no_matlab_file(imagenet: Path) -> None:
    (imagenet / "ILSVRC2012_devkit_t12/data/meta.mat").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"not a MATLAB file"):
        ImageNetModule(imagenet).categories  # noqa: B018
