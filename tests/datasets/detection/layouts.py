"""One small dataset in the layouts of every labeling tool."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Box = tuple[str, float, float, float, float]
"""Class, left, top, width and height in pixels."""


class Scene(NamedTuple):
    """An image, drawn from its name, and its boxes."""

    name: str
    size_wh: tuple[int, int]
    boxes: list[Box]


CLASSES = ("cat", "dog", "owl")
TRUTH: dict[str, list[Scene]] = {
    "train": [
        Scene("a", (100, 80), [("dog", 10, 20, 30, 40), ("cat", 0, 0, 100, 80)]),
        Scene("b c", (64, 48), []),
        Scene("d", (40, 90), [("owl", 5, 6, 7, 8)]),
    ],
    "val": [Scene("e", (50, 50), [("cat", 1, 2, 3, 4)]), Scene("f", (30, 20), [])],
}

WHOLE = [scene for scenes in TRUTH.values() for scene in scenes]


def draw(folder: Path, scenes: Iterable[Scene]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        rng = np.random.default_rng(list(scene.name.encode()))
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(scene.size_wh).save(folder / f"{scene.name}.png")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def coco_document(
    scenes: list[Scene], prefix: str = "", first_id: int = 1, **entry: Any
) -> dict[str, Any]:
    """Return a document in COCO's format; labeling tools count from other ids, and omit keys."""
    annotations = [
        {"image_id": row + first_id, "category_id": CLASSES.index(name) + first_id, "bbox": box}
        for row, scene in enumerate(scenes)
        for name, *box in scene.boxes
    ]
    return {
        "images": [
            {"id": row + first_id, "file_name": f"{prefix}{scene.name}.png",
             "width": scene.size_wh[0], "height": scene.size_wh[1]}
            for row, scene in enumerate(scenes)
        ],
        "annotations": [
            each | {"id": row + first_id} | entry for row, each in enumerate(annotations)
        ],
        "categories": [{"id": row + first_id, "name": name} for row, name in enumerate(CLASSES)],
    }  # fmt: skip


def yolo_lines(scene: Scene, polygons: bool = False) -> str:
    lines = []
    for name, x, y, w, h in scene.boxes:
        across, down = scene.size_wh
        numbers = [(x + w / 2) / across, (y + h / 2) / down, w / across, h / down]
        if polygons:  # a rhombus
            left, top, right, bottom = x / across, y / down, (x + w) / across, (y + h) / down
            middle = ((left + right) / 2, (top + bottom) / 2)
            numbers = [left, middle[1], middle[0], top, right, middle[1], middle[0], bottom]
        lines.append(" ".join([str(CLASSES.index(name)), *(f"{each:.15g}" for each in numbers)]))
    return "\n".join(lines) + "\n"


def write_labels(folder: Path, scenes: Iterable[Scene], polygons: bool = False) -> None:
    for scene in scenes:
        write(folder / f"{scene.name}.txt", yolo_lines(scene, polygons) if scene.boxes else "")


def voc_xml(scene: Scene) -> str:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for name, x, y, w, h in scene.boxes
    )
    size = "<size><width>{}</width><height>{}</height></size>".format(*scene.size_wh)
    return f"<annotation><filename>{scene.name}.png</filename>{size}{objects}</annotation>"


def write_xml(folder: Path, scenes: Iterable[Scene]) -> None:
    for scene in scenes:
        write(folder / f"{scene.name}.xml", voc_xml(scene))


def coco(root: Path) -> None:
    for split, scenes in TRUTH.items():
        write(root / f"annotations/instances_{split}2017.json", coco_document(scenes))
        draw(root / f"{split}2017", scenes)


def coco_cvat(root: Path) -> None:
    write(root / "annotations/instances_default.json", coco_document(WHOLE, iscrowd=0, area=0.5))
    draw(root / "images", WHOLE)


def coco_cvat_subsets(root: Path) -> None:
    for split, subset in (("train", "Train"), ("val", "Validation")):
        document = coco_document(TRUTH[split])
        write(root / f"annotations/instances_{subset}.json", document)
        draw(root / "images" / subset, TRUTH[split])


def coco_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        write(root / folder / "_annotations.coco.json", coco_document(TRUTH[split], first_id=0))
        draw(root / folder, TRUTH[split])


def label_studio(root: Path, prefix: str) -> None:
    write(root / "result.json", coco_document(WHOLE, prefix, first_id=0))
    draw(root / "images", WHOLE)


def yolo(root: Path, polygons: bool = False) -> None:
    for split, scenes in TRUTH.items():
        draw(root / "images" / split, scenes)
        write_labels(root / "labels" / split, scenes, polygons)
    names = "".join(f"  {row}: {name}\n" for row, name in enumerate(CLASSES))
    text = f"path: ../datasets/elsewhere\ntrain: images/train\nval: images/val\nnames:\n{names}"
    write(root / "data.yaml", text)


def yolo_polygons(root: Path) -> None:
    yolo(root, polygons=True)


