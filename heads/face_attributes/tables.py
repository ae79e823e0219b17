"""The measures of attributes as plain text."""

from .metrics import AttributeFigures, AttributeResult

_LONGEST_NAME = 24


def format_table(result: AttributeResult) -> str:
    """Means beside the majority's, each attribute with the hardest first, the groups."""
    means = result.means
    lines = [
        f"Attributes of {result.dataset}: {means.images:,} images, "
        f"{len(result.per_attribute)} attributes",
        f" mean AP {_cell(means.mean_ap)} (share of positives {_cell(means.majority_mean_ap)})   "
        f"mean accuracy {_cell(means.mean_accuracy)} (majority "
        f"{_cell(means.majority_mean_accuracy)})",
        f" mean balanced accuracy {_cell(means.mean_balanced_accuracy)} at 0.5, "
        f"{_cell(means.mean_balanced_accuracy_at_threshold)} at the stored thresholds "
        f"(accuracy there {_cell(means.mean_accuracy_at_threshold)})",
    ]
    if result.landmark_error is not None:
        lines.append(f" landmarks: mean error {result.landmark_error:.4f} of the eyes' distance")
    if result.without_ap:
        lines.append(
            f" without positives, so left out of the mean AP ({len(result.without_ap)}): "
            f"{', '.join(result.without_ap)}"
        )
    lines += _attribute_lines(result)
    for name, parts in result.groups.items():
        for answer, part in parts.items():
            lines.append(
                f" {name} {answer:<3} {part.images:>6,} images   mean AP {_cell(part.mean_ap)}   "
                f"mean accuracy {_cell(part.mean_accuracy)} (majority "
                f"{_cell(part.majority_mean_accuracy)})   balanced "
                f"{_cell(part.mean_balanced_accuracy)}"
            )
    return "\n".join(lines) + "\n"


def by_difficulty(result: AttributeResult) -> list[tuple[str, AttributeFigures]]:
    """The attributes by rising average precision; those without come last."""
    rows = result.per_attribute.items()
    return sorted(rows, key=lambda row: (row[1].average_precision is None,
                                         row[1].average_precision or 0.0, row[0]))  # fmt: skip


def _attribute_lines(result: AttributeResult) -> list[str]:
    rows = by_difficulty(result)
    width = min(max(len(name) for name, _ in rows), _LONGEST_NAME)
    heads = ("positive", "AP", "accuracy", "majority", "balanced", "threshold", "precision")
    lines = [" the hardest first:", f" {'attribute':<{width}}" + "".join(f"{h:>10}" for h in heads)
             + f"{'recall':>10}"]  # fmt: skip
    for name, row in rows:
        short = name if len(name) <= width else name[: width - 1] + "…"
        cells = (
            f"{row.positives:,}",
            _cell(row.average_precision),
            _cell(row.accuracy),
            _cell(row.majority_accuracy),
            _cell(row.balanced_accuracy),
            f"{row.threshold:.2f}",
            _cell(row.precision_at_threshold),
            _cell(row.recall_at_threshold),
        )
        lines.append(f" {short:<{width}}" + "".join(f"{cell:>10}" for cell in cells))
    return lines


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
