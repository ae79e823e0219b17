"""Networks of other people as checkpoints of a task."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mobilevision.backbone import MobileNetV1
from mobilevision.heads.checkpoints import Plan, write_checkpoint
from mobilevision.heads.classification import ClassificationTask, Classifier
from mobilevision.heads.detection import SSD, DefaultBoxes, DetectionTask

BACKBONE = Plan(MobileNetV1, {"width_mult": 0.25, "padding": "symmetric", "norm_eps": 1e-5})
NAMES = {3: "cup", 9: "spoon"}


def plans() -> list[tuple[type[Any], Plan]]:
    boxes = Plan(DefaultBoxes, {"aspect_ratios": [1.0, 2.0, 0.5, 3.0, 0.3333]})
    ssd = {"backbone": BACKBONE, "num_classes": 2, "anchors": boxes, "score_activation": "sigmoid"}
    classifier = {"backbone": BACKBONE, "num_classes": 2, "head_channels": 32, "norm_eps": 1e-5}
    return [(DetectionTask, Plan(SSD, ssd)), (ClassificationTask, Plan(Classifier, classifier))]


@pytest.mark.parametrize(("task", "plan"), plans(), ids=["detection", "classification"])
def test_write_checkpoint__loads_as_the_task(tmp_path: Path, task: type[Any], plan: Plan) -> None:
    network = plan.build().eval()
    path = tmp_path / "new" / "x.ckpt"
    write_checkpoint(path, task, plan, network, NAMES, (64, 96), {"source": "somebody"})
    assert [file.name for file in path.parent.iterdir()] == ["x.ckpt"]
    made = task.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert isinstance(made, task)
    assert made.categories == NAMES
    assert made.facts["size_hw"] == [64, 96]
    assert made.facts["provenance"] == {"source": "somebody"}
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = made.network.eval()(images), network(images)
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)


def test_write_checkpoint__plan_of_another_network__refused(tmp_path: Path) -> None:
    (task, plan), _ = plans()
    network = Plan(SSD, plan.arguments | {"num_classes": 3}).build()
    with pytest.raises(ValueError, match="other parameters"):
        write_checkpoint(tmp_path / "x.ckpt", task, plan, network, NAMES, (64, 96), {})
    assert list(tmp_path.iterdir()) == []


def test_plan__as_plain__is_what_a_yaml_says() -> None:
    plain = plans()[0][1].as_plain()
    assert plain["class_path"] == "mobilevision.heads.detection.ssd.SSD"
    assert plain["init_args"]["backbone"]["class_path"].endswith(".MobileNetV1")
    assert plain["init_args"]["backbone"]["init_args"]["width_mult"] == 0.25
