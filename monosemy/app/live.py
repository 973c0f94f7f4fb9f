"""The language model behind the browser, loaded at first need and used by one request at a time.

Place on the path: run folder → [model and SAEs, in memory] → the user's own text and steering. torch is imported by the
loading thread, never at the start of the server.

States: absent → loading → ready, or failed with a reason; after a failure, the next request that needs the model loads
it again. A lock serialises the passes of the model. A steering stream holds it for a single event at a time, so the
model can read another text while an answer is being written. There is at most one steering stream.
Limits: everything runs on the device of the run's own configuration. The last four SAEs used stay loaded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from monosemy.app.catalogue import Catalogue, Dictionary
from monosemy.app.text_scope import MAX_TEXT, PAGES, TextScope
from monosemy.errors import UserError
from monosemy.steering.recipe import beside, labels_of
from monosemy.steering.request import SteeringRequest, request_from_json
from monosemy.support.numbers import count_text, setting_text

if TYPE_CHECKING:
    from monosemy.app.own_text import Reading
    from monosemy.models.adapter import LanguageModel
    from monosemy.saes.base import SparseAutoencoder
    from monosemy.steering.edits import LatentScales
    from monosemy.steering.saes import SteeredSae

T = TypeVar("T")

MAX_NEW_TOKENS = 256
MAX_EDITS = 16
MAX_SWEEP = 24
SWEEP_BATCH = 4
"""Number of strengths answered together: a small batch costs little more than one text, and results come early."""
MAX_TOP = 50
KEPT_SAES = 4
WAIT_SECONDS = 30.0
"""How long a request waits for the model while another one's pass runs."""


class BusyError(UserError):
    """Raised when another request holds the model or the steering stream (status 409)."""


class ModelError(UserError):
    """Raised when the model cannot be loaded (status 503)."""


class LiveModel:
    """The run's language model and SAEs, loaded in the background at first need.

    `_change` guards the state and wakes the requests that wait for loading; `_passes` is held during a pass of the
    model, `_stream` for the length of a steering stream.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        facts = catalogue.provenance.get("rows" if catalogue.of_rows else "model", {})
        self.name = str(facts.get("name") or catalogue.config.model.source)
        self.state, self.message = "absent", ""
        self._started: float | None = None
        self._model: LanguageModel | None = None
        self._saes: dict[tuple[Any, ...], SparseAutoencoder] = {}
        self._change = threading.Condition()
        self._passes = threading.Lock()
        self._stream = threading.Lock()

    def status(self) -> dict[str, Any]:
        """The model's state (`schema.ModelStatus`)."""
        seconds = time.monotonic() - self._started if self._started is not None and self.state == "loading" else None
        chat = bool(getattr(self._model.tokenizer, "chat_template", None)) if self._model is not None else None
        return {"state": self.state, "name": self.name, "message": self.message, "seconds": seconds, "chat": chat}

    def require_text(self) -> None:
        """Raises ModelError for a run of rows, behind which there is no model."""
        if self.catalogue.of_rows:
            raise ModelError(
                "this run was trained on rows of your own: there is no language model to read or write text"
            )

    def start(self) -> None:
        """Starts loading the model in a thread, unless it is loaded or loading already."""
        self.require_text()
        # under the lock, so that two requests do not both start a thread
        with self._change:
            if self.state in ("loading", "ready"):
                return
            self.state, self.message, self._started = "loading", "reading the model's weights", time.monotonic()
        threading.Thread(target=self._load, name="model", daemon=True).start()

    def model(self) -> LanguageModel:
        """The model, after waiting until it is loaded. Raises ModelError with the reason if it cannot be."""
        self.start()
        with self._change:
            self._change.wait_for(lambda: self.state != "loading")
            if self._model is None:
                raise ModelError(self.message)
            return self._model

    def _load(self) -> None:
        """Loads the model (in a thread of its own), records the outcome and wakes all who wait for it."""
        loaded, message = None, ""
        try:
            loaded = _load_run_model(self.catalogue)
        except UserError as error:
            message = str(error)
        except Exception as error:  # whatever went wrong, the page must not wait for ever
            message = f"loading failed: {type(error).__name__}: {error}"
        with self._change:
            self._model, self.message = loaded, message
            self.state = "ready" if loaded is not None else "failed"
            self._change.notify_all()

    def sae(self, entry: Dictionary) -> SparseAutoencoder:
        """The SAE on the model's device; the last `KEPT_SAES` loaded are kept. Raises UserError for damaged files."""
        from monosemy.saes.storage import load_sae

        model, key = self.model(), (entry.site, entry.name, entry.weights_stamp)
        if key not in self._saes:
            loaded = load_sae(entry.folder, device=str(model.device))
            # oldest first, by time of loading
            while len(self._saes) >= KEPT_SAES:
                self._saes.pop(next(iter(self._saes)))
            self._saes[key] = loaded
        return self._saes[key]

    @contextmanager
    def passes(self) -> Iterator[None]:
        """Gives the caller sole use of the model. Raises BusyError if it is not free within `WAIT_SECONDS`."""
        if not self._passes.acquire(timeout=WAIT_SECONDS):
            raise BusyError("the model is busy with another request; try again in a moment")
        try:
            yield
        finally:
            self._passes.release()

    def hold_stream(self) -> None:
        """Takes the one steering stream, until `free_stream`. Raises BusyError if another one is running."""
        if not self._stream.acquire(blocking=False):
            raise BusyError("another text is being written; stop it first, or wait for its end")

    def free_stream(self) -> None:
        self._stream.release()


