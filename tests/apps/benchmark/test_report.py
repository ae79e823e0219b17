"""What is said of the machine and of measurements that cannot be trusted."""

from pathlib import Path

from mobilevision.apps.benchmark.report import cpu_name, doubts


def test_doubts__quiet_machine__none() -> None:
    assert doubts(3, 10, []) == []


def test_doubts__many_dropped_or_above_the_ceiling__said() -> None:
    (dropped,) = doubts(4, 10, [])
    assert "Many rounds were dropped" in dropped
    (above,) = doubts(0, 10, ["a.onnx, onnx", "b, eager"])
    assert above.startswith("Above the ceiling: a.onnx, onnx; b, eager. ")
    assert len(doubts(5, 10, ["a"])) == 2


def test_cpu_name__first_of_the_models(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Fast: One\nmodel name\t: Other\n")
    assert cpu_name(info) == "Fast: One"
    assert cpu_name(tmp_path / "absent")
