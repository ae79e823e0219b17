import pytest
import torch

from mobilevision.backbone import MobileNetV1, fuse
from mobilevision.datasets.types import DetectionTarget
from mobilevision.heads.face_detection.model import (
    ContextModule,
    ContextPyramid,
    RetinaFace,
    SquareAnchors,
)


def small_network(**options) -> RetinaFace:
    torch.manual_seed(0)
    return RetinaFace(MobileNetV1(0.25, out_strides=(8, 16, 32)), channels=16, **options)


def test_retinaface__has_the_parameters_of_the_public_network() -> None:
    backbone = MobileNetV1(0.25, out_strides=(8, 16, 32), activation="leaky_relu")
    assert sum(each.numel() for each in RetinaFace(backbone).parameters()) == 426_608


@pytest.mark.parametrize("size_hw", [(64, 96), (33, 70), (1, 5)])
def test_output__of_any_size(size_hw) -> None:
    network = small_network().eval()
    output = network(torch.zeros(2, 3, *size_hw, dtype=torch.uint8))
    cells = sum(-(-size_hw[0] // step) * -(-size_hw[1] // step) for step in (8, 16, 32))
    assert output.box_deltas.shape == (2, 2 * cells, 4)
    assert output.class_logits.shape == (2, 2 * cells, 2)
    assert output.landmark_deltas.shape == (2, 2 * cells, 5, 2)
    assert output.anchors.shape == (2 * cells, 4)


def test_anchors__lie_on_the_strides_where_these_do_not_divide_the_image() -> None:
    anchors = SquareAnchors((8, 16), ((10,), (20,)))(
        (12, 20), [(2, 3), (1, 2)], torch.device("cpu")
    )
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert centers.tolist() == expected
    torch.testing.assert_close(anchors[0], torch.tensor([-1.0, -1.0, 9.0, 9.0]))
    torch.testing.assert_close(anchors[6], torch.tensor([-2.0, -2.0, 18.0, 18.0]))


def test_anchors__of_many_sizes__are_not_all_kept() -> None:
    anchors = SquareAnchors((8,), ((10,),))
    for side in range(1, 40):
        anchors((side, 8), [(1, 1)], torch.device("cpu"))
    assert len(anchors._cache) == 16


def test_anchors__of_another_number_of_maps() -> None:
    with pytest.raises(ValueError, match="3 strides and anchors of 1 maps"):
        SquareAnchors((8, 16, 32), ((16, 32),))


def test_context__sees_seven_cells() -> None:
    module = ContextModule(4).eval()
    features = torch.zeros(1, 4, 15, 15, requires_grad=True)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "conv" in name:
                parameter.fill_(0.1)
    with torch.no_grad():
        features[:] = 1.0
    module(features)[0, :, 7, 7].sum().backward()
    rows = features.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten().tolist()
    assert rows == list(range(4, 11))


def test_context__of_channels_that_four_does_not_divide() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        ContextModule(6)


def test_pyramid__coarse_maps_reach_fine_ones_and_not_the_other_way() -> None:
    pyramid = ContextPyramid(MobileNetV1(0.25, out_strides=(8, 16, 32)), 8).eval()
    assert pyramid.feature_info == ((8, 8, 8), (8, 16, 32))
    images = torch.randn(1, 3, 64, 64)
    before = pyramid(images)
    with torch.no_grad():
        pyramid.lateral[2].norm.bias += 5.0
    after = pyramid(images)
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        pyramid.lateral[0].norm.bias += 5.0
    last = pyramid(images)
    assert torch.equal(after[1], last[1])
    assert torch.equal(after[2], last[2])
    assert not torch.equal(after[0], last[0])


def test_detect__landmarks_belong_to_their_boxes() -> None:
    network = small_network().eval()
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    output = network(images)
    logits = torch.full_like(output.class_logits, -9.0)
    logits[..., 0] = 9.0
    chosen = [3, 40, 131]  # of 128 + 32 + 8 anchors
    logits[0, chosen] = torch.tensor([[-2.0, 2.0], [-3.0, 3.0], [-1.0, 1.0]])
    deltas = torch.zeros_like(output.box_deltas)
    points = torch.arange(168.0)[None, :, None, None].expand(1, 168, 5, 2)
    output = output._replace(box_deltas=deltas, class_logits=logits, landmark_deltas=points)
    found = network.detect(output, (64, 64)).unbatch()[0]
    assert found.landmarks is not None
    assert len(found.boxes) == 3
    for row, anchor in enumerate((40, 3, 131)):  # by falling score
        box = output.anchors[anchor]
        center, side = (box[:2] + box[2:]) / 2, box[2] - box[0]
        expected = (center + anchor * 0.1 * side).expand(5, 2)
        torch.testing.assert_close(found.landmarks[row], expected)


def test_detect__nothing__is_empty() -> None:
    network = small_network().eval()
    output = network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    logits = torch.zeros_like(output.class_logits)
    logits[..., 0] = 20.0
    for found in network.detect(output._replace(class_logits=logits), (64, 64)).unbatch():
        assert found.boxes.shape == (0, 4)
        assert found.landmarks.shape == (0, 5, 2)


def test_fused__same_output() -> None:
    network = small_network(activation="leaky_relu").eval()
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    fused = fuse(network)
    for ours, original in zip(fused(images)[:2], network(images)[:2], strict=True):
        torch.testing.assert_close(ours, original, rtol=1e-4, atol=1e-4)


def test_gradient__reaches_every_parameter() -> None:
    network = small_network().train()
    target = DetectionTarget(
        torch.tensor([[[10.0, 10.0, 30.0, 34.0]], [[20.0, 5.0, 110.0, 100.0]]]),
        torch.zeros(2, 1, dtype=torch.int64),
        torch.zeros(2, 1, dtype=torch.bool),
        torch.full((2, 1, 5, 2), 20.0),
    )
    losses = network.compute_losses(network(torch.randint(0, 256, (2, 3, 128, 128))), target)
    assert losses.keys() == {"classification", "box", "landmarks"}
    torch.stack(list(losses.values())).sum().backward()
    # Faces of 20 and 90 px have no positive anchor on the coarsest map.
    without = [
        name
        for name, each in network.named_parameters()
        if each.grad is None or not each.grad.any()
    ]
    assert without == [
        f"predictors.2.{layer}.{part}"
        for layer in ("boxes", "landmarks")
        for part in ("weight", "bias")
    ]
