"""Small valid files of every kind that strangers hand over, and the readers of the package."""

import csv
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import torch
from PIL import Image, ImageDraw
from pyarrow import parquet
from safetensors.torch import save_file
from scipy.io import savemat

from mobilevision.apps.batch.inputs import InputFile
from mobilevision.apps.batch.runner import Job, Listed, Made, run_over_files
from mobilevision.apps.batch.videos import Video, mp4_writer
from mobilevision.apps.callbacks.world_map import read_coastline
from mobilevision.apps.commands.evaluate import evaluate_coco
from mobilevision.apps.costs.tradeoff import read_results
from mobilevision.apps.faces.gallery import GalleryMetadata, read_metadata, write_metadata
from mobilevision.apps.importing import read_labels
from mobilevision.apps.inference.exported_program import read_checked
from mobilevision.apps.inference.runtime import ModelMetadata, open_runtime
from mobilevision.backbone import MobileNetV1
from mobilevision.backbone.weights.converters import _layers as timm_layers
from mobilevision.backbone.weights.converters import slim_layers
from mobilevision.backbone.weights.formats import read_state_dict
from mobilevision.backbone.weights.loading import load_pretrained, load_weights, read_public
from mobilevision.datasets.classification.cifar import (
    NAMES_FILE,
    RECORD_BYTES,
    TEST_FILES,
    TRAIN_FILES,
    CifarModule,
)
from mobilevision.datasets.classification.image_folder import CsvModule
from mobilevision.datasets.classification.imagenet import DEVKIT, GROUND_TRUTH, ImageNetModule
from mobilevision.datasets.classification.stanford_dogs import StanfordDogsModule
from mobilevision.datasets.data_errors import OnError
from mobilevision.datasets.detection.coco import read_coco
from mobilevision.datasets.detection.image_checks import fit_to_images
from mobilevision.datasets.detection.layout import ReadOptions, find_layout, read_ids
from mobilevision.datasets.detection.voc import find_voc, read_voc
from mobilevision.datasets.download import extract_file, unzip
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.datasets.faces.labels import LANDMARK_COLUMNS, read_label_table
from mobilevision.datasets.faces.pairs import read_pairs
from mobilevision.datasets.faces.wider_face import read_boxes, read_landmarks
from mobilevision.datasets.geolocation.cells import read_partitions
from mobilevision.datasets.geolocation.coordinates import (
    CellTable,
    PositionTable,
    read_positions,
    write_cell_table,
    write_positions,
)
from mobilevision.datasets.geolocation.exif import exif_position
from mobilevision.datasets.geolocation.module import ShardedPhotos
from mobilevision.datasets.geolocation.shards import index_shards, read_index, write_shards
from mobilevision.datasets.images import ImageFile
from mobilevision.datasets.synthetic.generated import RECIPE_NAME, write_generated
from mobilevision.datasets.vectors import VectorTable, read_vectors, write_vectors
from mobilevision.heads.detection.weights import read_detector
from mobilevision.heads.face_embedding.teachers import read_view_table

from ..backbone.weights.tensorflow_files import write_bundle
from ..backbone.weights.test_tflite import CONV, DEPTHWISE, Constant, Convolution, write_tflite
from ..heads.detection import tensorflow_graphs as graphs

WIDTH = 1 / 32
"""Of backbones: the least that a weight file may have."""


class Kind(NamedTuple):
    """Files of one sort and their readers."""

    write: Callable[[Path], object]
    """Writes valid files into a folder."""
    read: Sequence[Callable[[Path], object]]
    """Each reads the folder in a way of its own."""
    spared: str = ""
    """Files whose path has this in it stay whole, as damage to them has a kind of its own."""


KINDS: dict[str, Kind] = {}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def draw(path: Path, size_wh: tuple[int, int] = (40, 30), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size_wh, (200, 180, 90))
    ImageDraw.Draw(image).ellipse((5, 5, 25, 20), (20, 60, 190))
    image.save(path, **options)


# --- detection

