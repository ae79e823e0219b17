"""TensorFlow's public detectors in our networks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mobilevision.apps.costs.networks import network_of
from mobilevision.backbone.cost import count_cost
from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.errors import DataError
from mobilevision.heads.checkpoint import load_task, write_checkpoint
from mobilevision.heads.detection import DetectionTask
from mobilevision.heads.detection.weights import (
    is_detector,
    load_tensorflow_ssd,
    open_detector,
    read_detector,
)

from ...backbone.weights.tensorflow_files import add_constant, write_bundle
from . import tensorflow_graphs as graphs

KINDS = {"ssd": (graphs.ssd, 300), "ppn": (graphs.ppn, 300), "fpn": (graphs.fpn, 256)}
NAMES = ["cat", "dog", "owl"]
NPZ = "ssd_mobilenet_v1_0.75_coco_300.npz"


@pytest.mark.real_data
def test_load_tensorflow_ssd__tflite_and_npz__give_the_same_detector(real_data: Path) -> None:
    one, other = (
        load_tensorflow_ssd(real_data / "weights" / name, 0.75).state_dict()
        for name in ("detect.tflite", NPZ)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.real_data
def test_tensorflow_ssd__some_columns__have_the_logits_of_all(real_data: Path) -> None:
    images = torch.randint(256, (1, 3, 300, 300), dtype=torch.uint8)
    columns = [1, 17, 18, 90]
    source = open_detector(real_data / "weights" / NPZ)
    some = source.plan(len(columns)).build().eval()
    source.fill(some, columns)
    whole = load_tensorflow_ssd(real_data / "weights" / NPZ, 0.75)
    with torch.inference_mode():
        ours, theirs = some(images), whole(images)
    torch.testing.assert_close(ours.box_deltas, theirs.box_deltas)
    torch.testing.assert_close(ours.class_logits, theirs.class_logits[..., [0, *columns]])


def changed(real_data: Path, folder: Path, **changes: np.ndarray | None) -> Path:
    """The real detector's file with arrays changed, or left out where None."""
    with np.load(real_data / "weights" / NPZ) as file:
        arrays = {name: file[name] for name in file.files} | changes
    kept = {name: array for name, array in arrays.items() if array is not None}
    np.savez(folder / "w.npz", **kept)  # type: ignore[arg-type]
    return folder / "w.npz"


