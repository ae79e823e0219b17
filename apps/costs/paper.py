"""The tables of the MobileNet paper, with our counts beside its figures."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...backbone.cost import Cost, LayerCost, count_cost
from ...backbone.layers import DepthwiseSeparable
from ...backbone.mobilenet import ImageClassifier, MobileNetV1

CLASSIFICATION = "classification"


class Row(NamedTuple):
    """A row of a table: our counts and the paper's figures, None where there are none."""

    table: int
    framework: str
    """The job, or the detection framework of Table 13 with its input size."""
    model: str
    resolution: int | None
    """Side of the square image in px."""
    width_mult: float | None
    mult_adds: int | None
    params: int | None
    """All parameters, including those of batch normalization."""
    paper_mult_adds: int | None
    paper_params: int | None
    note: str = ""
    """An explanation of a difference, or of a missing count."""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data; ``note`` only if there is one."""
        row = self._asdict()
        if not self.note:
            del row["note"]
        return row


def row(
    table: int,
    model: str,
    resolution: int | None,
    width_mult: float | None,
    cost: Cost | None,
    mega_mult_adds: float | None,
    mega_params: float | None,
    note: str = "",
    framework: str = CLASSIFICATION,
) -> Row:
    """Make a row; the paper's figures are given in millions, as it prints them."""
    counts = (None, None) if cost is None else (cost.mult_adds, cost.params)
    figures = (mega_mult_adds, mega_params)
    paper = (None if mega is None else round(mega * 1_000_000) for mega in figures)
    return Row(table, framework, model, resolution, width_mult, *counts, *paper, note=note)


def cost_at(build: Callable[[], nn.Module], size_hw: tuple[int, int], channels: int = 3) -> Cost:
    """Count a module for one image (1, channels, H, W) without calculating anything."""
    with torch.device("meta"):
        return count_cost(build(), torch.empty(1, channels, *size_hw))


@cache
def mobilenet_cost(
    width_mult: float = 1.0, resolution: int = 224, outputs: int = 1000, **variant: Any
) -> Cost:
    """Count a MobileNet with global pooling and one fully connected layer (Table 1)."""

    def build() -> nn.Module:
        return ImageClassifier(MobileNetV1(width_mult=width_mult, **variant), outputs)

    return cost_at(build, (resolution, resolution))


@cache
def peer_cost(name: str, outputs: int) -> tuple[int, Cost]:
    """Return the input size in px and the cost of a model of ``backbone.external_backbones``."""
    from ...backbone.external_backbones import PEERS

    size, build = PEERS[name]
    return size, cost_at(lambda: build(outputs), (size, size))


def mobilenet_row(
    table: int,
    width_mult: float,
    resolution: int,
    mega_mult_adds: float,
    mega_params: float,
    note: str = "",
    outputs: int = 1000,
    framework: str = CLASSIFICATION,
) -> Row:
    """Make a row "0.75 MobileNet-192"; see ``row`` for the paper's figures."""
    cost = mobilenet_cost(width_mult, resolution, outputs)
    name = f"{width_mult} MobileNet-{resolution}"
    figures = (mega_mult_adds, mega_params)
    return row(table, name, resolution, width_mult, cost, *figures, note, framework)


def peer_row(
    table: int,
    name: str,
    mega_mult_adds: float | None,
    mega_params: float | None,
    note: str,
    outputs: int = 1000,
) -> Row:
    """Make a row of a comparison model; see ``row`` for the paper's figures."""
    size, cost = peer_cost(name, outputs)
    return row(table, name, size, None, cost, mega_mult_adds, mega_params, note)


def body_layers() -> Iterator[Row]:
    """Table 1: the body layer by layer; the paper gives shapes, the costs are ours."""
    cost = mobilenet_cost()
    last = "The paper prints stride 2 here; with its input and output of 7x7 only 1 is possible."
    for layer in cost.layers:
        if layer.mult_adds:
            note = last if "blocks.12.depthwise" in layer.name else ""
            one = Cost((layer,))
            yield row(1, _as_in_table_1(layer), 224, 1.0, one, None, None, note)
    yield row(1, "all, with normalization", 224, 1.0, cost, 569, 4.2)


