"""A server of `monosemy serve` over a run of a tiny random model, and the official client of OpenAI for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app_cases import LIVE_NAME, LIVE_SITE, RunningServer, model_run
from openai import OpenAI
from tiny_models import byte_tokenizer

from monosemy.app.security import Access, Guard
from monosemy.app.server import bind, server_of
from monosemy.serving.api import make_app, refuse
from monosemy.serving.served import Place, Served
from monosemy.support.moved import NOT_MOVED

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_run(folder: Path) -> Path:
    """`model_run` with a tokenizer that has a chat template."""
    model_run(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    return folder


def served_run(folder: Path, key: tuple[str, str] = (LIVE_SITE, LIVE_NAME), **options: Any) -> Served:
    """The model of a run with one of its SAEs, ready to be served."""
    return Served([Place(folder, (key,), NOT_MOVED)], **options)


class ApiServer(RunningServer):
    """The server in a thread; a context manager."""

    def __init__(self, served: Served, *, host: str = "127.0.0.1", key: str | None = None) -> None:
        listener = bind("127.0.0.1", 0)
        self.access = Access.to(host, listener.getsockname()[1], key=key)
        app = Guard(make_app(served), self.access, bearer=True, refuse=refuse)
        super().__init__(server_of(app), listener)

    def client(self, key: str = "none") -> OpenAI:
        """OpenAI's own client, without its retries."""
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0)
