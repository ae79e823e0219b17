"""The tables of the MobileNet paper's other jobs, 11 to 14, and what each job's network is.

``geolocation_cost``, ``attributes_cost`` and ``embedding_cost`` are the places where the network
of a job is named; everything else follows from them.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from ...backbone.cost import Cost
from ...backbone.mobilenet import MobileNetV1
from .paper_rows import Row, cost_at, mobilenet_cost, peer_cost, row
from .paper_tables import CLASSIFICATION_TABLES

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
    """PlaNet with MobileNet's body: one classifier over the cells."""
    from ...heads.geolocation import CellClassifier

    return cost_at(lambda: CellClassifier(MobileNetV1(out_strides=(32,)), GEO_CELLS), (224, 224))


def attributes_cost(width_mult: float, resolution: int) -> Cost:
    """Face attributes: one output each."""
    return mobilenet_cost(width_mult, resolution, ATTRIBUTES)


def embedding_cost(width_mult: float, resolution: int) -> Cost:
    """Face embeddings: one linear layer on the pooled features."""
    return mobilenet_cost(width_mult, resolution, EMBEDDING)


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
    """Table 12."""
    for width_mult, resolution, mult_adds, params, note in (
        (1.0, 224, 568, 3.2, ""),
        (0.5, 224, 149, 0.8, ""),
        (0.25, 224, 45, 0.2, _THINNEST),
        (1.0, 128, 185, 3.2, ""),
        (0.5, 128, 48, 0.8, ""),
        (0.25, 128, 15, 0.2, _THINNEST),
    ):
        cost = attributes_cost(width_mult, resolution)
        name = f"{width_mult} MobileNet-{resolution}"
        figures = (mult_adds, params)
        yield row(12, name, resolution, width_mult, cost, *figures, note, "face attributes")
    baseline = "The paper's own classifier, not published; its text says 75 M parameters."
    yield row(12, "Baseline", None, None, None, 1600, 7.5, baseline, "face attributes")


_THINNEST = (
    "Not explained by the architecture: the paper's Table 6 has 41 M at 224 px with 1,000 classes, "
    "and 128 px take (128 / 224)^2 = 0.327 of that, 13 M."
)


def detection() -> Iterator[Row]:
    """Table 13; mult-adds in billions there."""
    yield from (_ssd_vgg(), _inception_v2("SSD 300", 300, 3800, 13.7), _ssd_mobilenet())
    for size, vgg, inception, mobilenet in ((300, 64.3, 118.2, 25.2), (600, 149.6, 129.6, 30.5)):
        framework = f"Faster-RCNN {size}"
        cost = cost_at(FasterRcnnVgg, (size, size))
        yield row(13, "VGG", size, None, cost, vgg * 1000, 138.5, _RCNN_VGG, framework)
        yield _inception_v2(framework, size, inception * 1000, 13.3)
        yield _faster_rcnn_mobilenet(size, mobilenet * 1000)


def _ssd_vgg() -> Row:
    note = (
        "torchvision's SSD-300 with 90 classes and background. The paper's parameters fit neither "
        "this nor 80 classes (34.3 M)."
    )
    cost = cost_at(SsdVgg, (300, 300))
    return row(13, "deeplab-VGG", 300, None, cost, 34900, 33.1, note, "SSD 300")


def _ssd_mobilenet() -> Row:
    from ...heads.detection import SSD

    cost = cost_at(lambda: SSD(MobileNetV1(), COCO_CLASSES), (300, 300))
    return row(13, "MobileNet", 300, 1.0, cost, 1200, 6.8, framework="SSD 300")


def _faster_rcnn_mobilenet(size: int, mega_mult_adds: float) -> Row:
    cost = cost_at(FasterRcnnMobileNet, (size, size))
    figures = (mega_mult_adds, 6.1)
    return row(13, "MobileNet", size, 1.0, cost, *figures, framework=f"Faster-RCNN {size}")


