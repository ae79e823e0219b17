"""Shards: read by WebDataset, and every photo once whatever reads them."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from mobilevision.datasets.errors import DataError
from mobilevision.datasets.geolocation.coordinates import PositionTable
from mobilevision.datasets.geolocation.module import ShardedPhotoModule, ShardedPhotos, ShardSampler
from mobilevision.datasets.geolocation.shards import index_shards, read_index, write_shards
from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.sampling import Progress
from mobilevision.datasets.transforms.classification import WholeImage

COUNT = 23


@pytest.fixture
def table(tmp_path: Path) -> PositionTable:
    rng = np.random.default_rng(0)
    files = [f"set.a/{number:02d}.{'png' if number % 5 == 0 else 'jpg'}" for number in range(COUNT)]
    (tmp_path / "set.a").mkdir()
    for file in files:
        pixels = rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((39, 27)).save(tmp_path / file)
    positions = np.stack([rng.uniform(-90, 90, COUNT), rng.uniform(-180, 180, COUNT)], axis=1)
    return PositionTable("photos", files, positions)


def shard(table: PositionTable, tmp_path: Path, **options) -> Path:
    write_shards(table, tmp_path, tmp_path / "out", 5, progress=False, **options)
    return tmp_path / "out"


def test_write__read_by_webdataset__same_bytes_and_positions(table, tmp_path: Path) -> None:
    out = shard(table, tmp_path)
    shards = sorted(str(path) for path in out.glob("*.tar"))
    assert len(shards) == 5
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert len(samples) == COUNT
    for row, sample in enumerate(samples):
        meta = json.loads(sample["json"])
        assert meta["file"] == table.files[row]
        assert (meta["latitude"], meta["longitude"]) == tuple(table.latlng_deg[row])
        image = sample.get("jpg") or sample.get("png")
        assert image == (tmp_path / table.files[row]).read_bytes()


def test_index__of_shards_that_webdataset_wrote__same_photos(table, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    pattern = str(tmp_path / "theirs" / "x-%03d.tar")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as writer:
        for row, file in enumerate(table.files):
            latitude, longitude = table.latlng_deg[row].tolist()
            writer.write(
                {
                    "__key__": f"{row:05d}",
                    Path(file).suffix[1:]: (tmp_path / file).read_bytes(),
                    "json": {"latitude": latitude, "longitude": longitude},
                }
            )
    index = read_index(tmp_path / "theirs")
    assert len(index.files) == COUNT
    assert np.array_equal(index.latlng_deg, table.latlng_deg)
    photos = ShardedPhotos(index, "theirs")
    for row in (0, 6, 7, COUNT - 1):
        assert np.array_equal(
            photos.image(row).read(), ImageFile(tmp_path / table.files[row]).read()
        )


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_image__as_the_file_itself(table, tmp_path: Path, reduce: int) -> None:
    photos = ShardedPhotos(read_index(shard(table, tmp_path)), "x")
    for row in (0, 1):
        ours, file = photos.image(row), ImageFile(tmp_path / table.files[row])
        assert ours.size_hw == file.size_hw == (27, 39)
        difference = ours.read(reduce).astype(int) - file.read(reduce)
        assert np.abs(difference).max() <= 1


@pytest.mark.real_data
@pytest.mark.parametrize("number", range(1, 9))
def test_image__with_exif_rotation__upright(tmp_path: Path, real_data: Path, number: int) -> None:
    folder = real_data / "odd" / "orientation"
    table = PositionTable("x", [f"landscape_{number}.jpg"], np.zeros((1, 2)))
    write_shards(table, folder, tmp_path, progress=False)
    image = ShardedPhotos(read_index(tmp_path), "x").image(0)
    file = ImageFile(folder / table.files[0])
    assert image.size_hw == file.size_hw
    assert np.abs(image.read(2).astype(int) - file.read(2)).mean() < 2


def test_write__again__same_bytes_and_finished_shards_stay(table, tmp_path: Path) -> None:
    out = shard(table, tmp_path)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.tar")}
    broken = out / "photos-000002.tar"
    broken.write_bytes(broken.read_bytes()[:700])  # as a killed copy leaves it
    shard(table, tmp_path)
    for name, (data, changed) in before.items():
        assert (out / name).read_bytes() == data
        assert ((out / name).stat().st_mtime_ns == changed) == (name != broken.name)


def test_write__missing_and_empty_files__told_or_left_out(table, tmp_path: Path) -> None:
    (tmp_path / table.files[3]).unlink()
    (tmp_path / table.files[9]).write_bytes(b"")
    with pytest.raises(DataError, match=r"03\.jpg: no such file"):
        shard(table, tmp_path)
    index, missing = write_shards(table, tmp_path, tmp_path / "out", 5, True, progress=False)
    assert missing == [table.files[3], table.files[9]]
    assert len(index.files) == COUNT - 2


def test_read_index__shard_changed_or_gone__says_so(table, tmp_path: Path) -> None:
    out = shard(table, tmp_path)
    (out / "photos-000001.tar").unlink()
    with pytest.raises(DataError, match=r"photos-000001\.tar: absent"):
        read_index(out)
    (out / "index.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="not an index of shards"):
        read_index(out)
    with pytest.raises(DataError, match="no shards with photos"):
        index_shards(tmp_path / "set.a")


def test_index__json_without_a_position__says_which(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "k", "jpg": b"x", "json": {"latitude": 3}})
    with pytest.raises(DataError, match="the JSON of k has no latitude and longitude"):
        read_index(tmp_path)


# --- the order of training, by counting


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 100])
def test_sampler__all_processes_together__every_photo_once(world_size: int, window: int) -> None:
    shard_of = np.repeat(np.arange(6), [5, 1, 7, 5, 2, 4])
    seen: Counter[int] = Counter()
    for rank in range(world_size):
        sampler = ShardSampler(shard_of, window, seed=3, rank=rank, world_size=world_size)
        seen.update(key.position for key in sampler)
    assert set(seen) == set(range(24))
    assert sum(seen.values()) - 24 == -24 % world_size  # padding only


def test_sampler__order__depends_on_seed_and_epoch_and_stays_in_windows() -> None:
    shard_of = np.repeat(np.arange(10), 20)
    sampler = ShardSampler(shard_of, window=2, seed=1)
    first, again, later = sampler.order(0), sampler.order(0), sampler.order(1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, ShardSampler(shard_of, 2, seed=2).order(0))
    for start in range(0, 200, 40):
        assert len(np.unique(shard_of[first[start : start + 40]])) == 2
    assert not np.array_equal(np.sort(first[:40]), first[:40])


@pytest.mark.parametrize("taken", [0, 1, 7, 12])
def test_sampler__resumed__goes_on_where_it_was_left(taken: int) -> None:
    shard_of = np.repeat(np.arange(6), 4)
    whole = list(ShardSampler(shard_of, 2, 5, lambda: Progress(2), rank=1, world_size=2))
    rest = list(ShardSampler(shard_of, 2, 5, lambda: Progress(2, taken), rank=1, world_size=2))
    assert rest == whole[taken:]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_loader__any_number_of_workers__same_photos_in_the_same_order(
    table, tmp_path: Path, workers: int
) -> None:
    out = shard(table, tmp_path)
    data = ShardedPhotoModule(
        tmp_path, train=out.name, val=out.name, size_hw=(32, 32), window=2, batch_size=4, seed=9,
        num_workers=workers, train_transform=WholeImage((32, 32)),
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    data.setup("fit")
    assert data.train_sampler is not None
    loader: DataLoader = data.loader(data.datasets["train"], sampler=data.train_sampler)
    seen = [path for batch in loader for path in batch.paths]
    expected = ShardSampler(read_index(out).shard, 2, 9).order(0)
    assert seen == [table.files[row] for row in expected]
    positions = np.concatenate([batch.latlng_deg.numpy() for batch in loader])
    assert len(positions) == COUNT


def test_image__broken_in_the_shard__named(table, tmp_path: Path) -> None:
    (tmp_path / table.files[2]).write_bytes(b"not an image")
    photos = ShardedPhotos(read_index(shard(table, tmp_path)), "x")
    with pytest.raises(
        DataError,
        match=r"photos-000000\.tar:set\.a/02\.jpg: not an image.*Write the shard again",
    ):
        photos.image(2).read()


def test_image__bytes__are_those_of_the_file(table, tmp_path: Path) -> None:
    index = read_index(shard(table, tmp_path))
    row = 11
    with (index.folder / index.shards[int(index.shard[row])]).open("rb") as file:
        file.seek(int(index.offset[row]))
        data = file.read(int(index.length[row]))
    assert io.BytesIO(data).read() == (tmp_path / table.files[row]).read_bytes()


def test_read_index__photos_outside_their_shards__are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    arrays = {
        "shards": np.array(["a.tar"]), "sizes": np.array([100]), "files": np.array(["a.jpg"]),
        "latlng_deg": np.zeros((1, 2)), "shard": np.array([0]), "offset": np.array([10]),
    }  # fmt: skip
    np.savez(tmp_path / "index.npz", **arrays, length=np.array([90]))
    assert read_index(tmp_path).length.tolist() == [90]
    for length in (np.array([91]), np.array([-1]), np.array([9, 9]), np.array([9.0])):
        np.savez(tmp_path / "index.npz", **arrays, length=length)
        with pytest.raises(DataError, match=r"index\.npz: not an index of shards"):
            read_index(tmp_path)