def _as_in_table_1(layer: LayerCost) -> str:
    """Format a layer as in Table 1: type / stride, filter, input."""
    if len(layer.weight_shape) == 2:
        outputs, inputs = layer.weight_shape
        return f"FC / s1  {inputs}x{outputs}  1x1x{inputs}"
    outputs, inputs, height, width = layer.weight_shape
    channels, rows, columns = layer.input_chw
    name, filters = "Conv", f"{height}x{width}x{inputs}x{outputs}"
    if " dw" in layer.kind:
        name, filters = "Conv dw", f"{height}x{width}x{outputs} dw"
    return f"{name} / s{layer.stride}  {filters}  {rows}x{columns}x{channels}"


def kinds_of_layers() -> Iterator[Row]:
    """Table 2: the share of each kind of layer, without normalization and biases."""
    kinds = mobilenet_cost().by_kind()
    # The paper counts weights alone: with its biases, the classifier's share would be 24.35 %.
    biases = 1000
    weights = sum(params for kind, (_, params) in kinds.items() if kind != "normalization") - biases
    for kind, (mult_share, param_share) in {
        "conv 1x1": (94.86, 74.59),
        "conv dw 3x3": (3.06, 1.06),
        "conv 3x3": (1.19, 0.02),
        "fully connected": (0.18, 24.33),
    }.items():
        mult_adds, params = kinds[kind]
        params -= biases if kind == "fully connected" else 0
        counted = (100 * mult_adds / mobilenet_cost().mult_adds, 100 * params / weights)
        note = (
            f"Shares in the paper: {mult_share} % of mult-adds, {param_share} % of parameters; "
            f"counted: {counted[0]:.2f} % and {counted[1]:.2f} %."
        )
        if kind == "conv 3x3":
            note += (
                " The paper's four shares of mult-adds sum to 99.29 %, with 1.91 % to 100.01 %: "
                "1.19 looks like 1.91 with two digits swapped."
            )
        figures = (mult_share / 100 * 569, param_share / 100 * 4.2)
        whole = row(2, kind, 224, 1.0, None, *figures, note)
        yield whole._replace(mult_adds=mult_adds, params=params)


def internal_layer() -> Iterator[Row]:
    """Table 3: one layer of 14x14x512, full, separable, thinner, smaller."""

    def full() -> nn.Module:
        return nn.Conv2d(512, 512, 3, padding=1, bias=False)

    def separable(channels: int) -> Callable[[], nn.Module]:
        return lambda: DepthwiseSeparable(channels, channels)

    for name, build, width_mult, channels, side, resolution, figures in (
        ("convolution 3x3, 14x14x512", full, 1.0, 512, 14, 224, (462, 2.36)),
        ("depthwise separable", separable(512), 1.0, 512, 14, 224, (52.3, 0.27)),
        ("and alpha = 0.75", separable(384), 0.75, 384, 14, 224, (29.6, 0.15)),
        ("and rho = 0.714 (10x10)", separable(384), 0.75, 384, 10, 160, (15.1, 0.15)),
    ):
        cost = cost_at(build, (side, side), channels)
        yield row(3, name, resolution, width_mult, cost, *figures)


def full_convolutions() -> Iterator[Row]:
    """Table 4: full against depthwise separable convolutions."""
    cost = mobilenet_cost(convolution="full")
    note = "The convolutions alone have 4,866 M, which the paper prints; the classifier adds 1 M."
    yield row(4, "Conv MobileNet", 224, 1.0, cost, 4866, 29.3, note)
    yield mobilenet_row(4, 1.0, 224, 569, 4.2)


