"""Small checkpoints of every job, and the files made of them: each is written once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mobilevision.apps.export.export_module import Deployable, open_deployable
from mobilevision.apps.export.exported_program import ExportedProgramFormat
from mobilevision.apps.export.exporting import Exported, export_checkpoint
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.backbone import MobileNetV1
from mobilevision.datasets.geolocation.cells import build_partition
from mobilevision.datasets.synthetic.world import world_photos
from mobilevision.heads.checkpoint import Plan, write_checkpoint
from mobilevision.heads.classification import ClassificationTask
from mobilevision.heads.classification.model import Classifier
from mobilevision.heads.detection import SSD, DetectionTask, FasterRCNN, PostProcess
from mobilevision.heads.detection.faster_rcnn_heads import ProposalSelection
from mobilevision.heads.face_attributes import AttributeNetwork, AttributeTask
from mobilevision.heads.face_detection import FaceDetectionTask, RetinaFace
from mobilevision.heads.face_embedding import FaceEmbeddingTask, FaceNetwork
from mobilevision.heads.faces import FacesNetwork, FacesTask
from mobilevision.heads.geolocation import CellClassifier, GeolocationTask

SIZE_HW = (64, 80)
SIZES_HW = {"face_embedding": (64, 64), "face_attributes": (64, 48), "faces": (64, 48)}
THIN = Plan(MobileNetV1, {"width_mult": 0.25, "shallow": True})
LAST = Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": [32]})
CATEGORIES = {3: "cat", 7: "owl"}
ATTRIBUTES = {0: "Smiling", 1: "Wearing_Hat"}

PLANS: dict[str, tuple[type, Plan, dict[int, str]]] = {
    "ssd": (
        DetectionTask,
        Plan(
            SSD,
            {
                "backbone": THIN,
                "num_classes": 2,
                # Fewer candidates than anchors, so that their number counts.
                "postprocess": Plan(
                    PostProcess, {"score_threshold": 0.005, "candidates_per_class": 20}
                ),
            },
        ),
        CATEGORIES,
    ),
    "faster_rcnn": (
        DetectionTask,
        Plan(
            FasterRCNN,
            {
                "backbone": Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": [16]}),
                "num_classes": 2,
                "rpn_channels": 16,
                "proposals": Plan(ProposalSelection, {"count": 20, "candidates": 100}),
            },
        ),
        CATEGORIES,
    ),
    "face_detection": (
        FaceDetectionTask,
        Plan(
            RetinaFace,
            {
                "backbone": Plan(MobileNetV1, {"width_mult": 0.25, "out_strides": [8, 16, 32]}),
                "channels": 32,
                "anchor_sizes_px": [[4, 8], [8, 16], [16, 32]],
                # Random weights give almost equal scores to all boxes, so that none hides another.
                "postprocess": Plan(
                    PostProcess,
                    {"score_threshold": 0.001, "iou_threshold": 1.0, "max_detections": 300},
                ),
            },
        ),
        {1: "face"},
    ),
    "classification": (
        ClassificationTask,
        Plan(Classifier, {"backbone": LAST, "num_classes": 2, "dropout": 0.1}),
        CATEGORIES,
    ),
    "face_attributes": (
        AttributeTask,
        Plan(AttributeNetwork, {"backbone": LAST, "num_classes": 2, "landmarks": True}),
        ATTRIBUTES,
    ),
    "face_embedding": (
        FaceEmbeddingTask,
        Plan(
            FaceNetwork,
            {"backbone": LAST, "dimension": 8, "pooling": "depthwise", "size": 64, "norm": True},
        ),
        {},
    ),
    "faces": (
        FacesTask,
        Plan(
            FacesNetwork,
            {
                "backbone": LAST,
                "num_classes": 2,
                "dimension": 8,
                "pooling": "depthwise",
                "size_hw": [64, 48],
                "norm": True,
                "landmarks": True,
            },
        ),
        ATTRIBUTES,
    ),
}


def write_small(path: Path, kind: str) -> Path:
    """A checkpoint with made-up weights and statistics of normalization."""
    if kind == "geolocation":
        return write_geolocator(path)
    torch.manual_seed(0)
    task, plan, categories = PLANS[kind]
    network = make_lively(plan.build())
    size_hw = SIZES_HW.get(kind, SIZE_HW)
    write_checkpoint(
        path, task, plan, network, categories, size_hw, {"source": "made up", "license": "MIT"}
    )
    add_metadata(path, kind)
    return path


def make_lively(network: nn.Module) -> nn.Module:
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
        if isinstance(module, nn.Conv2d) and ("predictors" in name or "boxes" in name):
            nn.init.normal_(module.weight, std=0.3)
    return network


def add_metadata(path: Path, kind: str) -> None:
    chosen = {"thresholds": {"Smiling": 0.3}}
    hat = {"faces": 9, "people": 4, "genuine": 99, "impostors": 200, "far": 0.005, "frr": None}
    measured = {"verification": {"threshold": 0.31, "far": 0.001, "pairs": 6000,
                                 "groups": {"Hat: yes": hat}}}  # fmt: skip
    metadata: dict[str, Any] = {
        "face_detection": {"score_threshold": 0.005},
        "face_attributes": chosen,
        "face_embedding": measured,
        "faces": chosen | measured,
    }.get(kind, {})
    content = torch.load(path, weights_only=True)
    content["mobilevision"].update(metadata)
    torch.save(content, path)


def write_geolocator(path: Path) -> Path:
    torch.manual_seed(0)
    photos = world_photos("train", 300).latlng_deg
    tables = tuple(build_partition(photos, most, 3)[0].table for most in (100, 20))
    sizes = [len(table.tokens) for table in tables]
    categories = dict(enumerate(tables[-1].tokens))
    plan = Plan(CellClassifier, {"backbone": LAST, "num_classes": sizes})
    network = make_lively(plan.build())
    write_checkpoint(path, GeolocationTask, plan, network, categories, SIZE_HW, {})
    task = GeolocationTask(network, categories)
    task.use_cells(tables)
    content = torch.load(path, weights_only=True)
    content["mobilevision"] |= {"cells": task.metadata["cells"], "crop_fraction": None}
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind of network -> a checkpoint of it."""
    folder = tmp_path_factory.mktemp("small")

    def write(kind: str) -> Path:
        path = folder / f"{kind}.ckpt"
        return path if path.exists() else write_small(path, kind)

    return write