VOC_XML = """<?xml version="1.0" encoding="UTF-8"?>
<annotation><folder>a</folder><filename>{name}.png</filename>
<source><database>The VOC2007 Database</database></source>
<size><width>40</width><height>30</height><depth>3</depth></size><segmented>0</segmented>
<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>22.5</ymax></bndbox></object>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>
</object></annotation>
"""


def write_voc(folder: Path) -> None:
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b c"):
        (folder / "Annotations" / f"{name}.xml").write_text(VOC_XML.format(name=name))
        draw(folder / "JPEGImages" / f"{name}.png")
    (folder / "ImageSets/Main/train.txt").write_text("a 1\nb c -1\n")


def voc(folder: Path, **options: Any) -> None:
    annotations = fit_to_images(
        read_voc(find_voc(folder, {"train": ["train"]})["train"], **options)
    )
    assert annotations.summary()
    assert annotations.ground_truth


def write_yolo(folder: Path) -> None:
    for name in ("a", "b c"):
        draw(folder / "images/train" / f"{name}.png")
        (folder / "labels/train").mkdir(parents=True, exist_ok=True)
        (folder / "labels/train" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.25\n1 0 0 1 0 0 1\n")
    (folder / "data.yaml").write_text("train: [images/train]\nnames: {0: cat, 1: dog}\nnc: 2\n")


def write_darknet(folder: Path) -> None:
    write_yolo(folder)
    (folder / "data.yaml").unlink()
    (folder / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n"
    )
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "train.txt").write_text("data/images/train/a.png\ndata/images/train/b c.png\n")


def yolo(folder: Path, on_error: OnError) -> None:
    annotations = find_layout(folder).read("train", None, ReadOptions(on_error, "background"))
    assert fit_to_images(annotations).ground_truth


for name, write in (("yolo", write_yolo), ("darknet", write_darknet)):
    readers = tuple(partial(yolo, on_error=on_error) for on_error in ("raise", "skip"))
    KINDS[name] = Kind(write, readers, ".png")

KINDS["voc"] = Kind(
    write_voc,
    (voc, partial(voc, on_error="skip"), partial(voc, categories={5: "dog", 6: "cat"})),
    ".png",
)

COCO = {
    "info": {"year": 2017},
    "images": [
        {"id": 7, "file_name": "images/a.png", "height": 30, "width": 40},
        {"id": 9, "file_name": "b.png"},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 3,
            "bbox": [1, 2.5, 10, 12],
            "area": 100.5,
            "iscrowd": 0,
            "segmentation": [[1, 2, 3, 4, 5, 6]],
        },
        {"id": 2, "image_id": 9, "category_id": 18, "bbox": ["1", "2", "3", "4"], "iscrowd": 1},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}],
}


def write_coco(folder: Path) -> None:
    write_json(folder / "coco.json", COCO)
    write_json(folder / "ids.json", [7, 9])
    (folder / "ids.txt").write_text("7\n9\n")
    draw(folder / "images/a.png")
    draw(folder / "b.png")


def coco(folder: Path, **options: Any) -> None:
    annotations = read_coco(folder / "coco.json", folder, **options)
    assert annotations.summary()
    assert fit_to_images(annotations).ground_truth


KINDS["coco"] = Kind(
    write_coco,
    (
        coco,
        partial(coco, on_error="skip"),
        partial(coco, categories={18: "dog"}),
        lambda folder: read_ids(folder / "ids.json"),
        lambda folder: read_ids(folder / "ids.txt"),
    ),
    ".png",
)


def write_results(folder: Path) -> None:
    boxes = [{**each, "bbox": [1, 2, 10, 12], "iscrowd": 0} for each in COCO["annotations"]]
    write_json(folder / "truth.json", {**COCO, "annotations": boxes})
    write_json(
        folder / "results.json",
        [
            {"image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 12.5], "score": 0.9},
            {"image_id": 9, "category_id": 18, "bbox": [1, 2, 10, 12], "score": 0.25},
        ],
    )


KINDS["coco-results"] = Kind(
    write_results, (lambda f: evaluate_coco(f / "truth.json", f / "results.json", json=True),)
)

# --- images


def write_images(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 24.0)}
    for suffix in ("jpg", "png", "webp"):
        draw(folder / f"a.{suffix}", exif=exif.tobytes())
    draw(folder / "b.jpg", progressive=True, quality=30)
    draw(folder / "b.tif", compression="tiff_lzw")
    for suffix in ("gif", "bmp", "ppm"):
        draw(folder / f"b.{suffix}")


