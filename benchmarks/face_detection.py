"""Faces in photos: RetinaFace on MobileNet 0.25 against MTCNN, in one run.

    python benchmarks/face_detection.py
    python benchmarks/face_detection.py --data=DATA --threads=2 --rounds=10

First the time of a 640x480 photo, from an array to boxes and landmarks in pixels, everything
included. The sides take turns; a ratio is that of the medians' sums over the photos, and beside it
stand the least and the largest ratio of a photo: MTCNN takes longer the more faces there are.

    MTCNN, facenet-pytorch     the package as it is, eager
    MTCNN, eager               its networks and weights between our own steps, ``FaceCascade``
    MTCNN, ONNX Runtime        the same with its three networks in ONNX Runtime
    RetinaFace, eager          ``FaceDetector`` of a checkpoint
    RetinaFace, ONNX Runtime   ``FaceDetector`` of the exported file

MTCNN's thresholds are 0.6, 0.7, 0.7 on every side, and ``min_face_px`` is the side of its smallest
faces. The smallest anchor of RetinaFace has 16 px.

DATA may hold folders. Without any, one photo is generated, has no face, and says little.

    retinaface/   ``mobilenet0.25_Final.pth``, else the public weights are downloaded, and
                  ``golden.json``, which names photos that have faces, the first of which are timed
    coco/         ``val2017`` and its ``instances``: how many faces lie in an annotated person
    celeba/       aligned faces with landmarks and identities
    teacher/      ``mobilenet_ncnn.param``, a face network that judges alignments

From CelebA's validation and test people come four figures, for thresholds as in use (0.8 and 0.9):

- which share of faces is found (the landmarks' center within an eye distance of the annotated one);
- the mean distance to the annotated landmarks in eye distances, where both detectors find the face.
  Landmarks that one of the detectors has made itself favor it;
- repeatability, which favors nobody: the same distance between a photo and its turned, reduced and
  mirrored copy, mapped back;
- usefulness: how well the teacher tells people apart whose faces either detector aligned.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from mobilevision.apps import FaceDetector
from mobilevision.apps.benchmark.processes import Rounds, take_turns, timed
from mobilevision.apps.export.export_module import open_deployable
from mobilevision.apps.export.formats import ExportOptions
from mobilevision.apps.export.onnx import OPSET, OnnxFormat
from mobilevision.apps.importing import import_weights
from mobilevision.apps.inference.mtcnn import FaceCascade
from mobilevision.apps.inference.runtime import open_runtime
from mobilevision.datasets.faces.alignment import align_face
from mobilevision.datasets.faces.celeba import read_celeba
from mobilevision.datasets.faces.pairs import make_pairs
from mobilevision.datasets.images import ImageFile, center_crop
from mobilevision.heads.face_embedding.teachers import NcnnTeacher
from mobilevision.heads.face_embedding.verification import verify_pairs

SIZE_HW = (480, 640)
THRESHOLDS = (0.6, 0.7, 0.7)
MIN_SCORE = 0.9
"""MTCNN's minimum score in use."""
FACENET, CASCADE, CASCADE_ORT, EAGER, ORT = (
    "MTCNN, facenet-pytorch", "MTCNN, eager", "MTCNN, ONNX Runtime", "RetinaFace, eager",
    "RetinaFace, ONNX Runtime",
)  # fmt: skip
STRICT = f"RetinaFace, {MIN_SCORE}"
LARGEST_DIFFERENCE_PX = 0.1
SWAPPED = [1, 0, 2, 4, 3]
"""The landmarks of a mirrored face."""
PAIRS_OF_FOLD = 300
FAR_OFF = 0.1
"""Distance of landmarks, in eye distances, above which they are counted."""


class Found(NamedTuple):
    """The K faces of a photo."""

    boxes: np.ndarray
    """(K, 4) float, xyxy px."""
    landmarks: np.ndarray
    """(K, 5, 2) float, px."""


Finder = Callable[[np.ndarray], Found]
"""Finds the faces of an image (H, W, 3) uint8 RGB."""


Landmarks = Sequence[np.ndarray | None]
"""(5, 2) float px of the known face of each photo, None where it was not found."""
Change = Callable[[tuple[int, int]], tuple[np.ndarray, tuple[int, int]]]
"""Height and width of an image to an affine transform (2, 3) of it and the size of the result."""


