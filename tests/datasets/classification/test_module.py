import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from albumentations import HueSaturationValue
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torchvision.transforms import v2

from mobilevision.datasets.classification.image_folder import (
    CsvModule,
    ImageFolderModule,
    class_folders,
    read_image_folder,
)
from mobilevision.datasets.classification.module import (
    ClassificationDataset,
    FileTable,
    collate_classification,
)
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.sampling import SampleKey
from mobilevision.datasets.transforms.classification import (
    CenterCrop,
    PadCrop,
    RandomCrop,
    WholeImage,
)

RNG = np.random.default_rng


def write_image(path: Path, size_hw: tuple[int, int] = (40, 60), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size_hw[1], size_hw[0])).save(path, quality=95)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train and val with the classes cat, dog and eel; seven and two images of each."""
    seeds = itertools.count()
    for split, count in (("train", 7), ("val", 2)):
        for name in ("cat", "dog", "eel"):
            for number in range(count):
                write_image(tmp_path / split / name / f"{number}.jpg", seed=next(seeds))
    return tmp_path


# --- transforms


def test_center_crop__takes_the_middle() -> None:
    pixels = np.zeros((80, 160, 3), np.uint8)
    pixels[10:70, 50:110] = 200  # 60 of 80 px, the central three quarters of the largest square

    class Fixed(ImageFile):
        def read(self, reduce: int = 1) -> np.ndarray:  # noqa: ARG002
            return pixels

    out = CenterCrop((30, 30), fraction=0.75)(Fixed("x"), RNG(0))
    assert out.shape == (30, 30, 3)
    assert (out[1:-1, 1:-1] == 200).all()  # antialiasing reaches a pixel further
    wider = CenterCrop((32, 32), fraction=1.0)(Fixed("x"), RNG(0))
    assert wider[0, 0, 0] == 0
    assert wider[16, 16, 0] == 200


def test_center_crop__of_224_is_resize_256_and_crop_224(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    ramp = np.linspace(0, 255, 512, dtype=np.uint8)
    Image.fromarray(np.repeat(np.tile(ramp, (512, 1))[..., None], 3, 2)).save(path)
    ours = CenterCrop((224, 224))(ImageFile(path), RNG(0))
    theirs = v2.CenterCrop(224)(v2.Resize(256)(Image.open(path)))
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1


def test_random_crop__same_generator_same_pixels_and_other_generators_others(
    tmp_path: Path,
) -> None:
    path = write_image(tmp_path / "x.jpg", (120, 90))
    crop = RandomCrop(
        (32, 48), photometric=HueSaturationValue(p=1.0), operations=[v2.RandAugment()]
    )
    state = torch.get_rng_state()
    first, again, other = (crop(ImageFile(path), RNG(seed)) for seed in (3, 3, 4))
    assert first.shape == (32, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state), "torch's generator belongs to the training"


def test_random_crop__draws_within_its_ranges() -> None:
    crop = RandomCrop((50, 50), area=(0.2, 0.5), aspect=(0.8, 1.25))
    rng = RNG(0)
    for _ in range(300):
        left, top, right, bottom = crop._draw((200, 240), rng)
        assert 0 <= left < right <= 240
        assert 0 <= top < bottom <= 200
        assert 0.2 - 1e-9 <= (right - left) * (bottom - top) / (200 * 240) <= 0.5 + 1e-9
        assert 0.8 - 1e-9 <= (right - left) / (bottom - top) <= 1.25 + 1e-9


def test_random_crop__of_a_strip_falls_back_to_its_middle() -> None:
    left, top, right, bottom = RandomCrop((50, 50), area=(0.9, 1.0))._draw((10, 1000), RNG(0))
    assert (top, bottom) == (0, 10)
    assert (right - left, left) == pytest.approx((10 * 4 / 3, (1000 - 10 * 4 / 3) / 2))


def test_random_crop__decodes_no_larger_than_needed(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.jpg", (400, 400))
    asked: list[int] = []

    class Spy(ImageFile):
        def read(self, reduce: int = 1) -> np.ndarray:
            asked.append(reduce)
            return super().read(reduce)

    RandomCrop((96, 96), area=(1.0, 1.0), aspect=(1.0, 1.0))(Spy(path), RNG(0))
    RandomCrop((210, 210), area=(1.0, 1.0), aspect=(1.0, 1.0))(Spy(path), RNG(0))
    assert asked == [4, 1]


def test_random_crop__operations_that_change_the_form_are_named(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.jpg")
    crop = RandomCrop((32, 32), operations=[v2.ToDtype(torch.float32)])
    with pytest.raises(DataError, match=r"x.jpg.*leave out"):
        crop(ImageFile(path), RNG(0))


def test_pad_crop__moves_by_at_most_the_padding(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (32, 32), (255, 255, 255)).save(path)
    crop = PadCrop(padding=4, flip_p=0.0)
    shares = {float((crop(ImageFile(path), RNG(seed)) > 0).mean()) for seed in range(40)}
    assert min(shares) >= (28 / 32) ** 2
    assert len(shares) > 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: CenterCrop((0, 4)),
        lambda: CenterCrop((4, 4), 0.0),
        lambda: RandomCrop((4, 4), area=(0.0, 1.0)),
        lambda: RandomCrop((4, 4), aspect=(2.0, 1.0)),
        lambda: PadCrop(padding=-1),
        lambda: WholeImage((4, 0)),
    ],
)
def test_transforms__options_out_of_range(make) -> None:
    with pytest.raises(DataError, match=r"out of its range"):
        make()


# --- folders and tables


def test_image_folder__classes_by_name_and_images_in_order(folders: Path) -> None:
    (folders / "train" / "dog" / "notes.txt").write_text("no image")
    (folders / "train" / ".cache").mkdir()
    module = ImageFolderModule(folders, size_hw=(32, 32), num_workers=0, batch_size=4)
    assert module.categories == {0: "cat", 1: "dog", 2: "eel"}
    assert module.num_classes == 3
    table = module.read_table("train")
    assert table.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert table.paths == sorted(table.paths)
    batch = next(iter(module.val_dataloader()))
    assert batch.images.shape == (4, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [0, 0, 1, 1]
    assert batch.ids.tolist() == [0, 1, 2, 3]
    assert batch.paths[2].endswith("val/dog/0.jpg")


def test_image_folder__a_class_of_the_validation_that_training_lacks(folders: Path) -> None:
    write_image(folders / "val" / "fox" / "0.jpg")
    module = ImageFolderModule(folders)
    with pytest.raises(DataError, match=r"fox are none of the 3 classes"):
        module.read_table("val")


def test_image_folder__split_by_fraction_is_stratified_and_repeatable(folders: Path) -> None:
    def split(seed: int) -> tuple[FileTable, FileTable]:
        module = ImageFolderModule(folders, val_fraction=0.3, split_seed=seed)
        return module.read_table("train"), module.read_table("val")

    train, val = split(0)
    assert set(train.paths).isdisjoint(val.paths)
    assert len(set(train.paths) | set(val.paths)) == 21
    assert np.bincount(val.labels).tolist() == [2, 2, 2]
    assert split(0)[1].paths == val.paths
    assert split(1)[1].paths != val.paths
    with pytest.raises(DataError, match=r"between 0 and 1"):
        ImageFolderModule(folders, val_fraction=1.5).read_table("train")


def test_class_folders__absent_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder"):
        class_folders(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no folders"):
        class_folders(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"no images"):
        read_image_folder(tmp_path, ["cat"])


def test_csv__names_or_numbers_and_unknown_labels(folders: Path) -> None:
    rows = ["file,label,who", "train/cat/0.jpg,cat,x", "train/eel/1.jpg,eel,y"]
    (folders / "train.csv").write_text("\n".join(rows))
    (folders / "val.csv").write_text("file,label\nval/eel/0.jpg,eel\nval/dog/0.jpg,\n")
    module = CsvModule(folders, size_hw=(16, 16))
    assert module.categories == {0: "cat", 1: "eel"}
    table = module.read_table("val")
    assert table.labels.tolist() == [1, -1]
    assert Path(table.paths[0]) == folders / "val" / "eel" / "0.jpg"
    (folders / "numbers.csv").write_text("file,label\na.jpg,10\nb.jpg,2\n")
    assert CsvModule(folders, train="numbers.csv").num_classes == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.jpg,fox\n", "line 2: 'fox' is none of 2"),
        ("file,label\na.jpg,cat\na.jpg,cat\n", "line 3: a.jpg twice"),
        ("file,label\n,cat\n", "line 2: no file"),
        ("path,label\na.jpg,cat\n", "wanted are file and label"),
        ("file,label\n", "no rows"),
    ],
)
def test_csv__faults_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "val.csv").write_text(text)
    module = CsvModule(tmp_path, categories={0: "cat", 1: "dog"})
    with pytest.raises(DataError, match=message):
        module.read_table("val")


def test_module__transform_of_another_size(folders: Path) -> None:
    with pytest.raises(DataError, match=r"Give both the same"):
        ImageFolderModule(folders, size_hw=(64, 64), val_transform=CenterCrop((32, 32)))


# --- broken images


def test_broken_image__is_named_or_replaced_and_counted(folders: Path) -> None:
    victim = folders / "train" / "cat" / "6.jpg"
    victim.write_bytes(b"broken")
    module = ImageFolderModule(folders, size_hw=(16, 16))
    table = module.read_table("train")
    with pytest.raises(DataError, match=r"6.jpg"):
        ClassificationDataset(table, WholeImage((16, 16)))[6]
    lenient = ClassificationDataset(table, WholeImage((16, 16)), on_error="skip")
    sample = lenient[6]
    assert (sample.position, sample.label) == (7, 1), "the next image, with its own label"
    assert lenient.unreadable == [str(victim)]


# --- order and resume


def test_augmentation__depends_on_seed_epoch_and_position_alone(folders: Path) -> None:
    table = ImageFolderModule(folders).read_table("train")
    one, two = (ClassificationDataset(table, RandomCrop((16, 16)), seed=5) for _ in range(2))
    _ = [two[position] for position in range(6)]
    assert np.array_equal(one[SampleKey(3, 2)].image, two[SampleKey(3, 2)].image)
    assert not np.array_equal(one[SampleKey(3, 2)].image, one[SampleKey(3, 1)].image)


class Recorder(LightningModule):
    """Keeps what it is trained on."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[list[int], int]] = []
        self.stop_after = stop_after

    def training_step(self, batch, batch_idx):  # noqa: ARG002
        self.seen.append((batch.ids.tolist(), int(batch.images.long().sum())))
        if len(self.seen) == self.stop_after:
            self.trainer.save_checkpoint(self.trainer.default_root_dir + "/mid.ckpt")
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_resume__in_the_middle_of_an_epoch_sees_the_same_images(
    folders: Path, tmp_path: Path
) -> None:
    def run(stop_after: int | None, ckpt: Path | None) -> Recorder:
        module = ImageFolderModule(folders, size_hw=(16, 16), batch_size=4, num_workers=0, seed=3)
        recorder = Recorder(stop_after)
        trainer = Trainer(
            default_root_dir=tmp_path / "run", max_epochs=3, logger=False, accelerator="cpu",
            enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(recorder, module, ckpt_path=ckpt, weights_only=True)
        return recorder

    whole = run(7, None).seen
    assert len(whole) == 15
    resumed = run(None, tmp_path / "run" / "mid.ckpt").seen
    # The checkpoint was written inside step 7, before that step counted.
    assert resumed == whole[6:]


def test_collate__keeps_order() -> None:
    table = FileTable("x", ["a"], np.array([2]))
    assert table.image(0).path == Path("a")
    with pytest.raises(ValueError, match=r"not enough values"):
        collate_classification([])