def images(folder: Path, reduce: int) -> None:
    for path in sorted(folder.iterdir()):
        assert ImageFile(path).read(reduce).size


KINDS["pictures"] = Kind(
    write_images,
    (
        partial(images, reduce=1),
        partial(images, reduce=4),
        lambda folder: [exif_position(path) for path in folder.iterdir()],
    ),
)


def write_video(folder: Path) -> None:
    with mp4_writer(folder / "v.mp4", 5.0) as video:
        for shade in range(0, 200, 40):
            video.write(np.full((32, 48, 3), shade, np.uint8))


KINDS["video"] = Kind(
    write_video, (lambda f: [frame.read() for frame in Video(f / "v.mp4").frames()],)
)

# --- faces


def write_pairs(folder: Path) -> None:
    (folder / "pairs.txt").write_text("2\t1\nAnn\t1\t2\nAnn\t1\tBo\t1\nBo\t1\t2\nBo\t2\tAnn\t2\n")


FACES = [f"{name}/{name}_000{number}.jpg" for name in ("Ann", "Bo") for number in (1, 2)]
KINDS["pairs"] = Kind(write_pairs, (lambda folder: read_pairs(folder / "pairs.txt", FACES),))

CELEBA = {
    "list_attr_celeba": [
        "3",
        "Hat Young",
        "000001.jpg  1 -1",
        "000002.jpg -1 -1",
        "000003.jpg 1 1",
    ],
    "list_eval_partition": ["000001.jpg 0", "000002.jpg 1", "000003.jpg 2"],
    "identity_CelebA": ["000001.jpg 7", "000002.jpg 7", "000003.jpg 30"],
    "list_landmarks_align_celeba": ["3", " ".join("abcdefghij")]
    + [f"00000{number}.jpg 69 109 106 113 77 142 73 152 108 154" for number in (1, 2, 3)],
}


def write_celeba(folder: Path, suffix: str) -> None:
    (folder / "img_align_celeba").mkdir()
    (folder / "img_align_celeba/keep").touch()
    for name, lines in CELEBA.items():
        if suffix == ".csv":
            counted = lines[0].isdecimal()
            heading = lines[1] if counted else "partition"
            rows = [f"image_id {heading}", *(lines[2:] if counted else lines)]
            lines = [",".join(row.split()) for row in rows]  # noqa: PLW2901
        (folder / f"{name}{suffix}").write_text("\n".join(lines) + "\n")


def celeba(folder: Path) -> None:
    found = read_celeba(folder)
    for split in ("train", "val", "test"):
        assert found.split(split).paths


for suffix in (".txt", ".csv"):
    KINDS[f"celeba{suffix}"] = Kind(partial(write_celeba, suffix=suffix), (celeba,), "keep")


def write_labels(folder: Path) -> None:
    points = [str(number) for number in range(1, 11)]
    rows = [
        ["file", "Hat", "Young", *LANDMARK_COLUMNS],
        ["a.jpg", "1", "", *points],
        ["b.jpg", "0", "true", *points],
    ]
    write_csv(folder / "l.csv", rows)
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    numbers = {"Hat": [1, 0], "Young": [None, True]}
    parquet.write_table(pyarrow.table({**columns, **numbers}), folder / "l.parquet")


KINDS["labels"] = Kind(
    write_labels,
    (
        lambda folder: read_label_table(folder / "l.csv", folder),
        lambda folder: read_label_table(folder / "l.csv", folder, ["Hat"]),
        lambda folder: read_label_table(folder / "l.parquet", folder),
    ),
)