@pytest.mark.real_data
def test_tensorflow_ssd__other_anchors__refused(real_data: Path, tmp_path: Path) -> None:
    with np.load(real_data / "weights" / NPZ) as file:
        anchors = file["anchors"].copy()
    anchors[500, 2] *= 1.01
    path = changed(real_data, tmp_path, anchors=anchors)
    with pytest.raises(WeightsError, match="its 1917 anchors are not the 1917 default boxes"):
        load_tensorflow_ssd(path, 0.75)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("BoxPredictor_3/BoxEncodingPredictor/bias", None, "is missing"),
        ("BoxPredictor_3/ClassPredictor/bias", np.zeros(7, np.float32), r"has shape \(7,\)"),
        ("BoxPredictor_6/ClassPredictor/bias", np.zeros(7, np.float32), "1 tensors have no place"),
        ("FeatureExtractor/MobilenetV1/Conv2d_9_pointwise/bias", None, "is missing"),
    ],
)
def test_tensorflow_ssd__what_does_not_fit__is_named(
    real_data: Path, tmp_path: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    with pytest.raises(WeightsError, match=f"{name}.*{message}|{message}.*{name}"):
        load_tensorflow_ssd(changed(real_data, tmp_path, **{name: array}), 0.75)


@pytest.mark.real_data
def test_load_tensorflow_ssd__other_width__says_which(real_data: Path) -> None:
    with pytest.raises(WeightsError, match=r"its width_mult is 0\.75, not 1"):
        load_tensorflow_ssd(real_data / "weights" / NPZ, 1.0)


@pytest.mark.real_data
def test_tensorflow_ssd__classifier__says_so(real_data: Path) -> None:
    with pytest.raises(WeightsError, match="a classifier, and no SSD"):
        open_detector(real_data / "weights" / "mobilenet_v1_0.25_128.npz")


@pytest.mark.real_data
def test_read_detector__public_file__has_its_plan_and_its_classes(real_data: Path) -> None:
    path = real_data / "weights" / NPZ
    assert is_detector(path)
    assert not is_detector(real_data / "weights" / "mobilenet_v1_0.25_128.npz")
    found = read_detector(path, (320, 256))
    assert (found.size_hw, len(found.categories), found.categories[90]) == (
        ((320, 256), 80, "toothbrush")
    )
    assert found.metadata["notes"] == ["10 unused columns of the class predictors are left out."]
    again = found.plan.build()
    again.load_state_dict(found.network.state_dict())
    images = torch.randint(256, (1, 3, 300, 300), dtype=torch.uint8)
    with torch.inference_mode():
        ours, theirs = again.eval()(images), found.network(images)
    assert torch.equal(ours.class_logits, theirs.class_logits)


def write_graph(path: Path, made: graphs.Detector) -> Path:
    path.write_bytes(made.graph.SerializeToString())
    return path


def random_images(side: int) -> torch.Tensor:
    return torch.randint(256, (1, 3, side, side), dtype=torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_read_detector__graph_and_checkpoint__predict_what_the_graph_itself_does(
    kind: str, tmp_path: Path
) -> None:
    make, side = KINDS[kind]
    made, images = make(), random_images(side)
    truth = graphs.run(made.graph, images.permute(0, 2, 3, 1).float())
    training = {"global_step": np.array(7), "BoxPredictor_0/weights/Momentum": np.zeros(3, "f4")}
    paths = [
        write_graph(tmp_path / "a.pb", made),
        write_bundle(tmp_path / "model.ckpt", made.variables | training),
    ]
    for path in paths:
        found = read_detector(path, names=NAMES)
        with torch.inference_mode():
            output = found.network(images)
        deltas = output.box_deltas[..., [1, 0, 3, 2]]
        torch.testing.assert_close(deltas, truth.boxes, rtol=0, atol=1e-4)
        torch.testing.assert_close(output.class_logits, truth.logits, rtol=0, atol=1e-4)
        assert found.categories == {1: "cat", 2: "dog", 3: "owl"}
        assert not found.metadata["folded"]
    assert "Variables of the training are left out: 2." in found.metadata["notes"]


@pytest.mark.parametrize(
    ("kind", "parameters", "anchors"),
    [("ssd", 6_819_839, 1917), ("ppn", 2_173_818, 3000), ("fpn", 12_080_762, 51_150)],
)
def test_read_detector__published_size__has_the_graphs_parameters_and_mult_adds(
    kind: str, parameters: int, anchors: int, tmp_path: Path
) -> None:
    side = {"fpn": 640}.get(kind, 300)
    made = KINDS[kind][0](1.0, 91, **({"side": 640} if kind == "fpn" else {}))
    graph = graphs.run(made.graph, torch.zeros(1, side, side, 3, device="meta"))
    found = read_detector(write_graph(tmp_path / "frozen_inference_graph.pb", made))
    assert found.size_hw == (side, side)
    assert len(found.categories) == 80
    with torch.device("meta"):
        whole = open_detector(tmp_path / "frozen_inference_graph.pb").plan(90).build()
    unused = ("Conv2d_12_", "Conv2d_13_") if kind == "ppn" else ()
    trained = {
        name: array.size for name, array in made.variables.items()
        if "/moving_" not in name and not any(block in name for block in unused)
    }  # fmt: skip
    assert sum(p.numel() for p in whole.parameters()) == sum(trained.values()) == parameters
    assert graph.boxes.shape == (1, anchors, 4)
    counted = graph.mult_adds
    if unused:  # the graph has the blocks, though nothing depends on them
        counted -= 10 * 10 * (9 * 512 + 512 * 1024 + 9 * 1024 + 1024 * 1024)
    images = torch.zeros(1, 3, side, side, device="meta")
    assert count_cost(whole, images).mult_adds == counted


def test_ssd640_fpn__config__makes_the_network_of_the_published_file(tmp_path: Path) -> None:
    source = open_detector(write_graph(tmp_path / "a.pb", graphs.fpn(1.0, 91, 640)))
    path = Path(__file__).parents[3] / "configs/ssd640_fpn.yaml"
    ours, size_hw = network_of(path, num_classes=90, device="cpu")
    theirs = source.plan(90).build()
    assert size_hw == source.size_hw == (640, 640)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    source.fill(ours, range(1, 91))  # every array by its name and shape, and none is left
    for name in ("iou_threshold", "score_threshold", "max_detections"):
        assert getattr(ours.postprocess, name) == getattr(theirs.postprocess, name)
    norms = {m.momentum for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert norms == {0.003}
    maps = [(640 // stride,) * 2 for stride in (8, 16, 32, 64, 128)]
    boxes = [net.anchors((640, 640), maps, torch.device("cpu")) for net in (ours, theirs)]
    assert torch.equal(*boxes)


def test_read_detector__trained_for_8_bits__is_the_same_network(tmp_path: Path) -> None:
    plain = read_detector(write_graph(tmp_path / "a.pb", graphs.ssd()), names=NAMES)
    made = graphs.ssd(quantized=True)
    paths = [
        write_graph(tmp_path / "tflite_graph.pb", made),
        write_bundle(tmp_path / "model.ckpt", made.variables),
    ]
    for path in paths:
        found = read_detector(path, names=NAMES)
        states = plain.network.state_dict(), found.network.state_dict()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
        assert any(note.startswith("Trained for 8 bits") for note in found.metadata["notes"])


@pytest.mark.parametrize("kind", ["ppn", "fpn"])
def test_read_detector__as_a_checkpoint__is_rebuilt_with_its_shared_predictor(
    kind: str, tmp_path: Path
) -> None:
    make, side = KINDS[kind]
    found = read_detector(write_graph(tmp_path / "a.pb", make()), names=NAMES)
    plan, network, categories, size_hw, metadata = found
    path = tmp_path / "x.ckpt"
    write_checkpoint(path, DetectionTask, plan, network, categories, size_hw, metadata)
    again, images = load_task(path, DetectionTask).network.eval(), random_images(side)
    with torch.inference_mode():
        ours, theirs = again(images), network(images)
    assert torch.equal(ours.class_logits, theirs.class_logits)
    assert torch.equal(ours.anchors, theirs.anchors)


def test_read_detector__anchors_of_a_graph__are_compared(tmp_path: Path) -> None:
    made = graphs.ssd()
    first = read_detector(write_graph(tmp_path / "a.pb", made), names=NAMES)
    with torch.inference_mode():
        x1, y1, x2, y2 = first.network(random_images(300)).anchors.T / 300
    anchors = torch.stack([(y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1], dim=1).numpy()
    for factor in (1.0, 1.01):
        add_constant(made.graph, "anchors", anchors * np.float32(factor))
        path = write_graph(tmp_path / "b.pb", made)
        if factor == 1.0:
            read_detector(path, names=NAMES)
            continue
        with pytest.raises(WeightsError, match="its 1917 anchors are not the 1917 default boxes"):
            read_detector(path, names=NAMES)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("fpn", {"fpn/smoothing_2/BatchNorm/beta": None}, "smoothing_2/BatchNorm/beta is missing"),
        ("fpn", {"fpn/smoothing_3/weights": np.zeros((3, 3, 64, 64), "f4")}, "1 tensors have no"),
        ("ppn", {"Conv2d_11_pointwise/weights": None}, "Conv2d_11_pointwise/weights is missing"),
        ("ssd", {"Conv2d_0/BatchNorm/moving_variance": -np.ones(8, "f4")}, "negative variances"),
        ("ssd", {"Conv2d_0/BatchNorm/beta": np.ones(8, "f4") * np.nan}, "not finite numbers"),
    ],
)
def test_read_detector__variables_that_do_not_fit__are_named(
    kind: str, change: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    changed = {f"{graphs.BACKBONE}/{name}": array for name, array in change.items()}
    variables = KINDS[kind][0]().variables | changed
    path = write_bundle(
        tmp_path / "model.ckpt", {k: x for k, x in variables.items() if x is not None}
    )
    with pytest.raises(WeightsError, match=message) as caught:
        read_detector(path, names=NAMES)
    assert str(path) in str(caught.value)


def test_read_detector__other_number_of_names__says_how_many_are_wanted(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "a.pb", graphs.ppn())
    with pytest.raises(WeightsError, match="a detector of 3 classes"):
        read_detector(path)
    with pytest.raises(DataError, match="have 4 columns with background"):
        read_detector(path, names=["cat"])