@pytest.fixture(scope="session")
def exported(small: Callable[[str], Path]) -> Callable[[str], Exported]:
    """Kind of network -> the ONNX file of its checkpoint, and what was said of it."""
    done: dict[str, Exported] = {}

    def export(kind: str) -> Exported:
        if kind not in done:
            path = small(kind)
            done[kind] = export_checkpoint(path, path.with_suffix(".onnx"), "onnx")
        return done[kind]

    return export


@pytest.fixture(scope="session")
def converted(
    exported: Callable[[str], Exported], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Kind of network -> the OpenVINO file of its ONNX file.

    ``export`` converts graphs without the passes for ONNX Runtime. These have them, and so what
    OpenVINO makes of our ONNX files is tested, too.
    """
    folder = tmp_path_factory.mktemp("openvino")

    def write(kind: str) -> Path:
        from mobilevision.apps.export.openvino import convert  # may be absent

        out = folder / f"{kind}.xml"
        if not out.exists():
            written = exported(kind)
            convert(written.path, out, written.metadata)
        return out

    return write


@pytest.fixture(scope="session")
def program(
    deployable: Callable[[str], Deployable], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Kind of network -> the file of torch.export of its checkpoint."""
    folder = tmp_path_factory.mktemp("programs")

    def write(kind: str) -> Path:
        out = folder / f"{kind}.pt2"
        if not out.exists():
            ExportedProgramFormat().write(deployable(kind), out, ExportOptions())
        return out

    return write


@pytest.fixture(scope="session")
def deployable(small: Callable[[str], Path]) -> Callable[[str], Deployable]:
    """Kind of network -> what is exported of its checkpoint."""
    return cache(lambda kind: open_deployable(small(kind)))
