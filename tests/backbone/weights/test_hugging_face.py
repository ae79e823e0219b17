"""Names on the Hugging Face hub, with a local server in place of the hub."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from mobilevision.apps.main import main
from mobilevision.backbone.errors import WeightsError
from mobilevision.backbone.weights import hub
from mobilevision.backbone.weights.hub import (
    cached_file,
    commit_of,
    fetch,
    parse_name,
    resolve_weights,
)

huggingface_hub = pytest.importorskip("huggingface_hub")
CONTENT = b"made-up weights " * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:someone/mobilenet"


class Handler(BaseHTTPRequestHandler):
    """A hub with one repository."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()
        self.wfile.write(CONTENT)

    def _answer(self) -> None:
        known = self.path == "/someone/mobilenet/resolve/main/model.safetensors"
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{SUM}"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The functions of the hub's library that are used, with one repository and a cache."""
    snapshot = tmp_path / "snapshots" / COMMIT / "model.safetensors"
    snapshot.parent.mkdir(parents=True)

    def download(repository: str, *_: str, **__: str) -> str:
        if repository != "someone/mobilenet":
            raise RuntimeError("404 Not Found")
        blob = tmp_path / "blob"
        blob.write_bytes(CONTENT)
        snapshot.symlink_to(blob)
        return str(snapshot)

    fake = SimpleNamespace(
        etag=SUM,
        hf_hub_url=huggingface_hub.hf_hub_url,
        get_hf_file_metadata=lambda _: SimpleNamespace(etag=fake.etag),
        hf_hub_download=download,
        try_to_load_from_cache=lambda *_, **__: str(snapshot) if snapshot.is_file() else None,
    )
    monkeypatch.setattr(hub, "_library", lambda: fake)
    return fake


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:timm/mobilenetv1_100.ra4", ("timm/mobilenetv1_100.ra4", "main")),
        ("hf:a/b@v1.0", ("a/b", "v1.0")),
        ("mobilenet_v1_1.0_224", None),
        ("folder/file.npz", None),
    ],
)
def test_parse_name__repository_and_revision(name: str, expected: tuple[str, str] | None) -> None:
    assert parse_name(name) == expected


@pytest.mark.parametrize("name", ["hf:timm", "hf:/x", "hf:a/b/c", "hf:a/b@", "hf:"])
def test_parse_name__another_form__refused(name: str) -> None:
    with pytest.raises(WeightsError, match="hf:OWNER/REPOSITORY"):
        parse_name(name)


def test_download__real_library__lies_in_the_hubs_cache(endpoint: str, tmp_path: Path) -> None:
    """In a process of its own: the library reads the hub's address when it is imported."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    script = (
        "import sys; from mobilevision.apps.main import main\n"
        "from mobilevision.backbone.weights.hub import resolve_weights\n"
        "main(['weights', 'download', sys.argv[1]]); print(resolve_weights(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, NAME],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    path, checksum, resolved = done.stdout.splitlines()
    assert Path(path).read_bytes() == CONTENT
    assert path == resolved
    assert checksum == f"sha256 {SUM}"
    assert commit_of(Path(path)) == COMMIT


def test_commit_of__file_elsewhere__is_none() -> None:
    assert commit_of(Path("weights/model.safetensors")) is None


@pytest.mark.usefixtures("library")
def test_resolve__not_downloaded__says_the_command() -> None:
    with pytest.raises(WeightsError, match=f"mobilevision weights download {NAME}"):
        resolve_weights(NAME)


@pytest.mark.usefixtures("library")
def test_fetch__other_sum_than_asked_for__nothing_kept(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"is {SUM}, not {'0' * 64}; it was removed"):
        fetch(NAME, "0" * 64)
    assert not (tmp_path / "blob").exists()
    with pytest.raises(WeightsError, match="weights download"):
        cached_file(NAME)


def test_fetch__hub_states_no_sum__asks_for_one(library: SimpleNamespace) -> None:
    library.etag = "a git object, not a sha256"
    with pytest.raises(WeightsError, match="give the one you expect with --sha256"):
        fetch(NAME)
    assert fetch(NAME, SUM) == (cached_file(NAME), SUM)


@pytest.mark.usefixtures("library")
def test_fetch__no_such_repository__says_so() -> None:
    with pytest.raises(WeightsError, match=r"hf:no/body: cannot be downloaded .*404"):
        fetch("hf:no/body")


def test_library__absent__says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install 'mobilevision\[hub\]'"):
        cached_file(NAME)


def test_download__url_or_sum_where_they_do_not_belong__refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, message in (
        ([NAME, "--url", "http://x"], "HF_ENDPOINT"),
        (["mobilenet_v1_1.0_224", "--sha256", SUM], "--sha256 is for hf: names"),
    ):
        with pytest.raises(SystemExit):
            main(["weights", "download", *words])
        assert message in capsys.readouterr().err