def write_wider_face(folder: Path) -> None:
    rows = "10 10 20 24 0 0 0 0 0 0\n50 12 16 16 2 0 0 1 1 0"
    (folder / "faces.txt").write_text(
        f"0--Parade/a.jpg\n2\n{rows}\n1--Riot/b.jpg\n0\n{'0 ' * 10}\n"
    )
    points = "15 15 0.0 25 15 0.0 20 20 0.0 16 28 1.0 24 28 0.0"
    (folder / "label.txt").write_text(f"# 0--Parade/a.jpg\n10 10 20 24 {points} 0.8\n1 1 2 2\n")


KINDS["wider_face"] = Kind(
    write_wider_face,
    (
        lambda folder: read_boxes(folder / "faces.txt"),
        lambda folder: read_landmarks(folder / "label.txt"),
    ),
)


def write_vector_tables(folder: Path) -> None:
    table = VectorTable(np.array(["a.jpg", "b/c.jpg"]), np.float32([[1, 2.5], [0, -1]]))
    for suffix in ("npz", "csv", "parquet"):
        write_vectors(folder / f"v.{suffix}", table)
    columns = {"file": ["a.jpg"] * 2, "view": [0, 1], "embedding": list(table.vectors)}
    schema = pyarrow.table(columns).replace_schema_metadata({"fingerprint": "0123"})
    parquet.write_table(schema, folder / "views.parquet")


KINDS["vectors"] = Kind(
    write_vector_tables,
    tuple(
        (lambda folder, read=read, name=name: read(folder / name))
        for name in ("v.npz", "v.csv", "v.parquet", "views.parquet")
        for read in (read_vectors, read_view_table)
        if (name, read) != ("views.parquet", read_vectors)
    ),
)


def write_gallery(folder: Path) -> None:
    write_metadata(folder, GalleryMetadata({"kind": "checkpoint", "sha256": "ab"}, 8, None))
    content = json.loads((folder / "gallery.json").read_bytes())
    write_json(folder / "gallery.json", {**content, "threshold": [0.5, 0.001]})


KINDS["gallery"] = Kind(write_gallery, (read_metadata,))


class Nothing(Job):
    """Makes nothing of no file."""

    depends = {"model": "a"}  # noqa: RUF012

    def __call__(self, files: Iterable[Listed]) -> Iterator[tuple[Listed, Made | DataError]]:
        return ((file, Made(0, b"")) for file in files)


def progress_files(folder: Path) -> list[InputFile]:
    return [InputFile(folder / name, name) for name in ("a.jpg", "b.jpg")]


def write_progress(folder: Path) -> None:
    with run_over_files(progress_files(folder), Nothing(), folder / "progress"):
        pass


def progress(folder: Path) -> None:
    with run_over_files(progress_files(folder), Nothing(), folder / "progress") as store:
        assert len(list(store.results())) == 2


KINDS["progress"] = Kind(write_progress, (progress,))

# --- classification


def write_imagenet(folder: Path) -> None:
    synsets = [(1, "n02119789", "kit fox, Vulpes"), (2, "n01440764", "tench"), (3, "n1", "entity")]
    for _, name, _ in synsets[:2]:
        draw(folder / f"train/{name}/a.JPEG")
    for number in (1, 2):
        draw(folder / f"val/ILSVRC2012_val_{number}.JPEG")
    (folder / DEVKIT).mkdir(parents=True)
    fields = [(name, "O") for name in ("ILSVRC2012_ID", "WNID", "words")]
    records = np.array([[row] for row in synsets], dtype=fields)
    savemat(folder / DEVKIT / "meta.mat", {"synsets": records})
    (folder / DEVKIT / GROUND_TRUTH).write_text("2\n1\n")


def write_named_imagenet(folder: Path) -> None:
    write_imagenet(folder)
    (folder / "synset_words.txt").write_text("n02119789 kit fox, Vulpes\nn01440764 tench, Tinca\n")


def imagenet(folder: Path) -> None:
    module = ImageNetModule(folder)
    assert module.categories
    assert module.read_table("val").paths


