"""The figures show the numbers."""

import numpy as np
import pytest

from mobilevision.apps.error_report.figures import (
    draw_kinds,
    draw_matrix,
    draw_precision_recall,
    draw_thresholds,
)


def test_figures__small_evaluation__values(evaluation) -> None:
    _, analysis, _ = evaluation
    axes = draw_precision_recall(analysis).axes[0]
    mean = axes.lines[-1]
    named = axes.get_legend_handles_labels()[1]
    assert [name.split(" ", 1)[1][:5] for name in named] == ["_$x_$", "dog", "mean"]
    assert len(axes.lines) == 3
    assert np.mean(np.asarray(mean.get_ydata())) == pytest.approx(analysis.ap50)
    lines = {line.get_label(): line for line in draw_thresholds(analysis).axes[0].lines}
    np.testing.assert_array_equal(lines["recall"].get_ydata(), analysis.decisions[:, 1])
    best = next(line for label, line in lines.items() if str(label).startswith("best"))
    assert set(np.asarray(best.get_xdata())) == {analysis.best.threshold}
    left, right = draw_kinds(analysis).axes
    widths = [[bar.get_width() for bar in axes.patches] for axes in (left, right)]
    assert widths[0] == [kind.ap50_cost for kind in analysis.kinds.values()]
    assert widths[1] == [kind.at_best for kind in analysis.kinds.values()]
    matrix = draw_matrix(analysis).axes[0]
    assert sorted(text.get_text() for text in matrix.texts) == sorted(
        str(count) for count in analysis.confusion.flatten() if count
    )