def narrow_or_shallow() -> Iterator[Row]:
    """Table 5: a thinner against a shallower network."""
    yield mobilenet_row(5, 0.75, 224, 325, 2.6)
    yield row(5, "Shallow MobileNet", 224, 1.0, mobilenet_cost(shallow=True), 307, 2.9)


def width_multipliers() -> Iterator[Row]:
    """Table 6."""
    figures = ((1.0, 569, 4.2), (0.75, 325, 2.6), (0.5, 149, 1.3), (0.25, 41, 0.5))
    for width_mult, mult_adds, params in figures:
        yield mobilenet_row(6, width_mult, 224, mult_adds, params)


def resolutions() -> Iterator[Row]:
    """Table 7."""
    for resolution, mult_adds in ((224, 569), (192, 418), (160, 290), (128, 186)):
        yield mobilenet_row(7, 1.0, resolution, mult_adds, 4.2)


def popular_models() -> Iterator[Row]:
    """Table 8, and ResNet-50 for comparison."""
    yield mobilenet_row(8, 1.0, 224, 569, 4.2)
    note = (
        "torchvision's has 3x3 convolutions where Szegedy et al. 2015 (Table 1) have 5x5, and no "
        "side heads."
    )
    yield peer_row(8, "GoogLeNet", 1550, 6.8, note)
    note = "The convolutions alone have 15,347 M, which the paper's figure fits."
    yield peer_row(8, "VGG-16", 15300, 138, note)
    yield peer_row(8, "ResNet-50", None, None, "Not in the paper's table; for comparison.")


def small_popular_models() -> Iterator[Row]:
    """Table 9: smaller popular models."""
    note = "The paper leaves normalization out of the parameters: 1.32 M without its 0.01 M."
    yield mobilenet_row(9, 0.5, 160, 76, 1.32, note)
    note = (
        "SqueezeNet 1.0 at 224 px. The paper's figure is about twice the mult-adds: "
        "multiplications and additions counted apart."
    )
    yield peer_row(9, "SqueezeNet", 1700, 1.25, note)
    note = (
        "torchvision's is the one-tower network of Krizhevsky 2014 (arXiv 1404.5997); the paper's "
        "figures are those of the two-tower network of 2012, of which its authors say 60 M."
    )
    yield peer_row(9, "AlexNet", 720, 60, note)


def stanford_dogs() -> Iterator[Row]:
    """Table 10: 120 classes."""
    inception = (
        "torchvision's at 299 px without its side head; with 1,000 classes 5,713 M and 23.8 M. The "
        "paper does not say what its own figures are for."
    )
    yield peer_row(10, "Inception V3", 5000, 23.2, inception, outputs=120)
    thousand = "The paper repeats the mult-adds of 1,000 classes; 120 need 0.9 M less."
    yield mobilenet_row(10, 1.0, 224, 569, 3.3, thousand, outputs=120)
    yield mobilenet_row(10, 0.75, 224, 325, 1.9, outputs=120)
    yield mobilenet_row(10, 1.0, 192, 418, 3.3, outputs=120)
    yield mobilenet_row(10, 0.75, 192, 239, 1.9, outputs=120)


GEO_CELLS = 9_800
"""Section 4.4: 10 M parameters in a last layer on 1,024 features."""
ATTRIBUTES = 40
"""The paper does not say how many; CelebA has 40, and the count hardly depends on it."""
EMBEDDING = 128
"""FaceNet's dimension (Schroff et al. 2015, Section 5.4)."""
COCO_CLASSES = 90
"""TensorFlow's label space, see ``heads.detection``."""
PROPOSALS = 300
"""Section 4.6."""


def geolocation_cost() -> Cost:
    """Count PlaNet with MobileNet's body: one classifier over the cells."""
    from ...heads.geolocation import CellClassifier

    return cost_at(lambda: CellClassifier(MobileNetV1(out_strides=(32,)), GEO_CELLS), (224, 224))