def compare(
    data: str | None = os.environ.get("MOBILEVISION_DATA"),
    threads: int = 2,
    rounds: int = 10,
    photos: int = 8,
    faces: int | None = None,
    min_face_px: int = 20,
) -> dict[str, Any]:
    """Print times, shares of faces found, distances of landmarks, and the worth of alignments.

    Args:
        data: Folder of photos, see above.
        threads: Threads of torch and of ONNX Runtime.
        rounds: Timed runs of each side on each photo.
        photos: Number of photos that are timed; 0 measures no time.
        faces: At most so many of CelebA's faces, evenly spread, and of COCO's photos; None takes
            all, 0 measures only time.
        min_face_px: Side of the smallest faces of MTCNN.

    Returns:
        The figures by table and row.
    """
    torch.set_num_threads(threads)
    root = None if data is None else Path(data)
    result: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        checkpoint = find_weights(root, Path(folder))
        if photos:
            sides = make_sides(checkpoint, Path(folder), threads, min_face_px)
            result["time"] = print_times(sides, photos_of(root, photos), rounds)
        detector = FaceDetector.load(checkpoint, "cpu")
    finders: dict[str, Finder] = {
        "MTCNN": partial(run_cascade, FaceCascade(min_face_px, THRESHOLDS)),
        "RetinaFace": partial(run_detector, detector),
    }
    if root is not None and faces != 0:
        if (root / "coco").is_dir():
            strict = {STRICT: partial(run_detector, detector, score_threshold=MIN_SCORE)}
            result["coco"] = print_coco(finders | strict, root / "coco", faces)
        if (root / "celeba").is_dir():
            result |= print_celeba(finders, root, faces)
    return result


def find_weights(root: Path | None, folder: Path) -> Path:
    """Return a checkpoint of the public RetinaFace."""
    file = None if root is None else root / "retinaface" / "mobilenet0.25_Final.pth"
    if file is None or not file.is_file():
        return FaceDetector.find()
    import_weights(str(file), folder / "retinaface.ckpt")
    return folder / "retinaface.ckpt"


def make_sides(checkpoint: Path, folder: Path, threads: int, min_face_px: int) -> dict[str, Finder]:
    """Return every side by its name; the exported file is written to the folder."""
    from facenet_pytorch import MTCNN

    package = MTCNN(
        min_face_size=min_face_px, thresholds=list(THRESHOLDS), keep_all=True, device="cpu"
    )
    cascade, with_sessions = (FaceCascade(min_face_px, THRESHOLDS) for _ in range(2))
    for name in ("propose", "refine", "place"):
        setattr(with_sessions, name, InOnnxRuntime(getattr(cascade, name), name, threads))
    out = folder / "retinaface.onnx"
    OnnxFormat().write(open_deployable(checkpoint, SIZE_HW), out, ExportOptions())
    return {
        FACENET: partial(run_package, package),
        CASCADE: partial(run_cascade, cascade),
        CASCADE_ORT: partial(run_cascade, with_sessions),
        EAGER: partial(run_detector, FaceDetector.load(checkpoint, "cpu")),
        ORT: partial(run_detector, FaceDetector(open_runtime(out, "cpu", threads))),
    }


class InOnnxRuntime(nn.Module):
    """One of MTCNN's networks, exported with free sizes and run by ONNX Runtime."""

    def __init__(self, network: nn.Module, name: str, threads: int) -> None:
        super().__init__()
        sides, batch = {"propose": (96, 128), "refine": (24, 24), "place": (48, 48)}[name], 2
        axes = {0: Dim("batch", min=1, max=1 << 16)}
        if name == "propose":
            batch, axes = 1, {axis: Dim(f"side{axis}", min=12, max=1 << 16) for axis in (2, 3)}
        program = torch.onnx.export(
            network, (torch.zeros(batch, 3, *sides),), dynamo=True, opset_version=OPSET,
            dynamic_shapes=(axes,), verbose=False,
        )  # fmt: skip
        assert program is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Between the networks torch works, and threads that spin would take its cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = program.model_proto.SerializeToString()
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(content, options, providers=providers)
        self.input = self.session.get_inputs()[0].name

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the network."""
        outputs: Any = self.session.run(None, {self.input: pixels.numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)


def run_package(network: Any, image: np.ndarray) -> Found:
    """Run facenet-pytorch's MTCNN, whose boxes count pixels from 1."""
    boxes, scores, points = network.detect(image, landmarks=True)
    if boxes is None:
        return Found(np.zeros((0, 4)), np.zeros((0, 5, 2)))
    good = scores >= MIN_SCORE
    return Found((boxes - [1, 1, 0, 0])[good], points[good])


