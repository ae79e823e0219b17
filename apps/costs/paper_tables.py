"""The tables of the MobileNet paper (Howard et al. 2017, arXiv 1704.04861), counted again.

Every figure of ours is counted from a real module by ``backbone.cost``. Where the paper's figure
does not follow from its architecture, the row says so; nothing is bent to meet it. Classification
is here, Tables 1 to 10; the other jobs are in ``paper_jobs``.
"""

from collections.abc import Callable, Iterator

from torch import nn

from ...backbone.cost import Cost, LayerCost
from ...backbone.layers import DepthwiseSeparable
from .paper_rows import (
    CLASSIFICATION,
    MILLION,
    Row,
    cost_at,
    mobilenet_cost,
    mobilenet_row,
    peer_row,
    row,
)


def body_layers() -> Iterator[Row]:
    """Table 1: the body layer by layer; the paper gives shapes, and the costs are ours."""
    cost = mobilenet_cost()
    for layer in cost.layers:
        if layer.mult_adds:
            note = _LAST_STRIDE if "blocks.12.depthwise" in layer.name else ""
            one = Cost((layer,))
            yield row(1, _as_in_table_1(layer), 224, 1.0, one, None, None, note)
    yield row(1, "all, with normalisation", 224, 1.0, cost, 569, 4.2)


_LAST_STRIDE = (
    "The paper prints stride 2 here; with its input and output of 7x7 only stride 1 is possible."
)


def _as_in_table_1(layer: LayerCost) -> str:
    """A layer as Table 1 prints it: type / stride, filter, input."""
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
    """Table 2: shares of each kind of layer, of the whole without normalisation and biases."""
    cost = mobilenet_cost()
    kinds = cost.by_kind()
    # The paper counts weights alone: with the classifier's biases its share were 24.35 %.
    biases = 1000
    weights = sum(params for kind, (_, params) in kinds.items() if kind != "normalisation") - biases
    for kind, (mult_share, param_share) in _SHARES.items():
        mult_adds, params = kinds[kind]
        params -= biases if kind == "fully connected" else 0
        note = (
            f"Shares in the paper: {mult_share} % of mult-adds, {param_share} % of parameters; "
            f"counted: {mult_adds / cost.mult_adds:.2%} and {params / weights:.2%}. "
        ).replace("%", " %").replace("  %", " %") + _SHARE_NOTES.get(kind, "")
        yield Row(
            2,
            CLASSIFICATION,
            kind,
            224,
            1.0,
            mult_adds,
            params,
            round(mult_share / 100 * 569 * MILLION),
            round(param_share / 100 * 4.2 * MILLION),
            note.strip(),
        )


_SHARES = {
    "conv 1x1": (94.86, 74.59),
    "conv dw 3x3": (3.06, 1.06),
    "conv 3x3": (1.19, 0.02),
    "fully connected": (0.18, 24.33),
}
_SHARE_NOTES = {
    "conv 3x3": "The paper's four shares of mult-adds sum to 99.29 %, with 1.91 % to 100.01 %: "
    "1.19 looks like 1.91 with two digits swapped.",
}


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
    """Table 4."""
    cost = mobilenet_cost(convolution="full")
    note = "The convolutions alone have 4,866 M, which the paper prints; the classifier adds 1 M."
    yield row(4, "Conv MobileNet", 224, 1.0, cost, 4866, 29.3, note)
    yield mobilenet_row(4, 1.0, 224, 569, 4.2)


def narrow_or_shallow() -> Iterator[Row]:
    """Table 5."""
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
    yield peer_row(8, "GoogLeNet", 1550, 6.8, _GOOGLENET)
    yield peer_row(8, "VGG-16", 15300, 138, _VGG)
    yield peer_row(8, "ResNet-50", None, None, "Not in the paper's table; for comparison.")


_GOOGLENET = (
    "torchvision's has 3x3 convolutions where Szegedy et al. 2015 (Table 1) have 5x5, and no side "
    "heads."
)
_VGG = "The convolutions alone have 15,347 M, which the paper's figure fits."


def small_popular_models() -> Iterator[Row]:
    """Table 9."""
    note = "The paper leaves normalisation out of the parameters: 1.32 M without its 0.01 M."
    yield mobilenet_row(9, 0.5, 160, 76, 1.32, note)
    yield peer_row(9, "SqueezeNet", 1700, 1.25, _SQUEEZENET)
    yield peer_row(9, "AlexNet", 720, 60, _ALEXNET)


_SQUEEZENET = (
    "SqueezeNet 1.0 at 224 px. The paper's figure is about twice the mult-adds: multiplications "
    "and additions counted apart."
)
_ALEXNET = (
    "torchvision's is the one-tower network of Krizhevsky 2014 (arXiv 1404.5997); the paper's "
    "figures are those of the two-tower network of 2012, of which its authors say 60 M."
)


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


CLASSIFICATION_TABLES: dict[int, tuple[str, Callable[[], Iterator[Row]]]] = {
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
}
"""Number of the table -> (what it shows, its rows)."""
