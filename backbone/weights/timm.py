"""timm's MobileNetV1 weights (``mobilenetv1_100``, ``_100h``, ``_125``) into our network.

timm pads evenly and normalises with epsilon 1e-5. A state dict does not say how its pictures were
normalised: (0.5, 0.5) of [0, 1] is what timm's configuration of these three models has, which is
127.5 and 127.5 of uint8 pixels.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import WeightsError
from ..layers import ConvNormAct
from ..mobilenet import BLOCKS, MobileNetV1
from .file_tensors import FileTensors, file_format, load_torch_file
from .public_model import PublicModel, new_public_model, take_norm, width_of

STEM = "conv_stem.weight"
_HEAD = "conv_head.weight"
_TIMM_CLASSES = "classifier.weight"
_NAMES = {1.0: "mobilenetv1_100", 1.25: "mobilenetv1_125"}
_TRAINED_HW = (224, 224)  # timm's input_size of all three
TIMM_EPS = 1e-5


def read_timm(path: Path) -> PublicModel:
    """Return the network of a ``.safetensors``, ``.pth`` or ``.bin`` file with timm's names.

    Raises:
        WeightsError: No such file, a damaged one, another network, or a tensor is missing, left
            over or of another shape.
    """
    return timm_to_mobilenet(read_state_dict(path), path)


def timm_to_mobilenet(state: dict[str, Tensor], path: Path = Path("state dict")) -> PublicModel:
    """Return the network that a state dict of timm holds.

    Args:
        state: Names and tensors of one of timm's three MobileNetV1 models.
        path: Where they come from, for messages.

    Raises:
        WeightsError: It is another network, or a tensor is missing, left over or of another shape.
    """
    tensors = FileTensors(path, state)
    if STEM not in tensors:
        raise WeightsError(
            f"{path}: no {STEM}: not a MobileNetV1 of timm (mobilenetv1_100, _100h or _125)"
        )
    width_mult = width_of(path, tensors.shape("blocks.4.1.conv_pw.weight")[0])
    head_channels = tensors.shape(_HEAD)[0] if _HEAD in tensors else None
    public = new_public_model(
        path,
        "timm's " + _NAMES.get(width_mult, f"MobileNetV1 of width {width_mult:g}")
        + ("" if head_channels is None else "h"),
        width_mult=width_mult,
        padding="symmetric",
        norm_eps=TIMM_EPS,
        num_classes=tensors.shape(_TIMM_CLASSES)[0] if _TIMM_CLASSES in tensors else None,
        head_channels=head_channels if _TIMM_CLASSES in tensors else None,
        size_hw=_TRAINED_HW,
        notes=("Pixel mean and deviation are those of timm's configuration; the file has none.",),
    )  # fmt: skip
    for layer, conv, norm in _layers(public.backbone):
        _take_timm_layer(layer, tensors, conv, norm)
    if public.classifier is not None:
        if head_channels is not None:
            assert isinstance(public.classifier.head, ConvNormAct)
            _take_timm_layer(public.classifier.head, tensors, "conv_head", "bn2")
        linear = public.classifier.classifier
        with torch.no_grad():
            linear.weight.copy_(tensors.take(_TIMM_CLASSES, linear.weight.shape))
            linear.bias.copy_(tensors.take("classifier.bias", linear.bias.shape))
    tensors.require_all_used()
    return public


def _layers(backbone: MobileNetV1) -> list[tuple[ConvNormAct, str, str]]:
    """Our layers with timm's names of convolution and normalisation."""
    found = [(backbone.stem, "conv_stem", "bn1")]
    stage, position = 0, 0
    for block, (_, stride) in zip(backbone.blocks, BLOCKS, strict=True):
        if stride == 2:  # where timm's stages begin
            stage, position = stage + 1, 0
        scope = f"blocks.{stage}.{position}"
        found.append((block.depthwise, f"{scope}.conv_dw", f"{scope}.bn1"))  # type: ignore[arg-type]
        found.append((block.pointwise, f"{scope}.conv_pw", f"{scope}.bn2"))  # type: ignore[arg-type]
        position += 1
    return found


@torch.no_grad()
def _take_timm_layer(layer: ConvNormAct, tensors: FileTensors, conv: str, norm: str) -> None:
    layer.conv.weight.copy_(tensors.take(f"{conv}.weight", layer.conv.weight.shape))
    take_norm(
        layer,
        tensors,
        (f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean", f"{norm}.running_var"),
    )
    tensors.drop(f"{norm}.num_batches_tracked")  # a counter of training


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a ``.safetensors``, ``.pth`` or ``.bin`` file.

    Raises:
        WeightsError: No such file, a damaged one, one of another kind, or the package
            ``safetensors`` is not installed.
    """
    kind = file_format(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind != "torch":
        raise WeightsError(f"{path}: a {kind} file, and no state dict of PyTorch")
    content = load_torch_file(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(
            f"{path}: not a state dict (names and tensors); save model.state_dict() and nothing "
            "else"
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"{path}: reading .safetensors files needs the package safetensors: "
            "pip install 'mobilevision[hub]'"
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and what torch raises for an odd header
        raise WeightsError(
            f"{path}: a damaged .safetensors file ({error}); download it again"
        ) from error