def run_cascade(cascade: FaceCascade, image: np.ndarray) -> Found:
    """Run our cascade, likewise."""
    (faces,) = cascade([torch.from_numpy(image).permute(2, 0, 1)])
    boxes, points, scores = (part.numpy() for part in faces)
    good = scores >= MIN_SCORE
    return Found((boxes - [1, 1, 0, 0])[good], points[good])


def run_detector(
    detector: FaceDetector, image: np.ndarray, score_threshold: float | None = None
) -> Found:
    """Run a ``FaceDetector``, by default at its own threshold."""
    result: Any = detector(image, score_threshold)
    return Found(result.boxes, result.landmarks)


def photos_of(root: Path | None, count: int) -> list[np.ndarray]:
    """Return photos (480, 640, 3) uint8 with faces, or a generated one without."""
    listed = None if root is None else root / "retinaface" / "golden.json"
    if root is None or listed is None or not listed.is_file():
        print("without photos of DATA: one generated image, which has no face\n")
        coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
        return [cv2.resize(coarse, SIZE_HW[::-1], interpolation=cv2.INTER_CUBIC)]
    golden = json.loads(listed.read_text())
    clear = [
        name
        for name, faces in sorted(golden.items())
        if name.startswith("coco") and any(face["score"] >= MIN_SCORE for face in faces)
    ]
    return [center_crop(ImageFile(root / name).read(), SIZE_HW, 1.0) for name in clear[:count]]


def print_times(
    sides: Mapping[str, Finder], photos: Sequence[np.ndarray], rounds: int
) -> dict[str, tuple[float, float, float]]:
    """Time the sides on each photo; return ratio, least and largest ratio to `ORT`.

    Raises:
        ValueError: Two sides of one detector find other faces.
    """
    times, counts = [], dict.fromkeys(sides, 0)
    for photo in photos:
        found = {name: find(photo) for name, find in sides.items()}
        check_same(found[EAGER], found[ORT])
        check_same(found[CASCADE], found[CASCADE_ORT])
        for name, faces in found.items():
            counts[name] += len(faces.boxes)
        times.append(time_photo(sides, photo, rounds))
    threads = torch.get_num_threads()
    print(f"{len(photos)} photo(s) of {SIZE_HW[1]}x{SIZE_HW[0]} px, {threads} thread(s)\n")
    print(f"{'':<26}{'faces':>7}{'ms':>8}{'ratio':>8}{'least':>8}{'most':>8}")
    ratios = {}
    for name in sides:
        total, ours = (sum(each.median(side) for each in times) for side in (name, ORT))
        of_photos = [each.ratio(name, ORT) for each in times]
        ratios[name] = (total / ours, min(of_photos), max(of_photos))
        row = "".join(f"{ratio:>7.1f}x" for ratio in ratios[name])
        print(f"{name:<26}{counts[name]:>7}{total / len(times) * 1e3:>8.1f}{row}", flush=True)
    return ratios


def time_photo(sides: Mapping[str, Finder], photo: np.ndarray, rounds: int) -> Rounds[str]:
    """Time the sides in turns, each after a run in which the threads of others come to rest."""
    turns = {name: partial(timed, partial(find, photo), 1) for name, find in sides.items()}
    return take_turns(turns, lambda: 1.0, rounds, warm_up=1)


def check_same(one: Found, other: Found) -> None:
    """Raise a ValueError where faces differ."""
    if one.boxes.shape != other.boxes.shape:
        raise ValueError(f"{len(one.boxes)} faces and {len(other.boxes)}")
    difference = max(
        (float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True) if len(a)), default=0.0
    )
    if difference > LARGEST_DIFFERENCE_PX:
        raise ValueError(f"faces differ by {difference:.2g} px")


