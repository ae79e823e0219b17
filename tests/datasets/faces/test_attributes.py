import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.attributes import CelebAModule, LabelTableModule
from mobilevision.datasets.faces.crops import FaceCrop

OPTIONS = {"size_hw": (40, 32), "batch_size": 4, "num_workers": 0}


def test_celeba_module__batches(drawn_celeba: Path) -> None:
    data = CelebAModule(drawn_celeba, **OPTIONS)
    assert data.categories == {0: "Red_Face", 1: "Wearing_Hat", 2: "Never"}
    assert data.num_classes == 3
    data.setup("fit")
    batches = list(data.val_dataloader())
    assert [len(batch.images) for batch in batches] == [4, 2]
    batch = batches[0]
    assert batch.images.shape == (4, 3, 40, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.dtype == torch.int8
    assert batch.labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    assert batch.ids.tolist() == [0, 1, 2, 3]
    # Eyes 39 px apart at 218 px are 7.16 px apart at 40.
    eyes = batch.landmarks[:, 1, 0] - batch.landmarks[:, 0, 0]
    assert torch.allclose(eyes, torch.tensor(39 * 40 / 218), atol=0.01)
    assert Path(batch.paths[0]).name == "000013.jpg"
    counts = data.datasets["train"].label_counts
    assert counts.tolist() == [[6, 6], [4, 8], [12, 0]]


def test_celeba_module__any_number_of_workers__same_batches(drawn_celeba: Path) -> None:
    runs = []
    for workers in (0, 2):
        data = CelebAModule(drawn_celeba, **(OPTIONS | {"num_workers": workers}), seed=3)
        data.setup("fit")
        runs.append([batch.images for batch in data.train_dataloader()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_celeba_module__chosen_attributes__in_their_order(drawn_celeba: Path) -> None:
    data = CelebAModule(drawn_celeba, attributes=["Never", "Red_Face"], **OPTIONS)
    assert data.categories == {0: "Never", 1: "Red_Face"}
    assert data.read_dataset("val").table.labels[:2].tolist() == [[0, 1], [0, 0]]
    with pytest.raises(DataError, match="has no attributes Moustache; there are Red_Face"):
        _ = CelebAModule(drawn_celeba, attributes=["Moustache"], **OPTIONS).categories


def test_celeba_module__missing_file__named_or_counted(
    drawn_celeba: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(shutil.copytree(drawn_celeba, tmp_path / "celeba"))
    (root / "img_align_celeba" / "000014.jpg").unlink()
    with pytest.raises(DataError, match=r"1 images do not exist: .*000014\.jpg"):
        CelebAModule(root, **OPTIONS).setup("validate")
    data = CelebAModule(root, on_error="skip", **OPTIONS)
    with caplog.at_level("WARNING", logger="lightning.pytorch"):
        data.setup("validate")
    assert len(data.datasets["val"]) == 5
    assert "1 missing files left out" in data.datasets["val"].summary()


def test_celeba_module__broken_image__named_or_replaced(drawn_celeba: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn_celeba, tmp_path / "celeba"))
    (root / "img_align_celeba" / "000013.jpg").write_bytes(b"\xff\xd8no")
    data = CelebAModule(root, **OPTIONS)
    data.setup("validate")
    with pytest.raises(DataError, match=r"000013\.jpg"):
        next(iter(data.val_dataloader()))
    data = CelebAModule(root, on_error="skip", **OPTIONS)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch.ids.tolist()[:2] == [1, 1]
    assert batch.labels[0].tolist() == batch.labels[1].tolist() == [0, 1, 0]
    assert [Path(path).name for path in data.datasets["val"].unreadable] == ["000013.jpg"]


def test_celeba_module__degenerate_landmarks__name_the_file(
    drawn_celeba: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(drawn_celeba, tmp_path / "celeba"))
    path = root / "list_landmarks_align_celeba.txt"
    lines = [line if not line.startswith("000013") else "000013.jpg" + " 5" * 10
             for line in path.read_text().splitlines()]  # fmt: skip
    path.write_text("\n".join(lines))
    data = CelebAModule(root, **OPTIONS)
    data.setup("validate")
    with pytest.raises(DataError, match=r"000013\.jpg: landmarks"):
        next(iter(data.val_dataloader()))


def test_celeba_module__unlabeled_images__only_in_training(
    drawn_celeba: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    (more / "deep").mkdir(parents=True)
    for number in (1, 2):
        source = drawn_celeba / "img_align_celeba" / f"{number:06d}.jpg"
        shutil.copy(source, more / "deep" / f"{number}.jpg")
    data = CelebAModule(drawn_celeba, unlabelled=more, train_transform=FaceCrop((40, 32)),
                        **OPTIONS)  # fmt: skip
    data.setup("fit")
    train = data.datasets["train"]
    assert (len(train), len(data.datasets["val"])) == (14, 6)
    sample = train[13]
    assert sample.labels.tolist() == [-1, -1, -1]
    assert np.isnan(sample.landmarks).all()
    assert train.label_counts.sum() == 36
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no images in it"):
        CelebAModule(drawn_celeba, unlabelled=tmp_path / "none", **OPTIONS).setup("fit")


def test_label_table_module__tables_with_gaps(drawn_celeba: Path, tmp_path: Path) -> None:
    folder = drawn_celeba / "img_align_celeba"
    train = "file,hat,red\n" + "".join(f"{n:06d}.jpg,{n % 3 > 0:d},\n" for n in range(1, 9))
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "val.csv").write_text("file,red,hat\n000009.jpg,1,0\n")
    for name in ("train.csv", "val.csv"):
        text = (tmp_path / name).read_text().replace("0000", f"{folder}/0000")
        (tmp_path / name).write_text(text)
    data = LabelTableModule(tmp_path, **OPTIONS)
    assert data.categories == {0: "hat", 1: "red"}
    data.setup("fit")
    assert data.datasets["train"].label_counts.tolist() == [[2, 6], [0, 0]]
    assert next(iter(data.val_dataloader())).labels.tolist() == [[0, 1]]
    data.setup("test")  # takes the validation split
    assert len(data.datasets) == 2


def test_label_table_module__split_lacks_an_attribute__named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("file,hat,red\na.jpg,1,0\n")
    (tmp_path / "val.csv").write_text("file,hat\nb.jpg,1\n")
    with pytest.raises(DataError, match=r"val\.csv: has the columns file, hat; it lacks red"):
        LabelTableModule(tmp_path, **OPTIONS).setup("validate")


def test_module__transform_of_another_size__refused(drawn_celeba: Path) -> None:
    with pytest.raises(DataError, match=r"FaceCrop makes images of \(80, 64\)"):
        CelebAModule(drawn_celeba, val_transform=FaceCrop((80, 64)), **OPTIONS)


def test_module__unknown_split__named(drawn_celeba: Path) -> None:
    with pytest.raises(DataError, match="there is no holdout split"):
        CelebAModule(drawn_celeba, **OPTIONS).table_of("holdout")
