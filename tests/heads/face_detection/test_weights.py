import json

import pytest
import torch

from mobilevision.backbone.errors import WeightsError
from mobilevision.datasets.images import ImageFile
from mobilevision.heads.face_detection.weights import PublicRetinaFace, is_retinaface
from mobilevision.heads.finetuning import start_from

pytestmark = pytest.mark.real_data


@pytest.fixture(scope="module")
def public(real_data):
    return real_data / "retinaface" / "mobilenet0.25_Final.pth"


def filled(path):
    source = PublicRetinaFace(path)
    network = source.plan().build()
    source.fill(network)
    return network.eval()


def test_public_weights__give_the_faces_of_an_independent_pass(real_data, public) -> None:
    network = filled(public)
    golden = json.loads((real_data / "retinaface" / "golden.json").read_text())
    assert len(golden) == 60
    for name, faces in list(golden.items())[::3]:
        image = ImageFile(real_data / name).read()
        height, width = image.shape[:2]
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        with torch.inference_mode():
            found = network.detect(network(pixels), (height, width)).unbatch()[0]
        scores = found.scores[found.scores >= 0.3]
        assert len(scores) == len(faces), name
        faces.sort(key=lambda face: -face["score"])
        for row, face in enumerate(faces):
            limits = torch.tensor([width, height, width, height])
            box = torch.tensor(face["box"]).clamp_min(0).minimum(limits)  # theirs is not clipped
            points = torch.tensor(face["landmarks"]).view(5, 2)
            torch.testing.assert_close(found.boxes[row], box, rtol=0, atol=0.05)
            torch.testing.assert_close(found.landmarks[row], points, rtol=0, atol=0.05)
            assert scores[row].item() == pytest.approx(face["score"], abs=1e-3)


def test_names_of_data_parallel__are_the_same_weights(public, tmp_path) -> None:
    state = torch.load(public, map_location="cpu", weights_only=True)
    stripped = {name.removeprefix("module."): value for name, value in state.items()}
    torch.save({f"module.{name}": value for name, value in stripped.items()}, tmp_path / "a.pth")
    assert is_retinaface(tmp_path / "a.pth")
    ours, original = filled(tmp_path / "a.pth").state_dict(), filled(public).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in original.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fpn.merge1.1.running_var"), "running_var is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 tensors have no place .* extra"),
        (
            lambda state: state.update({"LandmarkHead.2.conv1x1.bias": torch.zeros(30)}),
            r"has shape \(30,\), the network wants \(20,\)",
        ),
        (
            lambda state: state["ssh1.conv3X3.1.running_var"].fill_(-1.0),
            "negative variances",
        ),
    ],
)
def test_other_weights__are_refused_by_name(public, tmp_path, change, message) -> None:
    state = torch.load(public, map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        filled(tmp_path / "other.pth")


def test_fine_tuning__from_the_published_file__names_the_import(public) -> None:
    network = PublicRetinaFace(public).plan().build()
    with pytest.raises(WeightsError, match="a whole face detector; make it a checkpoint"):
        start_from(network, ["face"], public)


def test_other_files__are_no_retinaface(tmp_path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    assert not is_retinaface(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="not a weight file"):
        is_retinaface(tmp_path / "b.pth")
