"""``mobilevision weights``, with a local server in place of the public one."""

import hashlib
import io
import json
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobilevision.apps import public
from mobilevision.apps.main import main
from mobilevision.backbone.weights import hub
from mobilevision.datasets import download as download_module

CONTENT = b"made-up weights " * 5000
Capture = pytest.CaptureFixture[str]


def made_up_archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=0) as archive:
        for name, content in (("./notes.txt", b"notes"), ("./model.tflite", CONTENT)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content = b""
    drop_after: list[int]
    """Bytes after which the connection is cut, one number for each of the first requests."""
    asked: list[str | None]
    """The Range header of each request."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
        body = self.content[start:]
        self.close_connection = True
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            end = len(self.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.end_headers()
        self.wfile.write(body[: self.drop_after.pop(0)] if self.drop_after else body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILEVISION_CACHE", str(tmp_path))
    monkeypatch.setattr(download_module.time, "sleep", lambda _: None)
    return tmp_path / "weights"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    """A server that has the archive of the name ``made_up``, the only one in the table."""
    content = made_up_archive()
    handler = type("Bound", (Handler,), {"content": content, "drop_after": [], "asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    weights = hub.PublicWeights(
        url=f"http://127.0.0.1:{http.server_port}/folder/model.tgz",
        sha256=hashlib.sha256(content).hexdigest(),
        member="model.tflite",
        width_mult=0.25,
        license="Apache-2.0",
        source="nobody",
        data="made-up images",
    )
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", {"made_up": weights})
    assert not cache.exists()
    yield handler
    http.shutdown()
    thread.join()
    http.server_close()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(words: list[str], capsys: Capture) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("server")
def test_download__known_name__lies_in_the_cache_alone(cache: Path, capsys: Capture) -> None:
    assert main(["weights", "download", "made_up"]) == 0
    assert files(cache) == {"made_up.tflite": CONTENT}
    assert capsys.readouterr().out == f"{cache / 'made_up.tflite'}\n"
    assert hub.resolve_weights("made_up") == cache / "made_up.tflite"


def test_download__there_already__asks_nobody(server: type[Handler], capsys: Capture) -> None:
    main(["weights", "download", "made_up"])
    assert main(["weights", "download", "made_up"]) == 0
    assert capsys.readouterr().out.endswith("is there already\n")
    assert len(server.asked) == 1


def test_download__connection_lost__goes_on_where_it_stopped(
    server: type[Handler], cache: Path
) -> None:
    server.drop_after.append(70_000)
    assert main(["weights", "download", "made_up"]) == 0
    assert server.asked == [None, "bytes=65536-"]  # whole chunks are kept
    assert files(cache) == {"made_up.tflite": CONTENT}


def test_download__other_bytes__refused_and_nothing_kept(
    server: type[Handler], cache: Path, capsys: Capture
) -> None:
    server.content = made_up_archive().replace(b"made-up", b"changed")
    err = refused(["weights", "download", "made_up"], capsys)
    assert "sha256 of what arrived" in err
    assert all(content == b"" for content in files(cache).values()), "but for locks"
    assert not any(name.endswith((".tgz", ".tflite", ".part")) for name in files(cache))
    with pytest.raises(hub.WeightsError, match="weights download made_up"):
        hub.resolve_weights("made_up")


@pytest.mark.usefixtures("server")
def test_download__right_archive_without_the_file__refused(
    cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = hub.PUBLIC_WEIGHTS["made_up"]._replace(member="other.tflite")
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", {"made_up": weights})
    err = refused(["weights", "download", "made_up"], capsys)
    assert "holds no file other.tflite, but model.tflite, notes.txt" in err
    assert "made_up.tflite" not in files(cache)


@pytest.mark.usefixtures("server")
def test_download__mirror__is_asked_in_place_of_the_server(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = hub.PUBLIC_WEIGHTS["made_up"]
    monkeypatch.setattr(
        hub, "PUBLIC_WEIGHTS", {"made_up": weights._replace(url="http://127.0.0.1:9/model.tgz")}
    )
    assert main(["weights", "download", "made_up", "--url", weights.url]) == 0
    assert files(cache) == {"made_up.tflite": CONTENT}


def test_download__offline__says_so(server: type[Handler], capsys: Capture) -> None:
    err = refused(["weights", "download", "made_up", "--url", "http://127.0.0.1:9/x"], capsys)
    assert "gave up after 6 attempts" in err
    assert "Check the connection" in err
    assert server.asked == []


def test_download__unknown_name__lists_the_names(cache: Path, capsys: Capture) -> None:
    err = refused(["weights", "download", "resnet50"], capsys)
    assert err.startswith("error: resnet50: no public weights of this name; the names are ")
    assert "mobilenet_v1_1.0_224" in err
    assert not cache.exists()


@pytest.mark.usefixtures("server")
def test_list__says_which_are_there(cache: Path, capsys: Capture) -> None:
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "classification: mobilevision classify photo.jpg --model NAME",
        "  made_up",
        "    nobody",
        "    trained on: made-up images",
        "    license: Apache-2.0; not downloaded",
        "    not measured here",
        "",
        "What was measured here is in docs/results.md, with the commands.",
    ]
    main(["weights", "download", "made_up"])
    capsys.readouterr()
    assert main(["weights", "list"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"license: Apache-2.0; {cache / 'made_up.tflite'}" in said


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("columns", ["60", "80", "140"])
def test_list__every_name_under_its_job__within_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    jobs = [line.partition(":")[0] for line in lines if line[:1].isalpha()][:-1]
    assert len(jobs) == len(set(jobs)) == len({each.job for each in hub.PUBLIC_WEIGHTS.values()})
    job = ""
    for line in lines:
        job = line.partition(":")[0] if line[:1].isalpha() else job
        if re.fullmatch("  [^ ]+", line):
            assert hub.PUBLIC_WEIGHTS[line.strip()].job == job
    assert all(len(line) <= int(columns) for line in lines if line.startswith("    "))
    text = "\n".join(lines)
    assert text.count("not measured here") == sum(
        not each.measured for each in hub.PUBLIC_WEIGHTS.values()
    )


@pytest.mark.usefixtures("cache")
def test_list__one_job(capsys: Capture) -> None:
    assert main(["weights", "list", "--job", "face_embedding", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names == ["mobilefacenet", "sface", "facenet:vggface2", "facenet:casia-webface"]
    with pytest.raises(SystemExit):
        main(["weights", "list", "--job", "cooking"])


def of_two_files(server: type[Handler], monkeypatch: pytest.MonkeyPatch, **options: str) -> None:
    """Let the only name be one of two files, both of which the server answers with one content."""
    digest = hashlib.sha256(server.content).hexdigest()
    url = hub.PUBLIC_WEIGHTS["made_up"].url.replace("model.tgz", "net.param")
    weights = hub.PUBLIC_WEIGHTS["made_up"]._replace(
        url=url, member="", bin_sha256=digest, network="ncnn", **options
    )
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", {"two:files": weights})


TERMS = {"license": "unstated", "terms": "Nobody may use it."}


def test_download__two_files_of_one_name(
    server: type[Handler], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:  # fmt: skip
    of_two_files(server, monkeypatch)
    assert main(["weights", "download", "two:files"]) == 0
    both = {"two_files.param": server.content, "two_files.bin": server.content}
    assert files(cache) == both  # a colon is none of Windows' letters
    for name in both:
        (cache / name).unlink()
    copy = tmp_path / "copies"
    copy.mkdir()
    (copy / "a.param").write_bytes(server.content)
    assert "a.bin: no such file" in refused(
        ["weights", "download", "two:files", "--url", str(copy / "a.param")], capsys
    )
    (copy / "a.bin").write_bytes(b"other")
    assert "a.bin: is not a copy" in refused(
        ["weights", "download", "two:files", "--url", str(copy / "a.param")], capsys
    )
    assert not (cache / "two_files.param").exists()
    (copy / "a.bin").write_bytes(server.content)
    assert main(["weights", "download", "two:files", "--url", str(copy / "a.param")]) == 0
    assert files(cache) == both
    assert len(server.asked) == 2


def test_download__license_to_accept__once_and_by_its_name(
    server: type[Handler], cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    of_two_files(server, monkeypatch, **TERMS)
    words = ["weights", "download", "two:files"]
    for more in ([], ["--accept-license", "MIT"], ["--url", "http://127.0.0.1:9/net.param"]):
        err = refused([*words, *more], capsys)
        for part in ("unstated. Nobody may use it.", "made-up images", "--accept-license unstated",
                     "MOBILEVISION_ACCEPT_LICENSE=unstated"):  # fmt: skip
            assert part in err
    assert server.asked == []
    assert not cache.exists()
    assert main([*words, "--accept-license", "unstated"]) == 0
    assert public.ACCEPT_VARIABLE not in os.environ
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("is there already\n")
    for path in cache.iterdir():
        path.unlink()
    monkeypatch.setenv(public.ACCEPT_VARIABLE, "non-commercial,unstated")
    assert main(words) == 0
    assert os.environ[public.ACCEPT_VARIABLE] == "non-commercial,unstated"


@pytest.mark.usefixtures("cache")
def test_facenet__downloaded_by_facenet_pytorch__is_taken_if_its_sum_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    theirs = tmp_path / "torch" / "checkpoints" / "20180402-114759-vggface2.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(CONTENT)
    name = "facenet:vggface2"
    assert hub.existing_file(name) is None
    weights = hub.PUBLIC_WEIGHTS[name]._replace(sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(hub.PUBLIC_WEIGHTS, name, weights)
    assert hub.existing_file(name) == theirs
    assert public.find_network(name) == ("facenet", theirs)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "words", ["import sface --out a.ckpt", "export --ckpt sface --format onnx --out a.onnx"]
)
def test_networks_of_others__are_not_converted(words: str, capsys: Capture) -> None:
    assert "sface: is a network of another project" in refused(words.split(), capsys)


@pytest.mark.usefixtures("cache")
def test_list__json__has_every_fact(capsys: Capture) -> None:
    assert main(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(hub.PUBLIC_WEIGHTS)
    assert {row["path"] for row in rows} == {None}
    for row in rows:
        assert (
            hub.PublicWeights(**{key: row[key] for key in hub.PublicWeights._fields})
            == (hub.PUBLIC_WEIGHTS[row["name"]])
        )


@pytest.mark.usefixtures("server")
def test_download__file_that_is_no_archive__is_kept_as_it_is(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = hub.PUBLIC_WEIGHTS["made_up"]._replace(member="")
    monkeypatch.setattr(hub, "PUBLIC_WEIGHTS", {"made_up": plain})
    assert main(["weights", "download", "made_up"]) == 0
    assert files(cache) == {"made_up.tgz": made_up_archive()}
    (cache / "made_up.tgz").unlink()
    (tmp_path / "copy").write_bytes(made_up_archive())
    assert main(["weights", "download", "made_up", "--url", str(tmp_path / "copy")]) == 0
    assert files(cache) == {"made_up.tgz": made_up_archive()}
