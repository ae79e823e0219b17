"""How command lines end."""

import pytest

from mobilevision.apps.errors import friendly_errors
from mobilevision.datasets.errors import DataError


def test_friendly_errors__data_error__message_alone_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        raise DataError("a.json: is empty; write it again")
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: a.json: is empty; write it again\n"


def test_friendly_errors__ctrl_c__status_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, friendly_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_friendly_errors__fault_of_the_program__keeps_its_type() -> None:
    with pytest.raises(ValueError, match="a fault"), friendly_errors():
        raise ValueError("a fault")


def test_friendly_errors__nothing_wrong__says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with friendly_errors():
        pass
    assert capsys.readouterr() == ("", "")