for name, write in {
    "imagenet-devkit": write_imagenet,
    "imagenet-names": write_named_imagenet,
}.items():
    KINDS[name] = Kind(write, (imagenet,), "JPEG")


def write_dogs(folder: Path, *, text: bool) -> None:
    files = [f"n{number}-Breed_{number}/n{number}_1.jpg" for number in (1, 2)]
    for file in files:
        draw(folder / "Images" / file)
    for split in ("train", "test"):
        if text:
            (folder / f"{split}.txt").write_text("\n".join(files) + "\n")
        else:
            lists = np.array([[file] for file in files], dtype=object)
            savemat(
                folder / f"{split}_list.mat",
                {"file_list": lists, "labels": np.array([[1], [2]], np.uint8)},
                do_compression=split == "test",
            )


def dogs(folder: Path, split: str) -> None:
    assert StanfordDogsModule(folder).read_table(split).paths


for name, text in {"dogs-mat": False, "dogs-txt": True}.items():
    KINDS[name] = Kind(
        partial(write_dogs, text=text),
        (partial(dogs, split="train"), partial(dogs, split="val")),
        ".jpg",
    )


def write_cifar(folder: Path) -> None:
    records = np.arange(2 * RECORD_BYTES, dtype=np.uint8).tobytes()
    for name in (*TRAIN_FILES, *TEST_FILES):
        (folder / name).write_bytes(b"\1" + records[1:])
    (folder / NAMES_FILE).write_text("airplane\nautomobile\n" + "\n".join("abcdefgh") + "\n")


def cifar(folder: Path) -> None:
    module = CifarModule(folder)
    assert module.categories
    assert module.read_table("val").image(0).read().size


KINDS["cifar"] = Kind(write_cifar, (cifar,))


def write_class_tables(folder: Path) -> None:
    for kind, labels in {"words": ("cat", "dog"), "numbers": ("0", "2")}.items():
        (folder / kind).mkdir()
        rows = [["file", "label"], *([f"{label}.jpg", label] for label in labels)]
        for split in ("train", "val"):
            write_csv(folder / kind / f"{split}.csv", rows)


def class_tables(folder: Path, kind: str) -> None:
    module = CsvModule(folder / kind)
    assert module.categories
    assert module.read_table("val").paths


KINDS["classes"] = Kind(
    write_class_tables, tuple(partial(class_tables, kind=kind) for kind in ("words", "numbers"))
)

# --- photos and places

PLACES = PositionTable(
    "p", ["a.jpg", "b.jpg", "c.jpg"], np.array([[48.5, 2.3], [-33, 151], [0, 0]])
)


def write_places(folder: Path) -> None:
    cells = [
        CellTable(["1", "3", "9"], PLACES.latlng_deg, np.arange(3), np.array([1.0, np.nan, 2])),
        CellTable(["14", "34", "94"], PLACES.latlng_deg, np.arange(3), np.ones(3)),
    ]
    for suffix in ("csv", "parquet"):
        write_positions(folder / f"p.{suffix}", PLACES)
        for name, table in zip(("coarse", "fine"), cells, strict=True):
            write_cell_table(folder / f"{name}.{suffix}", table)


def partitions(folder: Path, suffix: str) -> None:
    for partition in read_partitions([folder / f"{name}.{suffix}" for name in ("coarse", "fine")]):
        partition.assign(PLACES.latlng_deg)
        assert partition.spread_km.size


KINDS["places"] = Kind(
    write_places,
    (
        lambda folder: read_positions(folder / "p.csv"),
        lambda folder: read_positions(folder / "p.parquet"),
        partial(partitions, suffix="csv"),
        partial(partitions, suffix="parquet"),
    ),
)


def write_tar_shards(folder: Path) -> None:
    for name in PLACES.files:
        draw(folder / "pictures" / name)
    write_shards(PLACES, folder / "pictures", folder / "shards", 2, progress=False)