def yolo_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        draw(root / folder / "images", TRUTH[split])
        write_labels(root / folder / "labels", TRUTH[split])
    places = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
    write(root / "data.yaml", f"{places}nc: 3\nnames: ['cat', 'dog', 'owl']\n")


def yolo_lists(root: Path) -> None:
    """Two folders of images and a list for each split, in a YAML file of another name."""
    yolo(root)
    (root / "data.yaml").unlink()
    for split, scenes in TRUTH.items():
        names = [f"./images/{split}/{scene.name}.png" for scene in scenes]
        write(root / f"{split}.txt", "\n".join(names))
    write(root / "mine.yaml", "train: [train.txt]\nval: val.txt\nnames: [cat, dog, owl]")
    write(root / "settings.yaml", "epochs: 3")


def yolo_ultralytics_cvat(root: Path) -> None:
    yolo(root)
    write(root / "data.yaml", "path: .\ntrain: train.txt\nnames: {0: cat, 1: dog, 2: owl}\n")
    names = [f"data/images/{split}/{scene.name}.png" for split in TRUTH for scene in TRUTH[split]]
    write(root / "train.txt", "\n".join(names))


def yolo_cvat(root: Path) -> None:
    """CVAT's "YOLO 1.1", which is Darknet's."""
    names = {}
    for split, key in (("train", "train"), ("val", "valid")):
        folder = root / f"obj_{key}_data"
        draw(folder, TRUTH[split])
        write_labels(folder, TRUTH[split])
        names[key] = f"data/{key}.txt"
        listed = [f"data/{folder.name}/{scene.name}.png" for scene in TRUTH[split]]
        write(root / f"{key}.txt", "\n".join(listed))
    places = "".join(f"{key} = {name}\n" for key, name in names.items())
    write(root / "obj.data", f"classes = 3\n{places}names = data/obj.names\nbackup = backup/\n")
    write(root / "obj.names", "cat\ndog\nowl\n")


def yolo_label_studio(root: Path) -> None:
    draw(root / "images", WHOLE)
    write_labels(root / "labels", WHOLE)
    write(root / "classes.txt", "cat\ndog\nowl\n")
    write(root / "notes.json", {"categories": []})


def yolo_label_img(root: Path) -> None:
    draw(root, WHOLE)
    write_labels(root, WHOLE)
    write(root / "classes.txt", "cat\ndog\nowl\n")


def voc(root: Path) -> None:
    for split, scenes in TRUTH.items():
        draw(root / "JPEGImages", scenes)
        write_xml(root / "Annotations", scenes)
        listed = "\n".join(scene.name for scene in scenes)
        write(root / f"ImageSets/Main/{split}.txt", listed)


def voc_cvat(root: Path) -> None:
    voc(root)
    for split in TRUTH:
        (root / f"ImageSets/Main/{split}.txt").unlink()
    write(root / "ImageSets/Main/default.txt", "\n".join(scene.name for scene in WHOLE))


def voc_roboflow(root: Path) -> None:
    for split, folder in (("train", "train"), ("val", "valid")):
        draw(root / folder, TRUTH[split])
        write_xml(root / folder, TRUTH[split])


def voc_label_studio(root: Path) -> None:
    draw(root / "images", WHOLE)
    write_xml(root / "Annotations", WHOLE)


def voc_label_img(root: Path) -> None:
    draw(root, WHOLE)
    write_xml(root, WHOLE)


Layouts = dict[str, Callable[[Path], None]]

DIVIDED: Layouts = {
    "coco": coco,
    "coco of CVAT, subsets": coco_cvat_subsets,
    "coco of Roboflow": coco_roboflow,
    "yolo": yolo,
    "yolo, polygons": yolo_polygons,
    "yolo, lists": yolo_lists,
    "yolo of CVAT": yolo_cvat,
    "yolo of Roboflow": yolo_roboflow,
    "voc": voc,
    "voc of Roboflow": voc_roboflow,
}
"""Layouts with a training and a validation split."""

UNDIVIDED: Layouts = {
    "coco of CVAT": coco_cvat,
    "coco of Label Studio": lambda root: label_studio(root, "images/"),
    "coco of Label Studio, Windows": lambda root: label_studio(root, "images\\"),
    "coco of Label Studio, uploads": lambda root: label_studio(root, "/data/upload/3/"),
    "coco of Label Studio, addresses": lambda root: label_studio(root, "http://host/data/"),
    "coco of Label Studio, local files": lambda root: label_studio(
        root, "/data/local-files/?d=some%20place/"
    ),
    "yolo of CVAT, Ultralytics": yolo_ultralytics_cvat,
    "yolo of Label Studio": yolo_label_studio,
    "yolo of LabelImg": yolo_label_img,
    "voc of CVAT": voc_cvat,
    "voc of Label Studio": voc_label_studio,
    "voc of LabelImg": voc_label_img,
}
"""Layouts whose images are all for training."""
