import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from PIL import Image, ImageDraw

from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.faces.detection import CocoFaces, FaceDetectionDataModule
from mobilevision.datasets.transforms.detection import Resize
from mobilevision.datasets.transforms.faces import Letterbox
from mobilevision.heads.detection import DetectionTask
from mobilevision.heads.face_detection import FaceDetectionTask, RetinaFace
from mobilevision.heads.face_detection.weights import PublicRetinaFace


def trainer(tmp_path: Path, **options) -> Trainer:
    defaults = {
        "default_root_dir": tmp_path, "accelerator": "cpu", "logger": False,
        "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(**(defaults | options))


def coco(folder: Path, images: list[tuple[str, tuple[int, int]]], faces: list[dict]) -> CocoFaces:
    """Write an annotation file: images with names and sizes (h, w), faces with image numbers."""
    content = {
        "images": [
            {"id": number, "file_name": name, "height": size[0], "width": size[1]}
            for number, (name, size) in enumerate(images)
        ],
        "annotations": [{"id": row, "category_id": 1, **each} for row, each in enumerate(faces, 1)],
        "categories": [{"id": 1, "name": "face"}],
    }
    (folder / "faces.json").write_text(json.dumps(content))
    return CocoFaces(folder / "faces.json", folder)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> CocoFaces:
    """Two images of different shapes with three drawn faces."""
    folder = tmp_path_factory.mktemp("drawn")
    faces, images = [], []
    for number, (size_hw, centers) in enumerate([((90, 180), [45, 130]), ((120, 60), [30])]):
        image = Image.new("RGB", size_hw[::-1], (60, 90, 120))
        pen = ImageDraw.Draw(image)
        for x in centers:
            y, points = 45, []
            pen.ellipse((x - 25, y - 30, x + 25, y + 30), (225, 190, 160))
            for dx, dy in ((-10, -8), (10, -8), (0, 3), (-8, 14), (8, 14)):
                pen.ellipse((x + dx - 3, y + dy - 3, x + dx + 3, y + dy + 3), (40, 20, 20))
                points += [x + dx, y + dy, 2]
            faces.append(
                {"image_id": number, "bbox": [x - 25, y - 30, 50, 60], "keypoints": points}
            )
        image.save(folder / f"{number}.png")
        images.append((f"{number}.png", size_hw))
    return coco(folder, images, faces)


def module(source: CocoFaces, side: int, **options) -> FaceDetectionDataModule:
    return FaceDetectionDataModule(
        source, source, size_hw=(side, side), num_workers=0, **({"batch_size": 2} | options)
    )


def network(**options) -> RetinaFace:
    seed_everything(0)
    backbone = MobileNetV1(0.25, out_strides=(8, 16, 32), norm_momentum=0.2)
    return RetinaFace(backbone, channels=16, **options)


def adam(groups):
    return torch.optim.AdamW(groups, lr=4e-3)


def test_one_batch__is_learned_by_heart(drawn, tmp_path) -> None:
    data = module(drawn, 128, train_transform=Letterbox((128, 128)))
    task = FaceDetectionTask(network(), data.categories, optimizer=adam)
    run = trainer(tmp_path, max_epochs=70, check_val_every_n_epoch=70)
    run.fit(task, datamodule=data)
    assert run.callback_metrics["val/AP50"] >= 0.99
    assert run.callback_metrics["val/loss_landmarks"] < 0.2
    assert "val/easy" not in run.callback_metrics
    run.save_checkpoint(tmp_path / "a.ckpt")
    task = FaceDetectionTask.load_from_checkpoint(
        tmp_path / "a.ckpt", network=network(), categories=data.categories
    )
    (found,) = run.predict(task, data)
    # In pixels of images of 180 x 90 and 60 x 120, which were letterboxed to 128 x 128.
    best = found.landmarks[:, 0]
    faces = np.array([[130, 45], [45, 45], [30, 45]])
    offsets = np.array([[-10, -8], [10, -8], [0, 3], [-8, 14], [8, 14]])
    wanted = torch.from_numpy(faces[:, None] + offsets)
    nearest = [(wanted - points).norm(dim=-1).mean(dim=1).min().item() for points in best]
    assert max(nearest) < 3


@pytest.mark.real_data
def test_one_batch_of_real_faces__is_learned_by_heart(real_data, tmp_path) -> None:
    golden = json.loads((real_data / "retinaface" / "golden.json").read_text())
    names = [name for name in golden if name.startswith("celeba") and len(golden[name]) == 1][:6]
    faces = []
    for number, name in enumerate(names):
        face = golden[name][0]
        x1, y1, x2, y2 = np.clip(face["box"], 0, [178, 218, 178, 218]).tolist()
        points = np.concatenate([np.reshape(face["landmarks"], (5, 2)), np.full((5, 1), 2)], axis=1)
        keypoints = points.ravel().tolist()
        box = [x1, y1, x2 - x1, y2 - y1]
        faces.append({"image_id": number, "bbox": box, "keypoints": keypoints})
    source = coco(tmp_path, [(str(real_data / name), (218, 178)) for name in names], faces)
    side = 128
    data = module(source, side, train_transform=Letterbox((side, side)), batch_size=6)
    task = FaceDetectionTask(network(), data.categories, optimizer=adam)
    run = trainer(tmp_path, max_epochs=60, check_val_every_n_epoch=60)
    run.fit(task, datamodule=data)
    assert run.callback_metrics["val/AP50"] >= 0.99
    (found,) = run.predict(task, data)
    wanted = torch.tensor([golden[name][0]["landmarks"] for name in names]).view(-1, 5, 2)
    errors = (found.landmarks[:, 0] - wanted).norm(dim=-1).mean(dim=1)
    between_eyes = (wanted[:, 0] - wanted[:, 1]).norm(dim=-1)
    assert (errors / between_eyes).mean() < 0.1


@pytest.mark.real_data
def test_evaluation__of_public_weights__letterboxed_images_in_their_own_pixels(
    real_data, tmp_path
) -> None:
    golden = json.loads((real_data / "retinaface" / "golden.json").read_text())
    names = [name for name in golden if name.startswith("coco") and golden[name]][:4]
    faces, images = [], []
    for number, name in enumerate(names):
        with Image.open(real_data / name) as image:
            images.append((str(real_data / name), image.size[::-1]))
        for face in golden[name]:
            x1, y1, x2, y2 = np.clip(face["box"], 0, [*image.size] * 2).tolist()
            faces.append({"image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    data = module(coco(tmp_path, images, faces), 640)
    public = PublicRetinaFace(real_data / "retinaface" / "mobilenet0.25_Final.pth")
    net = public.plan().build()
    public.fill(net)
    (result,) = trainer(tmp_path).validate(FaceDetectionTask(net, {1: "face"}), data, verbose=False)
    assert result["val/AP50"] > 0.9


def test_evaluation__stretched_images_are_refused(drawn, tmp_path) -> None:
    data = module(drawn, 64, val_transform=Resize((64, 64)))
    task = FaceDetectionTask(network(), data.categories)
    with pytest.raises(DataError, match="not by Resize"):
        trainer(tmp_path).validate(task, data, verbose=False)


def test_task__is_a_detection_task() -> None:
    task = FaceDetectionTask(network(), {1: "face"})
    assert isinstance(task, DetectionTask)
    assert task.hparams["categories"] == {1: "face"}
