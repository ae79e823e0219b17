"""Words of a command line become files, each once and with a name of its own."""

import os
from pathlib import Path

import pytest
from PIL import Image

from mobilevision.apps.batch.inputs import InputFile, find_files, output_names
from mobilevision.apps.inference.predictor import as_images
from mobilevision.datasets import images
from mobilevision.datasets.errors import DataError
from mobilevision.datasets.images import ImageAtUrl


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.jpeg", "sub/d.mp4", "notes.txt", ".hidden.jpg",
                 ".cache/e.jpg", "out/f.jpg", "odd[1].jpg"):  # fmt: skip
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def names(*words: str, leave_out: Path | None = None) -> list[str]:
    return [file.name for file in find_files(words, leave_out)]


def test_find_files__folder__images_and_videos_below_it(folder: Path) -> None:
    found = names("in")
    assert found == ["a.PNG", "b.jpg", "odd[1].jpg", "out/f.jpg", "sub/c.jpeg", "sub/d.mp4"]
    assert "out/f.jpg" not in names(str(folder), leave_out=folder / "out")
    assert "out/f.jpg" not in names("in", leave_out=Path("in/out"))


def test_find_files__same_file_in_several_ways__once(folder: Path) -> None:
    assert names("in/b.jpg", str(folder / "b.jpg"), "in/*.jpg", "in/sub/../b.jpg") == [
        "b.jpg",
        "odd[1].jpg",
    ]


def test_find_files__patterns_and_odd_names(folder: Path) -> None:
    assert folder.is_dir()
    assert names("in/**/*.jp*g") == ["b.jpg", "odd[1].jpg", "f.jpg", "c.jpeg"]
    assert names("in/odd[1].jpg") == ["odd[1].jpg"]
    assert names("in/notes.txt") == ["notes.txt"]
    assert [file.kind for file in find_files(["in/sub"])] == ["image", "video"]


@pytest.mark.parametrize("word", ["absent.jpg", "in/*.gif", "nowhere"])
def test_find_files__nothing_there__names_the_word(folder: Path, word: str) -> None:
    assert folder.is_dir()
    with pytest.raises(DataError, match="no such file or folder, and no pattern"):
        find_files(["in/b.jpg", word])


def test_find_files__folder_without_images__says_what_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images or videos.*\.jpg"):
        find_files([str(tmp_path)])


def test_output_names__never_the_same_and_never_outside() -> None:
    paths = ["x/a.jpg", "y/a.jpg", "z/A.png", "../../a.jpg", "deep/b.jpg"]
    files = [InputFile(Path(path), path.removeprefix("x/").removeprefix("y/").removeprefix("z/"))
             for path in paths]  # fmt: skip
    assert output_names(files) == ["a", "a.jpg", "A.png", "a.jpg-2", "deep/b"]
    assert output_names(files[:1], taken=["a"]) == ["a.jpg"]


def test_find_files__name_that_is_not_utf8(folder: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(DataError, match=r"caf\\udce9.png'.* not UTF-8. Rename the file"):
        find_files(["in"])


def test_find_files__addresses__kinds_and_names(
    server: tuple[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, files = server
    (files / "snapshot").write_bytes(b"\x89PNG")
    (files / "film").write_bytes(b"\0\0\0 ftyp")
    monkeypatch.chdir(folder)
    words = ["0", "rtsp://user:secret@cam.local:554/", "http://a.org/x/photo.JPG?size=1",
             "https://a.org/clip.mp4", "http://a.org/live.m3u8", f"{url}/snapshot", f"{url}/film",
             f"{url}/live", "b.jpg"]  # fmt: skip
    found = find_files(words, addresses=True)
    assert [(file.name, file.kind) for file in found] == [
        ("camera0", "stream"), ("cam.local", "stream"), ("photo.JPG", "image"),
        ("clip.mp4", "video"), ("live.m3u8", "stream"), ("snapshot", "image"), ("film", "video"),
        ("live", "stream"), ("b.jpg", "image"),
    ]  # fmt: skip
    assert [file.address for file in found] == [*words[:-1], ""]
    (folder / "0").touch()
    assert find_files(["0"], addresses=True)[0].kind == "image", "a file wins"


@pytest.mark.parametrize("word", ["0", "http://a.org/photo.jpg"])
def test_find_files__address_where_only_files_count__no_such_file(word: str) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_files([word])


def test_find_files__address_that_does_not_answer__says_so(server: tuple[str, Path]) -> None:
    with pytest.raises(DataError, match=r"/absent: the server answered 404"):
        find_files([f"{server[0]}/absent"], addresses=True)
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/x: cannot be reached"):
        find_files(["http://user:secret@127.0.0.1:9/x"], addresses=True)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("http://user:secret@[::1/a.jpg", r"http://\[::1/a.jpg: is no address"),
        ("http://user:secret@h:99999/a", r"http://h:99999/a: cannot be reached"),
        ("99999999999", "99999999999: no such file"),
    ],
)
def test_find_files__no_address__said_without_the_password(word: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        find_files([word], addresses=True)
    assert "secret" not in str(caught.value)


def test_find_files__scheme_in_capitals__an_address() -> None:
    (file,) = find_files(["RTSP://cam.local/live"], addresses=True)
    assert (file.kind, file.address) == ("stream", "RTSP://cam.local/live")


def test_image_at_url__read_as_a_file_and_limited(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, files = server
    Image.new("RGB", (20, 10), (250, 9, 4)).save(files / "a.png")
    image = ImageAtUrl(f"{url}/a.png".replace("://", "://user:secret@"))
    assert image.read().shape == (10, 20, 3)
    (files / "a.png").unlink()
    assert image.read()[0, 0].tolist() == [250, 9, 4], "it is fetched once"
    with pytest.raises(DataError, match=r"127.0.0.1:\d+/a.png: the server answered 404"):
        ImageAtUrl(f"{url}/a.png").read()
    (files / "b.png").write_bytes(b"x" * 1000)
    monkeypatch.setattr(images, "_MOST_BYTES", 999)
    with pytest.raises(DataError, match="more than 999 bytes"):
        ImageAtUrl(f"{url}/b.png").read()
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/c.png: cannot be fetched"):
        ImageAtUrl("http://127.0.0.1:9/c.png").read()
    assert isinstance(next(as_images(f"{url}/a.png")[0]), ImageAtUrl)
