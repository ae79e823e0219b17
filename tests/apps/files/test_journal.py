"""The journal survives being killed in the middle of a line, and knows other work."""

from pathlib import Path

import pytest

from mobilevision.apps.files.journal import Journal
from mobilevision.apps.files.json_rows import json_list

WORK = {"model": "abc", "options": [1, 2.5]}


def test_journal__opened_again__has_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "progress.jsonl"
    with Journal(path, WORK) as journal:
        assert len(journal) == 0
        journal.append([("a", {"n": 1}), ("ü", [0.1])])
        journal.append([("a", {"n": 2})])
        assert journal["a"] == {"n": 2}
    with Journal(path, WORK) as journal:
        assert ("a" in journal, "b" in journal, len(journal)) == (True, False, 2)
        assert (journal["a"], journal["ü"]) == ({"n": 2}, [0.1])
        assert journal.begun_anew == []
        journal.append([("b", 3)])
        assert [journal[key] for key in "aüb"] == [{"n": 2}, [0.1], 3]


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_journal__last_line_cut_short__is_dropped(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "progress.jsonl"
    with Journal(path, WORK) as journal:
        journal.append([("a", 1), ("b", "x" * 30)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with Journal(path, WORK) as journal:
        assert ("a" in journal, "b" in journal) == (True, False)
        journal.append([("b", "x" * 30)])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b'{"journal":1', b"no json\n"])
def test_journal__killed_at_the_start_or_foreign__begins_anew(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(content)
    with Journal(path, WORK) as journal:
        journal.append([("a", 1)])
    with Journal(path, WORK) as journal:
        assert journal["a"] == 1


def test_journal__other_work__begins_anew_and_tells_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    with Journal(path, WORK) as journal:
        journal.append([("a", 1)])
    with Journal(path, WORK | {"model": "def"}) as journal:
        assert (len(journal), journal.begun_anew) == (0, ["model"])
    with Journal(path, WORK | {"model": "def"}) as journal:
        assert (len(journal), journal.begun_anew) == (0, [])


def test_json_list__none_and_many__is_json(tmp_path: Path) -> None:
    import json

    for rows in ([], [{"a": 1}], [1, [2.5], "ü"]):
        with json_list(tmp_path / "a.json") as add:
            for row in rows:
                add([row])
        assert json.loads((tmp_path / "a.json").read_bytes()) == rows


def test_json_list__body_raises__the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyError), json_list(path) as add:  # noqa: PT012
        add([1])
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
