"""SAEs from the hub: names, what is fetched, the cache, and every way in which it can fail, against a local server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

import pytest
from published_saes import FOLDER

from monosemy.errors import UserError
from monosemy.saes.formats.hub import HubName, hub_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = ("google/gemma-scope-2b-pt-res", "google/gemma-scope-2-270m-pt")
"""Both with the same FILES."""
SCOPE = FOLDER / "gemma_scope_1" / "layer_3" / "width_96" / "average_l0_12" / "params.npz"
FILES = {
    "layer_20/width_16k/average_l0_71/params.npz": SCOPE,
    "layer_20/width_16k/average_l0_139/params.npz": SCOPE,
    "lens/blocks.3/cfg.json": FOLDER / "lens_jumprelu" / "cfg.json",
    "lens/blocks.3/sae_weights.safetensors": FOLDER / "lens_jumprelu" / "sae_weights.safetensors",
    "lens/blocks.3/sparsity.safetensors": FOLDER / "lens_jumprelu" / "sae_weights.safetensors",
    "README.md": Path(__file__),
}


def test_names():
    name = hub_name("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    assert name == HubName("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")
    assert hub_name("hf://a/b/c/d.pt@v1.0/x") == HubName("a/b", "c/d.pt", "v1.0/x")
    for text in (
        "hf://a/b/c/d.safetensors?revision=v1",
        "https://huggingface.co/a/b/blob/v1/c/d.safetensors?download=true",
        "https://hf.co/a/b/resolve/v1/c/d.safetensors",
    ):
        assert hub_name(text) == HubName("a/b", "c/d.safetensors", "v1")
    assert hub_name("https://huggingface.co/a/b/tree/refs%2Fpr%2F1/c") == HubName("a/b", "c", "refs/pr/1")
    assert hub_name("https://huggingface.co/a/b") == HubName("a/b", "")
    assert hub_name("a/b/x_24576:v1") == HubName("a/b", "x_24576:v1")
    for text in ("https://huggingface.co/datasets/a/b/tree/main/c", "https://example.com/a/b", "http://x", "hf://a/b@"):
        with pytest.raises(UserError, match=r"give owner/repository/path|should be like hf://"):
            hub_name(text)
    for text in ("runs", "/a/b", "./a/b", "../a/b", "a/../b", "a b/c", "", "a//b"):
        assert hub_name(text) is None
    with pytest.raises(UserError, match="should be like hf://owner/repository/path@revision"):
        hub_name("hf://a/../../etc")


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: repositories with FILES, one gated, no other."""

    requested: list[str] = []  # noqa: RUF012

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        if "/gated" in path and ("/resolve/" in path or "/tree/" in path):
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if path.startswith("/api/models/"):
            return self._api(path.removeprefix("/api/models/"), parse_qs(url.query))
        repository, _, rest = path.strip("/").partition("/resolve/")
        file = FILES.get(rest.partition("/")[2])
        if repository not in REPOSITORIES or file is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.requested.append(rest.partition("/")[2])
        body = file.read_bytes()
        self._send(200, body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'})

    def _api(self, path: str, query: dict[str, list[str]]) -> None:
        repository, revision, rest = path, "main", ""
        for word in ("/revision/", "/tree/"):
            if word in path:
                repository, _, rest = path.partition(word)
                revision, _, rest = rest.partition("/")
        if repository not in (*REPOSITORIES, "org/gated"):
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if revision not in ("main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"})
        if "/tree/" not in path:
            return self._send(200, json.dumps({"id": repository, "sha": COMMIT}).encode(), {})
        below = [name for name in FILES if not rest or name.startswith(f"{rest}/")]
        if not below:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if query.get("recursive", ["false"])[0].lower() != "true":
            depth = rest.count("/") + 1 if rest else 0
            below = sorted({"/".join(name.split("/")[: depth + 1]) for name in below})
        entries = [
            {"type": "file" if name in FILES else "directory", "path": name, "size": 1, "oid": "0"} for name in below
        ]
        self._send(200, json.dumps(entries).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def loaded(home: Path, endpoint: str, sources: list[str]) -> list[dict[str, object]]:
    """Loads each name in one new process (the hub's settings are read at import); config records or error lines."""
    script = """
import json, sys
from monosemy import load_sae
from monosemy.errors import UserError
for source in json.loads(sys.argv[1]):
    try:
        sae = load_sae(source)
        c = sae.config
        print(json.dumps({"model": c.model, "site": c.site, "l0": c.l0, **c.record["origin"]}), flush=True)
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)
"""
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment.pop("HF_HUB_CACHE", None)
    process = subprocess.run(
        [sys.executable, "-c", script, json.dumps(sources)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_an_sae_is_fetched_once_with_its_own_files_alone_and_opens_without_a_connection_later(tmp_path, monkeypatch):
    curated = tmp_path / "config.yaml"
    curated.write_text("transcoders:\n  - hf://google/weights/layer_0/params.npz\n  - hf://google/weights/layer_1\n")
    monkeypatch.setitem(FILES, "set/config.yaml", curated)
    layer = tmp_path / "layer_2.safetensors"
    layer.write_bytes(b"".join(path.read_bytes() for path in FOLDER.glob("gemma_scope_2/**/params.safetensors")))
    (tmp_path / "one.yaml").write_text("model_name: gpt2\n")
    monkeypatch.setitem(FILES, "one/config.yaml", tmp_path / "one.yaml")
    monkeypatch.setitem(FILES, "one/layer_2.safetensors", layer)
    monkeypatch.setitem(FILES, "resid_post/layer_5_width_1k/params.safetensors", layer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    _Hub.requested.clear()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    repository = "google/gemma-scope-2b-pt-res"
    scope = f"{repository}/layer_20/width_16k/average_l0_71"
    online = loaded(
        tmp_path,
        endpoint,
        [
            scope,
            f"hf://{repository}/lens/blocks.3@main",
            f"{scope}/params.npz",
            repository,
            f"{repository}/layer_20/width_16k/average_l0_77",
            f"{scope}@nowhere",
            "google/gemma-scope-9b/x",
            "org/gated/layer_1",
            f"{repository}/set",
            f"https://huggingface.co/{REPOSITORIES[1]}/tree/main/resid_post/layer_5_width_1k",
            f"{repository}/one",
        ],
    )
    server.shutdown()
    first, lens, by_file, several, wrong, revision, unknown, gated, listed, unsaid, one = online
    assert (first["model"], first["site"], first["l0"]) == ("google/gemma-2-2b", "layers.20.resid_post", 71)
    assert first["files"] == {"params.npz": hashlib.sha256(SCOPE.read_bytes()).hexdigest()}
    assert (first["repository"], first["commit"], first["path"]) == (repository, COMMIT, scope)
    assert lens["layout"] == "SAELens"
    assert by_file["files"] == first["files"]
    assert f"'{repository}/set' is a list of 2 transcoders that lie elsewhere" in listed["error"]
    assert listed["error"].endswith("e.g. hf://google/weights/layer_0/params.npz, hf://google/weights/layer_1")
    assert (unsaid["layout"], unsaid["model"], unsaid["site"]) == (
        "Gemma Scope 2",
        "google/gemma-3-270m",
        "layers.5.resid_post",
    )
    assert unsaid["files"].keys() == {"params.safetensors"}
    assert "one/layer_2.safetensors" in one["error"]  # found, and not such a file
    for file in ("set/config.yaml", "one/config.yaml", "one/layer_2.safetensors"):
        _Hub.requested.remove(file)
    _Hub.requested.remove("resid_post/layer_5_width_1k/params.safetensors")
    assert sorted(_Hub.requested) == sorted(list(FILES)[i] for i in (0, 2, 3))  # neither sparsity nor another SAE
    assert several["error"].startswith(f"'{repository}' holds 4 SAEs; name one, e.g. {repository}/layer_20/")
    assert (
        "has no SAE at 'layer_20/width_16k/average_l0_77'; beside it are layer_20/width_16k/average_l0_71"
        in wrong["error"]
    )
    assert "has no revision 'nowhere'" in revision["error"]
    assert (
        "the hub has no repository 'google/gemma-scope-9b', or it is private and HF_TOKEN is missing"
        in unknown["error"]
    )
    assert "repository 'org/gated' is gated: accept its licence on the hub, then log in" in gated["error"]
    cached, missing, elsewhere = loaded(
        tmp_path, "http://127.0.0.1:9", [scope, f"{repository}/layer_1", "org/other/layer_1"]
    )
    assert cached == first
    assert "no network, and of google/gemma-scope-2b-pt-res only other files are in the local cache" in missing["error"]
    assert "no network, and it is not in the local cache" in elsewhere["error"]
    assert all("\n" not in str(record.get("error", "")) for record in online)