def shards(folder: Path, find: Callable[[Path], Any]) -> None:
    photos = ShardedPhotos(find(folder / "shards"), "photos")
    assert all(photos.image(row).read(2).size for row in range(len(photos.paths)))


KINDS["shards"] = Kind(
    write_tar_shards,
    (partial(shards, find=read_index), partial(shards, find=index_shards)),
    "pictures",
)


def write_coastline(folder: Path) -> None:
    line = {"type": "LineString", "coordinates": [[0, 1], [2, 3.5]]}
    ring = {"type": "Polygon", "coordinates": [[[0, 1, 5], [2, 3, 5], [0, 1, 5]]]}
    features = [{"type": "Feature", "geometry": each} for each in (line, ring)]
    write_json(folder / "c.json", {"type": "FeatureCollection", "features": features})


KINDS["coastline"] = Kind(write_coastline, (lambda folder: read_coastline(folder / "c.json"),))

# --- weights


def slim_arrays() -> dict[str, np.ndarray]:
    arrays = {}
    for scope, layer in slim_layers(MobileNetV1(width_mult=WIDTH)).items():
        kernel = layer.conv.weight.detach().numpy()
        depthwise = layer.conv.groups > 1
        name = "depthwise_weights" if depthwise else "weights"
        arrays[f"{scope}/{name}"] = (
            kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(2, 3, 1, 0)
        )
        arrays[f"{scope}/bias"] = np.ones(len(kernel), np.float32)
    return arrays


def write_npz(path: Path, save: Callable[..., None]) -> None:
    save(path, **slim_arrays())


def write_slim_tflite(path: Path) -> None:
    tensors = [Constant("input", np.zeros((1, 32, 32, 3), np.float32))]
    operators = []
    for name, array in slim_arrays().items():
        if array.ndim == 4:
            depthwise = name.endswith("depthwise_weights")
            last = len(tensors)
            operators.append(Convolution(DEPTHWISE if depthwise else CONV, [0, last, last + 1]))
            array = array.transpose(3, 0, 1, 2)  # noqa: PLW2901
        tensors.append(Constant(name, np.ascontiguousarray(array)))
    write_tflite(path, tensors, operators, inputs=[0])


def state(prefix: str = "network.backbone.") -> dict[str, torch.Tensor]:
    values = MobileNetV1(width_mult=WIDTH).state_dict()
    return {f"{prefix}{name}": value for name, value in values.items()}


def write_checkpoint(path: Path, **options: Any) -> None:
    network = {
        "class_path": "mobilevision.heads.classification.model.Classifier",
        "init_args": {
            "backbone": {
                "class_path": "mobilevision.backbone.MobileNetV1",
                "init_args": {"width_mult": WIDTH, "out_strides": [32]},
            }
        },
    }
    content = {
        "state_dict": state(),
        "hyper_parameters": {"network": network},
        "mobilevision": {"provenance": {"folded": False}},
    }
    torch.save(content, path, **options)


def write_timm(path: Path) -> None:
    content = {}
    for layer, conv, norm in timm_layers(MobileNetV1(width_mult=WIDTH)):
        content[f"{conv}.weight"] = layer.conv.weight.detach()
        content |= {f"{norm}.{name}": value for name, value in layer.norm.state_dict().items()}
    torch.save(content, path)