def _load_run_model(catalogue: Catalogue) -> LanguageModel:
    """The model that the run was made with. Raises UserError if what is found now is another model."""
    from monosemy.models.of_run import load_run_model

    return load_run_model(catalogue.folder, catalogue.config, catalogue.provenance, catalogue.moved)


def read_text(
    live: LiveModel, entry: Dictionary, text: str, *, chat: bool = False, scope: TextScope = PAGES
) -> Reading:
    """The SAE's code of the user's own text, or of a chat's transcript.

    A plain text is preceded by the separator that begins a document in training. Positions of the kinds that training
    drops (the first one, special tokens, outliers) have no active latents. The call blocks, so run it in a thread.
    Raises UserError for an empty text, one that is too long for the scope, or no transcript of a chat; ModelError, and
    BusyError.
    """
    if not text or len(text) > scope.most_characters:
        most = count_text(scope.most_characters)
        raise UserError(f"a text takes 1 to {most} characters, got {count_text(len(text))}; cut it in two")
    from monosemy.app.own_text import read_own_text
    from monosemy.app.transcript import Transcript, parse_chat, written_chat

    messages = parse_chat(text) if chat else []
    # loading may take long and is waited for before the model is locked
    model, sae = live.model(), live.sae(entry)
    transcript = written_chat(model, messages) if chat else Transcript(text)
    run, limit = live.catalogue, steering_scales(entry, sae).outlier_norm
    with live.passes():
        return read_own_text(
            model,
            sae,
            transcript,
            run.config,
            provenance=run.provenance,
            outlier_norm=limit,
            database=entry.database,
            scope=scope,
        )


def steering_request(catalogue: Catalogue, entry: Dictionary, body: Mapping[str, Any]) -> SteeringRequest:
    """The checked request in a body of `POST /api/steer`.

    Raises UserError for invalid values or ones over a limit, NotFoundError for SAEs and latents that do not exist.
    """
    request = request_from_json({k: v for k, v in body.items() if k not in ("site", "name", "values")})
    for field, text in (("prompt", request.prompt), ("instruction", request.instruction), ("system", request.system)):
        if len(text) > MAX_TEXT:
            raise UserError(f"the {field} takes at most {count_text(MAX_TEXT)} characters, got {count_text(len(text))}")
    if request.n_tokens > MAX_NEW_TOKENS:
        raise UserError(
            f"n_tokens takes at most {MAX_NEW_TOKENS} here, got {request.n_tokens}; monosemy steer has no cap"
        )
    if len(request.edits) > MAX_EDITS:
        raise UserError(f"at most {MAX_EDITS} latents are edited together, got {len(request.edits)}")
    # a latent of the request's own SAE is the same latent, whether or not it names that SAE
    request = replace(request, edits=beside(request.edits, entry.saved.label))
    others = labels_of(request.edits)
    if len(others) >= KEPT_SAES:
        raise UserError(f"latents of at most {KEPT_SAES} SAEs are edited together, got {len(others) + 1}")
    for edit in request.edits:
        (catalogue.sae_of(edit.sae) if edit.sae else entry).check_latent(edit.latent)
    return request