def print_coco(
    finders: Mapping[str, Finder], root: Path, count: int | None
) -> dict[str, tuple[int, int, int]]:
    """Count faces in photos; return faces, those in no annotated person, and people with one."""
    annotations = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    person = next(row["id"] for row in annotations["categories"] if row["name"] == "person")
    images = sorted(annotations["images"], key=lambda image: image["file_name"])[:count]
    people: dict[int, list[list[float]]] = {image["id"]: [] for image in images}
    for row in annotations["annotations"]:
        if row["category_id"] == person and row["image_id"] in people:
            people[row["image_id"]].append(row["bbox"])
    total = sum(map(len, people.values()))
    print(f"\nCOCO val2017: {len(images)} photos at their own size, {total} annotated people\n")
    print(f"{'':<16}{'faces':>7}{'outside people':>16}{'people with a face':>20}")
    result = {}
    for name, find in finders.items():
        faces = outside = seen = 0
        for image in images:
            boxes = find(ImageFile(root / "val2017" / image["file_name"]).read()).boxes
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            corners = np.array(people[image["id"]]).reshape(-1, 2, 2)
            apart = centers[:, None] - corners[:, 0]
            inside: Any = ((apart >= 0) & (apart <= corners[:, 1])).all(axis=2)
            faces, outside = faces + len(boxes), outside + int((~inside.any(axis=1)).sum())
            seen += int(inside.any(axis=0).sum())
        result[name] = (faces, outside, seen)
        print(f"{name:<16}{faces:>7}{outside:>16}{seen:>20}", flush=True)
    return result