def geolocation() -> Iterator[Row]:
    """Table 11 gives no costs; they are in the text of Section 4.4."""
    size, inception = peer_cost("Inception V3", GEO_CELLS)
    job = "geolocation"
    note = (
        "52 M parameters need about 14,700 cells, the MobileNet's 10 M in the last layer about "
        "9,800; both are counted with 9,800."
    )
    yield row(11, "PlaNet, Inception V3", size, None, inception, 5740, 52, note, job)
    note = 'The paper\'s text prints "0.58 Million mult-adds"; 0.58 billion is meant.'
    cost = geolocation_cost()
    yield row(11, "PlaNet, 1.0 MobileNet-224", 224, 1.0, cost, 580, 13, note, job)


def face_attributes() -> Iterator[Row]:
    """Table 12: face attributes, one output each."""
    thinnest = (
        "Not explained by the architecture: the paper's Table 6 has 41 M at 224 px with 1,000 "
        "classes, and 128 px take (128 / 224)^2 = 0.327 of that, 13 M."
    )
    for width_mult, resolution, mult_adds, params, note in (
        (1.0, 224, 568, 3.2, ""),
        (0.5, 224, 149, 0.8, ""),
        (0.25, 224, 45, 0.2, thinnest),
        (1.0, 128, 185, 3.2, ""),
        (0.5, 128, 48, 0.8, ""),
        (0.25, 128, 15, 0.2, thinnest),
    ):
        figures = (mult_adds, params, note, ATTRIBUTES, "face attributes")
        yield mobilenet_row(12, width_mult, resolution, *figures)
    baseline = "The paper's own classifier, not published; its text says 75 M parameters."
    yield row(12, "Baseline", None, None, None, 1600, 7.5, baseline, "face attributes")


def detection() -> Iterator[Row]:
    """Table 13, whose mult-adds are in billions."""
    from ...heads.detection import SSD

    no_inception = "Neither torchvision nor timm has an Inception V2, so there is nothing to count."
    note = (
        "torchvision's SSD-300 with 90 classes and background. The paper's parameters fit neither "
        "this nor 80 classes (34.3 M)."
    )
    ssd, size_hw = "SSD 300", (300, 300)
    yield row(13, "deeplab-VGG", 300, None, cost_at(SsdVgg, size_hw), 34900, 33.1, note, ssd)
    yield row(13, "Inception V2", 300, None, None, 3800, 13.7, no_inception, ssd)
    cost = cost_at(lambda: SSD(MobileNetV1(), COCO_CLASSES), size_hw)
    yield row(13, "MobileNet", 300, 1.0, cost, 1200, 6.8, framework=ssd)
    note = (
        "torchvision's VGG-16 and box head with two layers of 4,096, as in Ren et al. 2015; 300 "
        "proposals."
    )
    more = " The paper has nearly as much at 300 px as at 600."
    for size, vgg, inception, mobilenet, extra in (
        (300, 64_300, 118_200, 25_200, more),
        (600, 149_600, 129_600, 30_500, ""),
    ):
        name = f"Faster-RCNN {size}"
        cost = cost_at(FasterRcnnVgg, (size, size))
        yield row(13, "VGG", size, None, cost, vgg, 138.5, note, name)
        yield row(13, "Inception V2", size, None, None, inception, 13.3, no_inception + extra, name)
        cost = cost_at(FasterRcnnMobileNet, (size, size))
        yield row(13, "MobileNet", size, 1.0, cost, mobilenet, 6.1, framework=name)