def steer_events(live: LiveModel, entry: Dictionary, request: SteeringRequest) -> Iterator[dict[str, Any]]:
    """The events of one steered generation; each `next` blocks for one event and holds the model only so long."""
    from monosemy.steering.generate import stream

    model, sae = live.model(), live.sae(entry)
    return one_at_a_time(live, stream(model, sae, request, steering_scales(entry, sae), others=_others(live, request)))


def _others(live: LiveModel, request: SteeringRequest) -> dict[str, SteeredSae]:
    """The SAEs beside the request's own whose latents it edits."""
    from monosemy.steering.saes import SteeredSae

    entries = {label: live.catalogue.sae_of(label) for label in labels_of(request.edits)}
    saes = {label: live.sae(entry) for label, entry in entries.items()}
    return {label: SteeredSae(sae, steering_scales(entries[label], sae)) for label, sae in saes.items()}


def steering_scales(entry: Dictionary, sae: SparseAutoencoder) -> LatentScales:
    """The scales of steering's units, in which every latent's maximum is that of `Dictionary.steering_max`."""
    import torch

    from monosemy.steering.edits import read_scales

    scales, built = read_scales(entry.folder, sae), entry.built_columns.get("max")
    if built is None:
        return scales
    maximum = torch.tensor(built).nan_to_num()  # a copy, since from_numpy warns of read-only arrays such as these
    # the evaluation's maximum where the latent fired there, else that of the features
    if scales.maximum is not None:
        maximum = torch.where(scales.maximum > 0, scales.maximum, maximum.to(scales.maximum))
    return replace(scales, maximum=maximum)


def sweep_events(
    live: LiveModel, entry: Dictionary, request: SteeringRequest, values: list[Any]
) -> Iterator[dict[str, Any]]:
    """The events of the steered column at several strengths, `SWEEP_BATCH` at a time, then {"kind": "end", "seconds"}.

    There is an event for every token, so that a client that has left is noticed between two tokens. Raises UserError at
    once for too many strengths or ones that are not finite numbers. Strengths that leave no answer raise it at the end,
    when the others have been answered.
    """
    if not 1 <= len(values) <= MAX_SWEEP:
        raise UserError(f"a sweep takes 1 to {MAX_SWEEP} strengths, got {len(values)}")
    # JSON's true is an int in Python
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"a strength must be a finite number, got {str(value)[:40]!r}")
    live.sae(entry)
    return one_at_a_time(live, _sweep(live, entry, request, [float(value) for value in values]))


def _sweep(
    live: LiveModel, entry: Dictionary, request: SteeringRequest, values: list[float]
) -> Iterator[dict[str, Any]]:
    """The events of a sweep, batch after batch; strengths that leave no answer make up an error at the end."""
    from monosemy.steering import sweep

    model, sae = live.model(), live.sae(entry)
    started, scales, others = time.perf_counter(), steering_scales(entry, sae), _others(live, request)
    refused: list[str] = []
    for first in range(0, len(values), SWEEP_BATCH):
        batch = values[first : first + SWEEP_BATCH]
        for event in sweep.sweep_events(model, sae, request, batch, scales=scales, others=others):
            if event["kind"] == "too_strong":
                refused.append(f"strength {setting_text(event['value'])}: {event['error']}")
            else:
                yield event | {"done": first} if event["kind"] == "progress" else event
    if refused:
        raise UserError(refused[0] + (f" (and {len(refused) - 1} more strengths)" if refused[1:] else ""))
    yield {"kind": "end", "seconds": time.perf_counter() - started}


def one_at_a_time(live: LiveModel, events: Iterator[T]) -> Iterator[T]:
    """The same events, with the model locked while each is made and free while it is sent."""
    while True:
        with live.passes():
            event = next(events, None)
        if event is None:
            return
        yield event