def print_celeba(
    finders: Mapping[str, Finder], root: Path, count: int | None
) -> dict[str, dict[Any, Any]]:
    """Print the tables of CelebA; return the figures by table, then by detector and variant."""
    celeba = read_celeba(root / "celeba")
    identities = celeba.table.identities
    assert identities is not None
    rows = np.flatnonzero(celeba.partitions > 0)
    if count is not None:
        rows = rows[:: -(-len(rows) // count)]
    table = celeba.table.take("CelebA", rows)
    assert table.landmarks is not None
    images = [ImageFile(path).read() for path in table.paths]
    given = list(table.landmarks)
    print(f"\nCelebA: {len(images)} faces of validation and test, one annotated in a photo")
    places = {
        name: [nearest(find(image), points) for image, points in zip(images, given, strict=True)]
        for name, find in finders.items()
    }
    own = {name: [points for points, _ in of_images] for name, of_images in places.items()}
    others = {name: sum(other for _, other in of_images) for name, of_images in places.items()}
    result: dict[str, dict[Any, Any]] = {"celeba": print_found(own, others, given)}
    result["repeated"] = print_repeated(finders, images, own)
    param = root / "teacher" / "mobilenet_ncnn.param"
    if param.is_file():
        result["aligned"] = print_aligned(
            NcnnTeacher(param, num_threads=torch.get_num_threads()),
            images,
            {"CelebA's list": given, **own},
            identities[rows],
        )
    else:
        print(f"\n{param}: not there, so no alignment is judged")
    return result


def eye_distance(points: np.ndarray) -> float:
    """Return the distance of the eyes of landmarks (5, 2)."""
    return float(np.linalg.norm(points[1] - points[0]))


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean distance of landmarks (5, 2) to others, in eye distances of the latter."""
    return float(np.linalg.norm(one - other, axis=1).mean()) / eye_distance(other)


def nearest(found: Found, points: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Return the landmarks of the face at known ones, if any, and the number of other faces."""
    if not len(found.boxes):
        return None, 0
    distances = np.linalg.norm(found.landmarks.mean(axis=1) - points.mean(axis=0), axis=1)
    if distances.min() > eye_distance(points):
        return None, len(found.boxes)
    return found.landmarks[distances.argmin()], len(found.boxes) - 1


def common(of_detectors: Iterable[Sequence[np.ndarray | None]]) -> np.ndarray:
    """Return the positions of the faces that all detectors found."""
    there = [[points is not None for points in found] for found in of_detectors]
    return np.flatnonzero(np.all(there, axis=0))


def print_found(
    own: Mapping[str, Landmarks], others: Mapping[str, int], given: Landmarks
) -> dict[str, tuple[float, ...]]:
    """Return share found, other faces, and mean, median and share above `FAR_OFF` of distances."""
    both = common(own.values())
    print(f"\ndistance to the annotated landmarks where both find the face, {len(both)} faces\n")
    print(f"{'':<12}{'found':>9}{'others':>8}{'mean':>8}{'median':>8}{'over ' + str(FAR_OFF):>10}")
    result = {}
    for name, found in own.items():
        share = float(np.mean([points is not None for points in found]))
        distances = np.array([apart(found[row], given[row]) for row in both])
        numbers = distances.mean(), np.median(distances), (distances > FAR_OFF).mean()
        result[name] = (share, float(others[name]), *map(float, numbers))
        mean, median, far = numbers
        print(f"{name:<12}{share:>9.2%}{others[name]:>8}{mean:>8.4f}{median:>8.4f}{far:>10.2%}",
              flush=True)  # fmt: skip
    return result


def print_repeated(
    finders: Mapping[str, Finder], images: Sequence[np.ndarray], own: Mapping[str, Landmarks]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Find faces in changed copies; return the mean and median distance by change and detector."""
    both = common(own.values()).tolist()
    print("\nrepeatability: distance between a photo and its copy, where all find the face\n")
    print(f"{'':<16}{'':<12}{'faces':>7}{'lost':>6}{'mean':>9}{'median':>9}")
    result = {}
    for change, make in CHANGES.items():
        again: dict[str, list[np.ndarray | None]] = {}
        for name, find in finders.items():
            again[name] = [found_again(find, images[row], make, own[name][row]) for row in both]
        kept = common(again.values())
        for name, found in again.items():
            lost = sum(points is None for points in found)
            distances = [apart(found[row], own[name][both[row]]) for row in kept.tolist()]
            result[change, name] = float(np.mean(distances)), float(np.median(distances))
            mean, median = result[change, name]
            print(f"{change:<16}{name:<12}{len(kept):>7}{lost:>6}{mean:>9.4f}{median:>9.4f}",
                  flush=True)  # fmt: skip
    return result


def found_again(
    find: Finder, image: np.ndarray, make: Change, points: np.ndarray | None
) -> np.ndarray | None:
    """Find a face in a changed copy; return its landmarks in pixels of the photo, if any."""
    assert points is not None
    matrix, size_hw = make((image.shape[0], image.shape[1]))
    mirrored = np.linalg.det(matrix[:, :2]) < 0
    copy = cv2.warpAffine(image, matrix, size_hw[::-1], borderMode=cv2.BORDER_REPLICATE)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    there, _ = nearest(find(copy), moved[SWAPPED] if mirrored else moved)
    if there is None:
        return None
    back = (there - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return back[SWAPPED] if mirrored else back


def turned(size_hw: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Turn by 10 degrees about the middle."""
    middle = ((size_hw[1] - 1) / 2, (size_hw[0] - 1) / 2)
    return cv2.getRotationMatrix2D(middle, 10, 1.0), size_hw


def reduced(size_hw: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Reduce to 0.7 of the sides."""
    shift = 0.7 / 2 - 0.5  # the corner of the image stays, not the center of its first pixel
    matrix = np.array([[0.7, 0, shift], [0, 0.7, shift]])
    return matrix, (round(size_hw[0] * 0.7), round(size_hw[1] * 0.7))


def mirrored(size_hw: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Mirror left and right."""
    return np.array([[-1.0, 0, size_hw[1] - 1], [0, 1, 0]]), size_hw


CHANGES: dict[str, Change] = {"turned 10 deg": turned, "reduced to 0.7": reduced,
                              "mirrored": mirrored}  # fmt: skip


def print_aligned(
    teacher: NcnnTeacher,
    images: Sequence[np.ndarray],
    aligned: Mapping[str, Landmarks],
    identities: np.ndarray,
) -> dict[str, tuple[float, float, float]]:
    """Verify faces aligned by each detector; return accuracy, deviation and equal error rate."""
    rows = common(aligned.values())
    pairs = make_pairs(identities[rows], PAIRS_OF_FOLD)
    print(f"\nverification by the teacher of {len(rows)} faces that all found, {len(pairs.same)} "
          "pairs\n")  # fmt: skip
    print(f"{'aligned by':<16}{'accuracy':>10}{'+-':>8}{'EER':>8}")
    result = {}
    for name, points in aligned.items():
        crops = (align_face(images[row], points[row]) for row in rows)  # type: ignore[arg-type]
        embeddings = np.concatenate([teacher.network.embed(crop[None]) for crop in crops])
        measured = verify_pairs(embeddings, pairs)
        result[name] = measured.accuracy, measured.std, measured.eer
        accuracy, std, eer = result[name]
        print(f"{name:<16}{accuracy:>10.4f}{std:>8.4f}{eer:>8.4f}", flush=True)
    return result


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(compare)
