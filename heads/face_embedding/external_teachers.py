"""Face networks of other people, as teachers.

Their libraries are extras, imported when a teacher is first asked. Nothing is downloaded here.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...backbone.errors import WeightsError
from ...backbone.weights.file_tensors import load_torch_file
from ...datasets.faces.views import FaceViews
from .teachers import FaceTeacher

_FACENET_FILES = {
    "vggface2": "20180402-114759-vggface2.pt",
    "casia-webface": "20180408-102900-casia-webface.pt",
}


class NcnnTeacher(FaceTeacher):
    """An ncnn network, such as a published MobileFaceNet; extra ``ncnn``.

    It is run in float32, and is handed RGB pixels in [0, 255].

    Args:
        param: The ``.param`` file; the ``.bin`` lies beside it.
        size: Side in px of the faces that it wants.
        pixel_mean: Taken from the pixels, where the network does not do that itself.
        pixel_std: Then divided by.
        num_threads: Threads of one picture.
    """

    def __init__(
        self,
        param: str | Path,
        size: int = 112,
        pixel_mean: float = 0.0,
        pixel_std: float = 1.0,
        num_threads: int = 1,
    ) -> None:
        super().__init__(size)
        self.param = Path(param)
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.num_threads = num_threads
        self._library: Any = None
        self._network: Any = None

    def open(self) -> None:
        """See ``FaceTeacher``."""
        self._library = _library("ncnn", "ncnn")
        network = self._library.Net()
        options = network.opt
        options.num_threads = self.num_threads
        # Half precision would give other embeddings on each kind of processor.
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic",
                     "use_bf16_storage"):  # fmt: skip
            setattr(options, name, False)
        weights = self.param.with_suffix(".bin")
        for file in (self.param, weights):
            if not file.is_file():
                raise WeightsError(f"{file}: no such file; an ncnn network is a .param and a .bin")
        if network.load_param(str(self.param)) or network.load_model(str(weights)):
            raise WeightsError(f"{self.param}: ncnn cannot read it and {weights.name}")
        self._network = network

    def infer(self, images: np.ndarray) -> np.ndarray:
        """See ``FaceTeacher``."""
        source, target = self._network.input_names()[0], self._network.output_names()[-1]
        mean, scale = [self.pixel_mean] * 3, [1 / self.pixel_std] * 3
        said: list[np.ndarray] = []
        for face in images:
            pixels = self._library.Mat.from_pixels(
                face, self._library.Mat.PixelType.PIXEL_RGB, self.size, self.size
            )
            pixels.substract_mean_normalize(mean, scale)
            extractor = self._network.create_extractor()
            extractor.input(source, pixels)
            said.append(np.array(extractor.extract(target)[1]).reshape(-1))
        return np.stack(said)


class OnnxTeacher(FaceTeacher):
    """Any ONNX model of aligned faces; extra ``onnx``. Defaults as ArcFace's models have them.

    Args:
        path: The file.
        size: Side in px of the faces; None takes that of the model's input, or 112 where it is
            free.
        pixel_mean: Taken from the pixels in [0, 255].
        pixel_std: Then divided by.
        order: Whether red or blue comes first.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | None = None,
        pixel_mean: float = 127.5,
        pixel_std: float = 127.5,
        order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        super().__init__(size or 112)
        self.path = Path(path)
        self._size_is_free = size is None
        self.pixel_mean, self.pixel_std = pixel_mean, pixel_std
        self.order = order
        self._session: Any = None
        self._channels_last = False

    def open(self) -> None:
        """See ``FaceTeacher``."""
        runtime = _library("onnxruntime", "onnx")
        if not self.path.is_file():
            raise WeightsError(f"{self.path}: no such file; name an ONNX model")
        try:
            self._session = runtime.InferenceSession(
                str(self.path), providers=runtime.get_available_providers()
            )
        except Exception as error:  # the runtime has many kinds of its own
            raise WeightsError(f"{self.path}: cannot be run as an ONNX model ({error})") from error
        shape = self._session.get_inputs()[0].shape
        if len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise WeightsError(f"{self.path}: takes {shape}, and not pictures of three channels")
        self._channels_last = shape[1] != 3
        if self._size_is_free and isinstance(shape[2], int):
            self.size = shape[2]

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """See ``FaceTeacher``."""
        self.embed(np.zeros((1, self.size, self.size, 3), np.uint8))  # learns the size
        super().prepare(dimension, device, views)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """See ``FaceTeacher``."""
        if images.shape[1] != self.size:  # known only since the file was opened
            images = self._prepared(images)
        pixels = (images.astype(np.float32) - self.pixel_mean) / self.pixel_std
        if self.order == "bgr":
            pixels = pixels[..., ::-1]
        if not self._channels_last:
            pixels = pixels.transpose(0, 3, 1, 2)
        source = self._session.get_inputs()[0]
        single = source.shape[0] == 1  # many published models take one picture at a time
        parts = pixels[:, None] if single else [pixels]
        said = [self._session.run(None, {source.name: np.ascontiguousarray(part)})[0]
                for part in parts]  # fmt: skip
        return np.concatenate(said).reshape(len(images), -1)