class SsdVgg(nn.Module):
    """SSD-300 on VGG-16 (Liu et al. 2016), the parts of torchvision's that cost mult-adds."""

    def __init__(self) -> None:
        from torchvision.models.detection.ssd import SSDHead

        from ...backbone.external_backbones import VggSsdFeatures

        super().__init__()
        self.backbone = VggSsdFeatures()
        boxes_per_cell = [4, 6, 6, 6, 4, 4]
        channels = list(self.backbone.feature_info.channels)
        self.head = SSDHead(channels, boxes_per_cell, COCO_CLASSES + 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return offsets and logits of images (B, 3, 300, 300) in [-1, 1]."""
        return self.head(list(self.backbone(images)))


class FasterRcnnVgg(nn.Module):
    """Faster-RCNN on VGG-16 (Ren et al. 2015), from torchvision's parts, for 300 proposals.

    The cost of the second stage does not depend on which boxes are proposed, so zeros of the right
    shape replace the features that RoI pooling would cut out.
    """

    def __init__(self) -> None:
        from torchvision.models import vgg16
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.models.detection.rpn import RPNHead

        super().__init__()
        # Up to conv5_3, without the last pooling: stride 16.
        self.features = nn.Sequential(*list(vgg16(weights=None).features.children())[:-1])
        self.rpn = RPNHead(512, num_anchors=9)
        self.box_head = TwoMLPHead(512 * 7 * 7, 4096)
        self.predictor = FastRCNNPredictor(4096, COCO_CLASSES + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and box offsets (300, columns) of one image (1, 3, H, W)."""
        features = self.features(images)
        self.rpn([features])
        pooled = features.new_zeros(PROPOSALS, 512, 7, 7)
        return self.predictor(self.box_head(pooled))


class FasterRcnnMobileNet(nn.Module):
    """``heads.detection.FasterRCNN`` without the selection of proposals, which costs no mult-adds.

    The selection depends on values, which the device "meta" does not have; the second stage always
    gets the same number of boxes.
    """

    def __init__(self) -> None:
        from ...heads.detection.faster_rcnn import FasterRCNN

        super().__init__()
        self.detector = FasterRCNN(MobileNetV1(out_strides=(16,)), COCO_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class logits (1, 300, columns) of one image (1, 3, H, W)."""
        (features,) = self.detector.backbone(images)
        self.detector.rpn(features)
        return self.detector.roi(features, images.new_zeros(1, PROPOSALS, 4)).class_logits


def face_embeddings() -> Iterator[Row]:
    """Table 14: face embeddings, one linear layer on the pooled features."""
    note = "Its authors' model is not public."
    yield row(14, "FaceNet", None, None, None, 1600, 7.5, note, "face embeddings")
    note = (
        "The paper's parameters grow as the image shrinks, which a network with global pooling "
        "cannot do; counted is a 128-dimensional output."
    )
    for width_mult, resolution, mult_adds, params, extra in (
        (1.0, 160, 286, 4.9, "The body alone has 290 M. "),
        (1.0, 128, 185, 5.5, ""),
        (0.75, 160, 166, 3.4, "The paper prints 0.75 MobileNet-128 twice; this one is 160. "),
        (0.75, 128, 108, 3.8, "166 M at 160 px are 106 M at 128. "),
    ):
        figures = (mult_adds, params, extra + note, EMBEDDING, "face embeddings")
        yield mobilenet_row(14, width_mult, resolution, *figures)


TABLES: dict[int, tuple[str, Callable[[], Iterator[Row]]]] = {
    1: ("the body, layer by layer", body_layers),
    2: ("resources per kind of layer", kinds_of_layers),
    3: ("one layer, step by step", internal_layer),
    4: ("full against depthwise separable convolutions", full_convolutions),
    5: ("narrow against shallow", narrow_or_shallow),
    6: ("width multiplier", width_multipliers),
    7: ("resolution", resolutions),
    8: ("popular models", popular_models),
    9: ("smaller popular models", small_popular_models),
    10: ("Stanford Dogs", stanford_dogs),
    11: ("PlaNet, geolocation", geolocation),
    12: ("face attributes", face_attributes),
    13: ("COCO detection", detection),
    14: ("face embeddings distilled from FaceNet", face_embeddings),
}
"""Number of the table -> (title, rows)."""


def table_rows(number: int) -> tuple[Row, ...]:
    """Return the rows of a table, 1 to 14 as in the paper."""
    return tuple(TABLES[number][1]())
