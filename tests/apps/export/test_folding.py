"""Networks as they are exported against the ones that they are made of."""

import torch
from torch import nn

from mobilevision.apps.export.folding import MergedPredictors
from mobilevision.heads.detection.predictors import Predictors


def test_merged_predictors__same_answers_as_two_convolutions() -> None:
    original = Predictors((8, 12), (3, 6), 5)
    for parameter in original.parameters():
        nn.init.normal_(parameter)
    maps = [torch.randn(2, 8, 4, 5), torch.randn(2, 12, 2, 3)]
    with torch.no_grad():
        apart = original(maps)
        ((deltas, logits),) = MergedPredictors(original)(maps)
    torch.testing.assert_close(deltas, torch.cat([each for each, _ in apart], dim=1))
    torch.testing.assert_close(logits, torch.cat([each for _, each in apart], dim=1))