class FacenetTeacher(FaceTeacher):
    """``InceptionResnetV1`` of facenet-pytorch (Schroff et al. 2015's FaceNet); extra ``faces``.

    The weights are not downloaded here. Their licence is not clear: VGGFace2's pictures were
    offered for research only.

    Args:
        weights: "vggface2" or "casia-webface", where facenet-pytorch put them when it was last
            asked for them, or a file with its state dict; None gives random weights, for timing.
        size: Side in px; it was trained at 160, on looser crops than ArcFace's template.
    """

    def __init__(self, weights: str | None = "vggface2", size: int = 160) -> None:
        super().__init__(size)
        self.weights = weights
        self._network: Any = None

    def open(self) -> None:
        """See ``FaceTeacher``."""
        library = _library("facenet_pytorch", "faces")
        network = library.InceptionResnetV1(pretrained=None)
        if self.weights is not None:
            state = self._read(self._file(self.weights))
            state = {name: value for name, value in state.items() if not name.startswith("logits.")}
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                raise WeightsError(
                    f"{self.weights}: no weights of InceptionResnetV1 ({error})"
                ) from error
        self._network = network.eval().requires_grad_(False)

    @staticmethod
    def _file(weights: str) -> Path:
        if weights not in _FACENET_FILES:
            return Path(weights)
        path = Path(torch.hub._get_torch_home()) / "checkpoints" / _FACENET_FILES[weights]
        if not path.is_file():
            raise WeightsError(
                f'{path}: no such file. facenet-pytorch downloads it: python -c "import '
                f"facenet_pytorch as f; f.InceptionResnetV1(pretrained='{weights}')\""
            )
        return path

    @staticmethod
    def _read(path: Path) -> dict[str, Tensor]:
        return load_torch_file(path)

    def infer(self, images: np.ndarray) -> np.ndarray:
        """See ``FaceTeacher``."""
        device = next(self._network.parameters()).device
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            return self._network((pixels - 127.5) / 128.0).cpu().numpy()

    def prepare(self, dimension: int, device: torch.device, views: FaceViews | None = None) -> None:
        """See ``FaceTeacher``; it moves to the device."""
        super().prepare(dimension, device, views)
        self._network.to(device)


def _library(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise WeightsError(
            f"this teacher needs {module}: pip install 'mobilevision[{extra}]'"
        ) from error


def open_teacher(name: str) -> FaceTeacher | None:
    """A teacher by one word, for command lines.

    Args:
        name: ``facenet:vggface2``, ``facenet:casia-webface``, ``facenet:FILE``, ``onnx:FILE`` or
            ``ncnn:FILE.param``.

    Returns:
        The teacher, not opened yet; None where the word names none, such as a checkpoint's path.
    """
    kind, _, rest = name.partition(":")
    kinds = {"facenet": FacenetTeacher, "onnx": OnnxTeacher, "ncnn": NcnnTeacher}
    return kinds[kind](rest) if kind in kinds and rest else None
