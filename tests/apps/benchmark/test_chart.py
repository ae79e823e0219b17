"""The image of what was measured: a panel for what any side has."""

from types import SimpleNamespace

from mobilevision.apps.benchmark.measuring import Figures, Start
from mobilevision.apps.benchmark.report import draw


def figures(title: str, share: float | None) -> Figures:
    side = SimpleNamespace(title=title)
    return Figures(
        side=side,  # type: ignore[arg-type]
        start=Start(0.5, 160_000_000), latency_s=0.0072, latency_quartiles_s=(0.007, 0.008),
        pictures_per_s=180.0, network_s=None, share=share, faster={},
    )  # fmt: skip


def test_draw__share_of_some__its_panel_has_their_bars_alone() -> None:
    panels = draw([figures("ours", 0.73), figures("theirs", None)], "A machine").axes
    assert len(panels) == 5
    assert [text.get_text() for text in panels[-1].texts] == ["73", ""]
    assert [text.get_text() for text in panels[0].texts] == ["7.2", "7.2"]


def test_draw__share_of_none__no_panel() -> None:
    panels = draw([figures("ours", None), figures("theirs", None)], "A machine").axes
    assert [axes.get_title() for axes in panels] == [
        "one image (ms)", "in batches (images/s)", "peak memory (MB)", "cold start (s)",
    ]  # fmt: skip
