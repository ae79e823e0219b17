import hashlib
from pathlib import Path

import numpy as np
import pytest

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.synthetic.classification import (
    SyntheticClassificationModule,
    write_objects,
)
from mobilevision.datasets.synthetic.scenes import CLASS_NAMES, draw_object


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.*"))
    }


def write(root: Path, **changes: object) -> bool:
    options = {"train": 16, "val": 8, "size_hw": (64, 72), "progress": False} | changes
    return write_objects(root, **options)  # type: ignore[arg-type]


def test_write_objects__same_parameters_same_bytes_and_classes_in_turns(tmp_path: Path) -> None:
    assert write(tmp_path / "a")
    assert not write(tmp_path / "a")
    write(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    for name in CLASS_NAMES:
        assert len(list((tmp_path / "a" / "train" / name).iterdir())) == 2
        assert len(list((tmp_path / "a" / "val" / name).iterdir())) == 1
    train, val = (
        {digest for name, digest in digests(tmp_path / "a").items() if name.startswith(split)}
        for split in ("train", "val")
    )
    assert len(train | val) == 24, "no image twice"


def test_write_objects__another_folder_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(DataError, match="other parameters"):
        write(tmp_path / "a", seed=1)
    with pytest.raises(DataError, match="at least 1 image"):
        write(tmp_path / "b", val=0)
    assert not (tmp_path / "b").exists()


def test_draw_object__shows_its_class() -> None:
    # The same state but for the class: images differ, and in the middle of the background's.
    images = [
        draw_object(np.random.default_rng(4), label, (64, 64)) for label in range(len(CLASS_NAMES))
    ]
    assert all(image.shape == (64, 64, 3) for image in images)
    for label, image in enumerate(images[1:]):
        assert np.abs(image.astype(int) - images[label]).mean() > 1


def test_module__knows_its_classes_before_the_images_are_there(tmp_path: Path) -> None:
    module = SyntheticClassificationModule(
        tmp_path / "d", train_pictures=16, val_pictures=8, size_hw=(64, 64), num_workers=0
    )
    assert tuple(module.categories.values()) == CLASS_NAMES
    assert not (tmp_path / "d").exists()
    module.prepare_data()
    (batch,) = module.val_dataloader()
    assert batch.labels.tolist() == list(range(8))
