"""MobileNet's classifier in evaluation: eager, channels_last, fused and compiled, against timm's.

    python benchmarks/backbone.py
    python benchmarks/backbone.py --batches [1] --rounds 50 --threads 2 --compiled false

The peer is timm's mobilenetv1_100 in plain eager mode; all variants have its weights, drawn at
random, with statistics of batch normalization measured on noise. TensorFlow's padding, which the
public weights need, is timed too; its outputs are compared with those of our own eager network
with that padding. The variants take turns, so that a change of the machine's speed meets all alike;
a ratio is the median of those of the rounds. ``error`` is the largest difference of two logits
over the largest logit. One thread by default: with more, another load on the machine stalls them.
Freed memory is kept by the process, for all alike: mapping large maps anew takes as long as the
convolutions at batch 16, and how long depends on chance.
"""

import shutil
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from mobilevision.apps.benchmark.processes import time_in_turns
from mobilevision.apps.training.runs import keep_freed_memory
from mobilevision.backbone import ImageClassifier, MobileNetV1, fuse
from mobilevision.backbone.layers import Padding

TOLERANCE, BFLOAT16_TOLERANCE = 1e-4, 0.25


class Variant(NamedTuple):
    """A network that is timed."""

    name: str
    network: Callable[[Tensor], Tensor]
    reference: nn.Module
    """What its logits are compared with."""
    channels_last: bool = False
    bfloat16: bool = False


def compare(
    batches: tuple[int, ...] = (1, 16),
    rounds: int = 20,
    threads: int = 1,
    size: int = 224,
    compiled: bool = True,
) -> None:
    """Print the time of each variant, and how much faster than timm it is.

    Args:
        batches: Images of a call.
        rounds: Timed calls of each variant, after one that is not timed.
        threads: Threads of torch.
        size: Height and width of the images in pixels.
        compiled: Also time torch.compile, which needs a C++ compiler and a minute.

    Raises:
        SystemExit: Logits differ by more than 1e-4 of the largest (bfloat16: 0.25).
    """
    torch.set_num_threads(threads)
    if compiled and shutil.which("g++") is None and shutil.which("clang++") is None:
        print("torch.compile is left out: there is no C++ compiler\n")
        compiled = False
    print(f"MobileNet 1.0 at {size} px, {threads} thread(s), torch {torch.__version__}, "
          f"timm {timm.__version__}\n")  # fmt: skip
    print(f"{'variant':<26}{'batch':>6}{'ms an image':>14}{'ratio':>8}{'error':>10}")
    variants = make_variants(compiled)
    for batch in batches:
        images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        errors = [check(variant, images) for variant in variants]
        runs = {variant.name: partial(variant.network, _input(variant, images))
                for variant in variants}  # fmt: skip
        with torch.inference_mode():
            times = time_in_turns(runs, rounds, warm_up=0)  # the check has run each of them once
        for name, error in zip(runs, errors, strict=True):
            median, ratio = times.median(name), times.ratio(variants[0].name, name)
            print(f"{name:<26}{batch:>6}{median / batch * 1e3:>14.2f}{ratio:>7.2f}x{error:>10.0e}",
                  flush=True)  # fmt: skip


def make_variants(compiled: bool) -> list[Variant]:
    """Return the networks, timm's first."""
    torch.manual_seed(0)
    peer = timm.create_model("mobilenetv1_100")
    with torch.no_grad():  # statistics as after training: no layer's values explode or vanish
        for norm in peer.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = None  # the average over all batches
        for _ in range(2):
            peer.train()(torch.randn(8, 3, 96, 96))
    peer.eval()
    ours, same = copy_weights(peer, "symmetric"), copy_weights(peer, "same")
    last = copy_weights(peer, "symmetric").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    variants = [
        Variant("timm, eager", peer, peer),
        Variant("eager", ours, peer),
        Variant("eager, channels_last", last, peer, channels_last=True),
        Variant("fused", fuse(ours), peer, channels_last=True),
        Variant("fused, bf16", fuse(ours).bfloat16(), peer, channels_last=True, bfloat16=True),
        Variant("eager, SAME padding", same, same),
        Variant("fused, SAME padding", fuse(same), same, channels_last=True),
    ]
    if compiled:
        variants += [
            Variant("compiled", torch.compile(ours), peer),
            Variant("compiled, fused", torch.compile(fuse(ours)), peer, channels_last=True),
        ]
    return variants


def copy_weights(peer: nn.Module, padding: Padding) -> ImageClassifier:
    """Return our classifier with timm's weights, which are in the same order."""
    network = ImageClassifier(MobileNetV1(padding=padding, norm_eps=1e-5))
    values = peer.state_dict().values()
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    return network.eval()


@torch.inference_mode()
def check(variant: Variant, images: Tensor) -> float:
    """Return the largest difference from the reference over its largest logit.

    Raises:
        SystemExit: It is more than it may be.
    """
    expected = variant.reference(images)
    difference = (variant.network(_input(variant, images)).float() - expected).abs().max()
    error = float(difference / expected.abs().max())
    if not error <= (BFLOAT16_TOLERANCE if variant.bfloat16 else TOLERANCE):
        raise SystemExit(f"{variant.name}: logits differ by {error:.1e} of the largest")
    return error


def _input(variant: Variant, images: Tensor) -> Tensor:
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    dtype = torch.bfloat16 if variant.bfloat16 else torch.float32
    return images.to(dtype).contiguous(memory_format=layout)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    keep_freed_memory()
    auto_cli(compare)
