"""Evaluators under several processes: all have every image, and which answer counts of two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mobilevision.datasets.faces.sources import Faces
from mobilevision.heads.classification.metrics import ClassificationEvaluator
from mobilevision.heads.face_attributes.metrics import AttributeEvaluator
from mobilevision.heads.face_embedding.verification import EmbeddingEvaluator
from mobilevision.heads.geolocation.decoding import Places
from mobilevision.heads.geolocation.metrics import GeolocationEvaluator

IDS = ((2, 0), (1, 2))
"""The images of two processes; a sampler that pads gave the last one to both."""
SAID = ((0.75, 0.625), (0.875, 0.5625))
"""What they say of them; of the last image both say something else."""
PATHS = ("0.jpg", "1.jpg", "2.jpg")


def classification(ids: list[int], said: torch.Tensor, paths: list[str]) -> ClassificationEvaluator:
    evaluator = ClassificationEvaluator(["a", "b"], "some")
    logits = torch.stack([said.logit(), torch.zeros(2)], dim=1)
    evaluator.update(torch.tensor(ids), torch.zeros(2).long(), logits, paths)
    return evaluator


def attributes(ids: list[int], said: torch.Tensor, paths: list[str]) -> AttributeEvaluator:
    evaluator = AttributeEvaluator(["a"], "some")
    evaluator.update(torch.tensor(ids), torch.ones(2, 1), said.logit()[:, None], paths)
    return evaluator


def embedding(ids: list[int], said: torch.Tensor, paths: list[str]) -> EmbeddingEvaluator:  # noqa: ARG001
    evaluator = EmbeddingEvaluator(Faces("some", Path(), PATHS, None, np.zeros(3, int), ("Ada",)))
    evaluator.update(torch.tensor(ids), said[:, None])
    return evaluator


def geolocation(ids: list[int], said: torch.Tensor, paths: list[str]) -> GeolocationEvaluator:
    evaluator = GeolocationEvaluator(["c"], np.zeros((1, 2)), "some")
    places = Places(np.zeros((2, 2)), np.zeros(2, int), said.numpy(), np.ones((2, 2)))
    evaluator.update(np.array(ids), np.zeros((2, 2)), places, paths)
    return evaluator


CASES: dict[str, tuple[Callable[..., Any], Callable[[Any], np.ndarray]]] = {
    "classification": (classification, lambda gathered: gathered.scores[:, 0]),
    "attributes": (attributes, lambda gathered: gathered.probabilities[:, 0]),
    "embedding": (embedding, lambda gathered: gathered[1][:, 0]),
    "geolocation": (geolocation, lambda gathered: gathered.scores),
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_gather__two_processes__every_image_once_and_the_lower_rank_counts(
    case: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, read = CASES[case]
    evaluators = [
        make(list(ids), torch.tensor(said), [PATHS[each] for each in ids])
        for ids, said in zip(IDS, SAID, strict=True)
    ]
    sent: list[Any] = []

    def listen(everyone: list[Any], mine: Any) -> None:  # noqa: ARG001
        sent.append(mine)
        raise InterruptedError

    def exchange(everyone: list[Any], mine: Any) -> None:  # noqa: ARG001
        everyone[:] = sent

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", listen)
    for each in evaluators:
        with pytest.raises(InterruptedError):
            each.gather()
    monkeypatch.setattr(dist, "all_gather_object", exchange)
    gathered = evaluators[rank].gather()
    assert gathered[0].tolist() == [0, 1, 2]
    assert read(gathered) == pytest.approx([0.625, 0.875, 0.75])
    if case != "embedding":
        rows = evaluators[rank].to_csv().splitlines()[1:]
        assert [row.split(",")[0] for row in rows] == list(PATHS)
