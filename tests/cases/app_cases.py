"""Runs for the browser's tests, and its real server in a thread, asked over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import uvicorn
from feature_runs import NAME, SITE, D, M, write_feature_run
from tiny_models import byte_tokenizer, random_module

from monosemy.app.catalogue import Catalogue
from monosemy.app.security import Access
from monosemy.app.server import bind, make_server
from monosemy.config import ModelConfig, RunConfig, to_json
from monosemy.models.adapter import LanguageModel
from monosemy.saes.base import SaeConfig
from monosemy.saes.registry import build_sae
from monosemy.saes.storage import save_sae
from monosemy.support.files import write_json
from monosemy.support.tensors import save_tensors

OTHER = "relu-l0_4-s0"
EMBEDDED_SITE, EMBEDDED_NAME = "layers.12.resid_post", "topk-l0_32-s0"
LIVE_SITE, LIVE_NAME = "layers.1.resid_post", "topk-l0_4-s0"


def page_run(folder: Path) -> Path:
    """A run with two SAEs that have features."""
    write_feature_run(folder, (NAME, OTHER))
    for name in (NAME, OTHER):
        sae = {"architecture": name.split("-")[0], "d_in": D, "d_sae": M, "l0": 4.0, "seed": 0, "site": SITE}
        write_json(folder / "saes" / SITE / name / "config.json", {"format": "monosemy-sae", "sae": sae})
    return folder


def model_run(folder: Path) -> Path:
    """A run whose model is a tiny random one in a folder, with a TopK SAE (K = 4) of 64 latents and no features."""
    random_module("llama", max_position_embeddings=64).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    config = RunConfig(model=ModelConfig(source=str(folder / "model"), device="cpu"))
    record = {"text": {"separator_token": 256, "bos_token": None}}
    write_json(folder / "run.json", {"format": 1, "config": to_json(config), "provenance": record})
    sae = build_sae(SaeConfig("topk", 32, 64, 4.0, site=LIVE_SITE, scale=2.0))
    target = folder / "saes" / LIVE_SITE / LIVE_NAME
    save_sae(sae, target)
    statistics = {"firing_count": torch.arange(64), "max": torch.ones(64), "sum": torch.arange(64).double() / 2}
    save_tensors(target / "latents.safetensors", statistics, {"n_tokens": "1000"})
    return folder


def embedded_run(folder: Path, model: LanguageModel) -> Path:
    """A run of the embedded model with a random SAE, marked with the model's real fingerprint."""
    facts = {"name": model.name, "fingerprint": model.fingerprint, "commit": None}
    record = {"model": facts, "text": {"separator_token": 0, "bos_token": None}}
    write_json(folder / "run.json", {"format": 1, "config": to_json(RunConfig()), "provenance": record})
    sae = build_sae(SaeConfig("topk", 576, 1152, 32.0, site=EMBEDDED_SITE, scale=146.0))
    save_sae(sae, folder / "saes" / EMBEDDED_SITE / EMBEDDED_NAME)
    return folder


class RunningServer:
    """A real server in a thread, asked over real connections; a context manager."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self.socket, self.port = listener, listener.getsockname()[1]
        self._server = server
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=600
        )  # kernels are compiled at the first request

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers in lower case, body) of a request; a body that is no bytes is sent as JSON."""
        connection = self.connect()
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        own = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, content, own | (headers or {}))
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()

    def get(self, path: str) -> Any:
        """The JSON of a call that must succeed."""
        status, _, content = self.ask("GET", path)
        assert status == 200, content
        return json.loads(content)

    def send(self, method: str, path: str, body: Any) -> Any:
        status, _, content = self.ask(method, path, body)
        assert status == 200, content
        return json.loads(content)

    def refusal(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """(status, error) of a call that must fail."""
        status, _, content = self.ask(method, path, body, headers)
        assert status >= 400, content
        return status, json.loads(content)["error"]


class Server(RunningServer):
    """The pages' server over a run."""

    def __init__(self, run: Path, host: str = "127.0.0.1") -> None:
        listener = bind("127.0.0.1", 0)
        self.access = Access.to(host, listener.getsockname()[1])
        super().__init__(make_server(Catalogue(run), self.access), listener)