def write_program(path: Path) -> None:
    class Shade(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return ((images * self.scale).mean((1, 2)),)

    images = torch.zeros(2, 4, 6, 3, dtype=torch.uint8)
    sizes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(Shade(), (images,), dynamic_shapes=sizes)
    torch.export.save(program, path, extra_files=METADATA.to_strings())


METADATA = ModelMetadata(
    "detection", (4, 6), {3: "cat"}, {"boxes": "where"}, {"score": 0.5}, details={"cells": [[1, 2]]}
)


def weights(folder: Path, read: Callable[[Path], object]) -> None:
    (path,) = folder.iterdir()
    read(path)


def fill(path: Path) -> None:
    load_weights(MobileNetV1(width_mult=WIDTH), path)


# No HDF5: its library does not come back from some damaged files, and no Python can stop it.
FILES: dict[str, tuple[Callable[[Path], object], tuple[Callable[[Path], object], ...]]] = {
    "slim.npz": (partial(write_npz, save=np.savez), (load_pretrained,)),
    "packed.npz": (partial(write_npz, save=np.savez_compressed), (read_public,)),
    "slim.tflite": (write_slim_tflite, (read_public,)),
    "own.safetensors": (lambda path: save_file(state(""), path), (read_state_dict,)),
    "own.ckpt": (write_checkpoint, (load_pretrained, fill)),
    "old.ckpt": (
        partial(write_checkpoint, _use_new_zipfile_serialization=False),
        (load_pretrained,),
    ),
    "timm.pth": (write_timm, (read_public,)),
    "program.pt2": (write_program, (read_checked, open_runtime)),
}
for name, (write, readers) in FILES.items():
    KINDS[name] = Kind(
        (lambda folder, write=write, name=name: write(folder / name)),
        tuple(partial(weights, read=read) for read in readers),
    )


def write_frozen(folder: Path, make: Callable[..., graphs.Detector]) -> None:
    (folder / "model.pb").write_bytes(make(WIDTH).graph.SerializeToString())


def write_bundled(folder: Path, make: Callable[..., graphs.Detector]) -> None:
    write_bundle(folder / "model", make(WIDTH).variables)


def detector(folder: Path) -> None:
    read_detector(folder / ("model.pb" if len(list(folder.iterdir())) == 1 else "model.index"),
                  names=["a", "b", "c"])  # fmt: skip


for make in (graphs.ssd, graphs.ppn, graphs.fpn):
    KINDS[f"{make.__name__}.pb"] = Kind(partial(write_frozen, make=make), (detector,))
    KINDS[f"{make.__name__}.index"] = Kind(partial(write_bundled, make=make), (detector,))


def write_metadata_file(folder: Path) -> None:
    for key, value in METADATA.to_strings().items():
        (folder / key).write_text(value)


def metadata(folder: Path) -> None:
    entries = {path.name: path.read_text("utf-8", "replace") for path in folder.iterdir()}
    ModelMetadata.from_strings(entries, str(folder))


KINDS["metadata"] = Kind(write_metadata_file, (metadata,))

# --- archives and tables of results


def write_archives(folder: Path) -> None:
    (folder / "out").mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/a.txt", "abc" * 50)
        archive.writestr("b.txt", "b")
    for mode in ("", "gz", "xz", "bz2"):
        with tarfile.open(folder / f"a.tar{mode}", f"w:{mode}") as archive:  # type: ignore[call-overload]
            archive.add(folder / "a.zip", "./a.zip")


def archives(folder: Path, name: str) -> None:
    extract_file(folder / name, "b.txt" if name == "a.zip" else "a.zip", folder / "out" / "one")


KINDS["archives"] = Kind(
    write_archives,
    (
        lambda folder: unzip(folder / "a.zip", folder / "out", progress=False),
        *(partial(archives, name=f"a.{end}") for end in ("zip", "tar", "targz", "tarxz", "tarbz2")),
    ),
)


def write_measured(folder: Path) -> None:
    rows = [
        {
            "model": "a",
            "width_mult": 0.5,
            "resolution": 160,
            "mult_adds": 7,
            "params": 9,
            "top1": 0.5,
        }
    ]
    write_json(folder / "r.json", rows)
    write_csv(folder / "r.csv", [list(rows[0]), list(rows[0].values())])
    (folder / "labels.txt").write_text("cat\ndog\n")
    write_json(folder / "made" / RECIPE_NAME, {"seed": 0})


def made(folder: Path) -> None:
    assert not write_generated(folder / "made", {"seed": 0}, Path.mkdir)


KINDS["measured"] = Kind(
    write_measured,
    (
        lambda folder: read_results(folder / "r.json"),
        lambda folder: read_results(folder / "r.csv"),
        lambda folder: read_labels(folder / "labels.txt"),
        made,
    ),
)
