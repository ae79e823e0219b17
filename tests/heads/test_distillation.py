import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mobilevision.datasets.errors import DataError
from mobilevision.heads.distillation import (
    CachedTeacher,
    Distillation,
    SoftLabels,
    SoftTargets,
    Teacher,
)


def test_soft_targets__hand_calculated() -> None:
    # At temperature 2: student (1/2, 1/2); teacher logits (2 ln 3, 0) give (3/4, 1/4).
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = SoftTargets(temperature=2.0, weight=0.5)(student, teacher)
    assert loss.tolist() == pytest.approx([0.5 * 4 * expected])


def test_soft_targets__gradient_is_that_of_the_paper() -> None:
    # Hinton et al. 2015, equation 2: dC/dz = (q - p) / T; here times T^2.
    student = torch.randn(3, 5, requires_grad=True)
    teacher, temperature = torch.randn(3, 5), 3.0
    SoftTargets(temperature)(student, teacher).sum().backward()
    q, p = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    assert torch.allclose(student.grad, temperature * (q - p), atol=1e-6)


def test_soft_labels__has_the_gradient_of_binary_cross_entropy() -> None:
    student = torch.randn(4, 6, requires_grad=True)
    teacher = torch.randn(4, 6)
    SoftLabels(weight=2.0)(student, teacher).sum().backward()
    ours = student.grad.clone()
    student.grad = None
    expected = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")
    (2.0 * expected.mean(1).sum()).backward()
    assert torch.allclose(ours, student.grad, atol=1e-6)


def test_soft_labels__hand_calculated() -> None:
    # At temperature 2: student (1/2, 1/2); teacher logits 2 ln 3 and 0 give 3/4 and 1/2.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = SoftLabels(temperature=2.0, weight=0.5)(student, teacher)
    assert loss.tolist() == pytest.approx([0.5 * 4 * (first + 0) / 2])


@pytest.mark.parametrize("objective", [SoftTargets(), SoftLabels(2.0)])
def test_objectives__are_zero_where_both_agree(objective) -> None:
    logits = torch.randn(3, 4)
    assert torch.allclose(objective(logits, logits), torch.zeros(3), atol=1e-6)


class Known(Teacher):
    """Says ones of all images but the second, of which it does not know the last number."""

    def prepare(self, num_outputs, device, files=None) -> None:  # noqa: ARG002
        self.outputs = num_outputs

    def __call__(self, images, paths):  # noqa: ARG002
        said = torch.ones(len(images), self.outputs)
        said[0, 0] = 3.0
        said[1, -1] = torch.nan
        return said


def test_distillation__averages_over_known_images_alone() -> None:
    distillation = Distillation(Known(), SoftTargets(1.0))
    distillation.prepare(2, torch.device("cpu"))
    student = torch.zeros(3, 2, requires_grad=True)
    loss = distillation(student, torch.zeros(3, 3, 4, 4), ("a", "b", "c"))["teacher"]
    each = SoftTargets(1.0)(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]))
    assert loss.item() == pytest.approx(each.item() / 2)
    loss.backward()
    assert student.grad.isfinite().all()
    assert student.grad[1].tolist() == [0.0, 0.0]


def test_distillation__blends_of_images__only_a_teacher_that_sees_them() -> None:
    Distillation(Known()).prepare(2, torch.device("cpu"), blended=True)
    with pytest.raises(DataError, match=r"no outputs for blends.*leave the blending out"):
        Distillation(CachedTeacher("gone.npz")).prepare(2, torch.device("cpu"), blended=True)


def test_defaults__labels_count_in_full_and_targets_are_soft() -> None:
    distillation = Distillation(Known())
    assert distillation.label_weight == 1.0
    assert isinstance(distillation.objective, SoftTargets)
    assert (distillation.objective.temperature, distillation.objective.weight) == (4.0, 1.0)
    assert (SoftLabels().temperature, SoftLabels().weight) == (1.0, 1.0)
    nothing = SoftTargets(weight=0.0)(torch.zeros(1, 2), torch.ones(1, 2))
    assert nothing.tolist() == [0.0]


def test_options__out_of_range() -> None:
    with pytest.raises(ValueError, match="temperature=0"):
        SoftTargets(temperature=0)
    with pytest.raises(ValueError, match="weight=-1"):
        SoftLabels(weight=-1)
    with pytest.raises(ValueError, match="label_weight"):
        Distillation(Known(), label_weight=-1)