def _inception_v2(framework: str, size: int, mega_mult_adds: float, mega_params: float) -> Row:
    note = "Neither torchvision nor timm has an Inception V2, so there is nothing to count."
    if framework == "Faster-RCNN 300":
        note += " The paper has nearly as much at 300 px as at 600."
    figures = (mega_mult_adds, mega_params)
    return row(13, "Inception V2", size, None, None, *figures, note, framework)


_RCNN_VGG = (
    "torchvision's VGG-16 and box head with two layers of 4,096, as in Ren et al. 2015; 300 "
    "proposals."
)


class SsdVgg(nn.Module):
    """SSD-300 on VGG-16 (Liu et al. 2016), of torchvision's parts, as far as it costs mult-adds."""

    def __init__(self) -> None:
        from torchvision.models.detection.ssd import SSDHead

        from ...backbone.external_backbones import VggSsdFeatures

        super().__init__()
        self.backbone = VggSsdFeatures()
        boxes_per_cell = [4, 6, 6, 6, 4, 4]
        channels = list(self.backbone.feature_info.channels)
        self.head = SSDHead(channels, boxes_per_cell, COCO_CLASSES + 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return offsets and logits of pictures (B, 3, 300, 300) in [-1, 1]."""
        return self.head(list(self.backbone(images)))


class FasterRcnnVgg(nn.Module):
    """Faster-RCNN on VGG-16 (Ren et al. 2015), of torchvision's parts, for 300 proposals.

    Which boxes are proposed does not matter for what the second stage costs, so features of the
    right shape stand for what RoI pooling cuts out.
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
        """Return class logits and box offsets (300, columns) of one picture (1, 3, H, W)."""
        features = self.features(images)
        self.rpn([features])
        pooled = features.new_zeros(PROPOSALS, 512, 7, 7)
        return self.predictor(self.box_head(pooled))


class FasterRcnnMobileNet(nn.Module):
    """``heads.detection.FasterRCNN`` without the choice of proposals, which costs no mult-adds.

    That choice depends on values, which the device "meta" has not; the second stage always sees
    as many boxes.
    """

    def __init__(self) -> None:
        from ...heads.detection.faster_rcnn import FasterRCNN

        super().__init__()
        self.detector = FasterRCNN(MobileNetV1(out_strides=(16,)), COCO_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class logits (1, 300, columns) of one picture (1, 3, H, W)."""
        (features,) = self.detector.backbone(images)
        self.detector.rpn(features)
        return self.detector.roi(features, images.new_zeros(1, PROPOSALS, 4)).class_logits


def face_embeddings() -> Iterator[Row]:
    """Table 14."""
    note = "Its authors' model is not public."
    yield row(14, "FaceNet", None, None, None, 1600, 7.5, note, "face embeddings")
    for width_mult, resolution, mult_adds, params, extra in (
        (1.0, 160, 286, 4.9, "The body alone has 290 M."),
        (1.0, 128, 185, 5.5, ""),
        (0.75, 160, 166, 3.4, "The paper prints 0.75 MobileNet-128 twice; this one is 160."),
        (0.75, 128, 108, 3.8, "166 M at 160 px are 106 M at 128."),
    ):
        cost = embedding_cost(width_mult, resolution)
        name = f"{width_mult} MobileNet-{resolution}"
        figures = (mult_adds, params)
        notes = f"{extra} {_EMBEDDING_PARAMS}".strip()
        yield row(14, name, resolution, width_mult, cost, *figures, notes, "face embeddings")


_EMBEDDING_PARAMS = (
    "The paper's parameters grow as the picture shrinks, which a network with global pooling "
    "cannot do; counted is a 128-dimensional output."
)

TABLES: dict[int, tuple[str, Callable[[], Iterator[Row]]]] = {
    **CLASSIFICATION_TABLES,
    11: ("PlaNet, geolocation", geolocation),
    12: ("face attributes", face_attributes),
    13: ("COCO detection", detection),
    14: ("face embeddings distilled from FaceNet", face_embeddings),
}
"""Number of the table -> (what it shows, its rows)."""


def table_rows(number: int) -> tuple[Row, ...]:
    """Return the rows of a table.

    Args:
        number: 1 to 14, as in the paper.
    """
    return tuple(TABLES[number][1]())
