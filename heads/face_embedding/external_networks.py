"""Face networks of other projects: ONNX, ncnn and FaceNet. The first two need no torch.

Each has a card that says what it takes, see ``cards.py``: the one beside the file, else a built-in
one, else ArcFace's convention as far as the graph does not tell otherwise, with a warning.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backbone.errors import WeightsError, import_extra
from ...datasets.faces.alignment import ARCFACE_SIZE
from ...datasets.images import stretch
from .cards import FACENET, Card, card_path, known_card
from .far_frr import normalized

if TYPE_CHECKING:
    from torch import Tensor


_ARITHMETIC = {"Sub", "Add", "Mul", "Div", "BinaryOp"}
"""Kinds of operations with which networks normalize pixels themselves, in ONNX and in ncnn."""


class ExternalNetwork(ABC):
    """A network that embeds faces; a subclass opens and runs one.

    Args:
        files: Its files, that of the weights last.
        card: What it takes; None looks for it when the network is opened.

    Attributes:
        card: What it takes, known since the network was opened.
    """

    def __init__(self, files: Sequence[Path], card: Card | None = None) -> None:
        self.files = files
        self._given = card
        self.card = card or Card()
        self._opened = False

    @abstractmethod
    def _open(self) -> None:
        """Read the network, else raise a WeightsError; called once, before the first faces."""

    @abstractmethod
    def infer(self, pixels: np.ndarray) -> np.ndarray:
        """Return (B, D) float32 of any length, of (B, size, size, 3) float32 as the card says."""

    @property
    def side(self) -> int | None:
        """Side in px of the open network's input; None where it is free or not told."""
        return None

    def first_operations(self) -> list[str]:
        """Return the kinds of the open network's first two operations, if they take constants."""
        return []

    def open(self) -> None:
        """Read the network and its card, once.

        Raises:
            WeightsError: A file is absent or cannot be read, a library is not installed, or the
                card contradicts the network.
            DataError: The card is faulty.
        """
        if self._opened:
            return
        for file in self.files:
            if not file.is_file():
                raise WeightsError(f"{file}: no such file, which a face network needs")
        self._open()
        card = self._given or self._found_card()
        if card.size is not None and self.side not in (None, card.size):
            raise WeightsError(
                f"{self.files[0]}: takes images of {self.side} px, but its card says {card.size}"
            )
        self.card = replace(card, size=card.size or self.side or ARCFACE_SIZE)
        self._opened = True

    @property
    def size(self) -> int:
        """Side in px of the faces, known since the network was opened."""
        return self.card.size or ARCFACE_SIZE

    def _found_card(self) -> Card:
        path = card_path(self.files[0])
        if path.is_file():
            return Card.read(path)
        if (known := known_card(self.files)) is not None:
            return known
        return self.guess()

    def guess(self) -> Card:
        """Return the card of an open network that nobody knows, and say so on stderr."""
        card, reason = Card(), "ArcFace's convention"
        if len(kinds := self.first_operations()) == 2 and set(kinds) <= _ARITHMETIC:
            card = Card(pixel_mean=0.0, pixel_std=1.0)
            reason += " but for the range, since it begins with arithmetic on the pixels"
        file, own = self.files[0], card_path(self.files[0]).name
        print(
            f"warning: {file}: an unknown network without a card; it is run by {reason}: "
            f"{card.order.upper()}, (pixel - {card.pixel_mean:g}) / {card.pixel_std:g}. Check it "
            f"with `mobilevision verify` on pairs of faces, and write what is right into {own} "
            "beside it (docs/faces.md).",
            file=sys.stderr,
        )
        return card

    def embed(self, images: "np.ndarray | Tensor") -> np.ndarray:
        """Embed faces (B, H, W, 3) or (B, 3, H, W) uint8, RGB, B at least 1; resized if needed.

        Returns (B, D) float32 of unit length; an embedding of length zero stays zero.

        Raises:
            WeightsError, DataError: As ``open``.
        """
        self.open()
        pixels = self._prepared(images).astype(np.float32)
        pixels = (pixels - self.card.pixel_mean) / self.card.pixel_std
        ordered = pixels[..., ::-1] if self.card.order == "bgr" else pixels
        return normalized(self.infer(np.ascontiguousarray(ordered)))

    def _prepared(self, images: "np.ndarray | Tensor") -> np.ndarray:
        pixels = np.asarray(images) if isinstance(images, np.ndarray) else images.numpy(force=True)
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or 3 not in pixels.shape[1::2]:
            raise ValueError(f"wanted are B uint8 images, not {pixels.dtype} {pixels.shape}")
        if pixels.shape[3] != 3:
            pixels = pixels.transpose(0, 2, 3, 1)
        size_hw = (self.size, self.size)
        if pixels.shape[1:3] != size_hw:
            resized = [stretch(np.ascontiguousarray(face), size_hw) for face in pixels]
            pixels = np.array(resized, np.uint8).reshape(-1, *size_hw, 3)
        return pixels


class NcnnNetwork(ExternalNetwork):
    """An ncnn network, run in float32.

    Args:
        param: The ``.param`` file; the ``.bin`` lies beside it.
        card: As for the base.
        num_threads: Threads of one image.
    """

    def __init__(self, param: str | Path, card: Card | None = None, num_threads: int = 1) -> None:
        path = Path(param)
        super().__init__((path, path.with_suffix(".bin")), card)
        self.num_threads = num_threads
        self._library: Any = None
        self._network: Any = None

    def _open(self) -> None:
        self._library = import_extra("ncnn", "ncnn", "this network")
        network = self._library.Net()
        options = network.opt
        options.num_threads = self.num_threads
        # Half precision would give other embeddings on each kind of processor.
        options.use_fp16_packed = options.use_fp16_storage = False
        options.use_fp16_arithmetic = options.use_bf16_storage = False
        param, weights = self.files
        if network.load_param(str(param)) or network.load_model(str(weights)):
            raise WeightsError(f"{param}: ncnn cannot read it and {weights.name}")
        self._network = network

    def first_operations(self) -> list[str]:
        """See ``ExternalNetwork``; after the version, the counts and the input come the layers."""
        layers = self.files[0].read_text(errors="replace").splitlines()[3:5]
        return [line.partition(" ")[0] for line in layers]

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        """See ``ExternalNetwork``."""
        source, target = self._network.input_names()[0], self._network.output_names()[-1]
        embeddings: list[np.ndarray] = []
        for face in np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)):
            planes = self._library.Mat(face).clone()  # has to live as long as the extractor
            extractor = self._network.create_extractor()
            extractor.input(source, planes)
            status, said = extractor.extract(target)
            if status:
                raise WeightsError(f"{self.files[0]}: ncnn cannot run it on {face.shape}")
            embeddings.append(np.array(said).reshape(-1))
        return np.stack(embeddings)


class OnnxNetwork(ExternalNetwork):
    """An ONNX model, run by ONNX Runtime.

    Args:
        path: The file.
        card: As for the base.
    """

    def __init__(self, path: str | Path, card: Card | None = None) -> None:
        super().__init__((Path(path),), card)
        self._session: Any = None

    def _open(self) -> None:
        runtime = import_extra("onnxruntime", "onnxruntime", "this network")
        (path,) = self.files
        try:
            self._session = runtime.InferenceSession(
                str(path), providers=runtime.get_available_providers()
            )
        except Exception as error:  # the runtime has many kinds of its own
            raise WeightsError(f"{path}: cannot be run as an ONNX model ({error})") from error
        source = self._session.get_inputs()[0]
        if len(source.shape) != 4 or 3 not in (source.shape[1], source.shape[3]):
            raise WeightsError(
                f"{path}: takes {source.shape}, and not images of three channels. (What "
                "`mobilevision export` wrote is opened without onnx: before its name.)"
            )
        if source.type != "tensor(float)":
            raise WeightsError(f"{path}: takes {source.type}, and not float32 pixels")

    @property
    def _channels_last(self) -> bool:
        return self._session.get_inputs()[0].shape[1] != 3

    @property
    def side(self) -> int | None:
        """See ``ExternalNetwork``."""
        shape = self._session.get_inputs()[0].shape
        side = shape[1] if self._channels_last else shape[2]
        return side if isinstance(side, int) else None

    def first_operations(self) -> list[str]:
        """See ``ExternalNetwork``."""
        onnx = import_extra("onnx", "onnx", f"{self.files[0]}: looking into an unknown network")
        graph = onnx.load(str(self.files[0]), load_external_data=False).graph
        constants = {each.name for each in graph.initializer}
        constants |= {
            out for node in graph.node if node.op_type == "Constant" for out in node.output
        }
        value, kinds = self._session.get_inputs()[0].name, []
        while len(kinds) < 2:
            users = [node for node in graph.node if value in node.input]
            if len(users) != 1 or not set(users[0].input) - {value} <= constants:
                break
            kinds.append(users[0].op_type)
            value = users[0].output[0]
        return kinds

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        """See ``ExternalNetwork``."""
        if not self._channels_last:
            pixels = pixels.transpose(0, 3, 1, 2)
        source = self._session.get_inputs()[0]
        single = source.shape[0] == 1  # many published models take one image at a time
        parts = pixels[:, None] if single else [pixels]
        embeddings = [
            self._session.run(None, {source.name: np.ascontiguousarray(part)})[0] for part in parts
        ]
        return np.concatenate(embeddings).reshape(len(pixels), -1)


class FacenetNetwork(ExternalNetwork):
    """``InceptionResnetV1`` of facenet-pytorch (FaceNet, Schroff et al. 2015); needs torch.

    Args:
        weights: A file with its state dict; None gives random weights, for timing.
        card: As for the base; by default that of the published weights.
    """

    def __init__(self, weights: str | Path | None, card: Card | None = None) -> None:
        files = () if weights is None else (Path(weights),)
        super().__init__(files, card if files else card or self.guess())
        self.network: Any = None

    def guess(self) -> Card:
        """See ``ExternalNetwork``: the published weights' card, whatever the file."""
        return FACENET

    def _open(self) -> None:
        purpose = "a network of facenet-pytorch"
        import_extra("torch", "torch", purpose)
        library = import_extra("facenet_pytorch", "facenet-pytorch==2.5.3", purpose)
        network = library.InceptionResnetV1(pretrained=None)
        for file in self.files:
            from ...backbone.weights.formats import load_torch_file

            state = load_torch_file(file)
            state = {name: value for name, value in state.items() if not name.startswith("logits.")}
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise WeightsError(f"{file}: no weights of InceptionResnetV1 ({error})") from error
        self.network = network.eval().requires_grad_(False)

    def infer(self, pixels: np.ndarray) -> np.ndarray:
        """See ``ExternalNetwork``; on the device of the network."""
        import torch

        device = next(self.network.parameters()).device
        with torch.inference_mode():
            images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
            return self.network(images).cpu().numpy()


NETWORKS: dict[str, type[NcnnNetwork] | type[OnnxNetwork] | type[FacenetNetwork]] = {
    "facenet": FacenetNetwork,
    "onnx": OnnxNetwork,
    "ncnn": NcnnNetwork,
}
"""What stands before the colon in names such as ``onnx:FILE`` -> what runs the file."""
