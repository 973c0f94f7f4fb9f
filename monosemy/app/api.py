"""The routes of the HTTP API, with checks of requests and errors as JSON. Its types are in schema/.

Place on the path: server → [routes] → lists, pages, compare, live, notes. Handlers are thin: they look up the names in
the address, check the body with a model of schema/, call the one function that answers, and let orjson write the
result (missing numbers become null).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from monosemy import __version__
from monosemy.app import graphs, lists, live, pages, recipes, schema, text_answers
from monosemy.app.answers import answer, body_of, json_body
from monosemy.app.assets import REPORT_POLICY, Asset, load_assets, matches_tag
from monosemy.app.catalogue import Catalogue, Dictionary, NotFoundError
from monosemy.app.compare import Comparisons
from monosemy.app.evidence import WRITERS
from monosemy.app.live import BusyError, LiveModel, ModelError
from monosemy.app.meaning import Meanings
from monosemy.app.openapi import described, described_app
from monosemy.app.schema import (
    DifferenceBody,
    EvidenceBody,
    MeaningBody,
    NoteChange,
    SaeBody,
    SweepValues,
    TextBody,
    parse_body,
)
from monosemy.app.security import TooLargeError
from monosemy.app.steer_examples import steer_examples
from monosemy.app.streams import LINES, stream_events
from monosemy.app.text_scope import MAX_TEXT
from monosemy.errors import UserError
from monosemy.features.store import notes
from monosemy.report.theme import page_styles
from monosemy.steering.request import SteeringRequest

STATUS: dict[type[UserError], int] = {
    UserError: 400,
    NotFoundError: 404,
    BusyError: 409,
    notes.ChangedError: 409,
    TooLargeError: 413,
    ModelError: 503,
}
_LIST_LIMIT = 50
TITLE = "monosemy browse"
LIMIT = "entries at most"
LIST_QUERY = {
    "sort": "a column's name, or latent",
    "order": "asc or desc",
    "q": "words of the label",
    "min_NAME": "the smallest value of a column, as max_NAME the largest",
    "offset": "entries to leave out first",
    "limit": LIMIT,
}
COMPARE_QUERY = {
    "threshold": "the least similarity of a pair",
    "offset": LIST_QUERY["offset"],
    "limit": LIMIT,
}


def make_app(catalogue: Catalogue) -> FastAPI:
    """The application for one run. `security.Guard` must be wrapped around it."""
    app = described_app(TITLE, __version__)
    model = LiveModel(catalogue)
    # Starlette uses the handler of the most specific type, so UserError's status is the default of its subclasses
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _error_handler(status))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.add_exception_handler(Exception, _fault)
    for add_routes in ROUTES:
        add_routes(app, catalogue, model)
    _add_pages(app, catalogue)  # last, since it answers every address that no other route has
    return app


def latent_number(sae: Dictionary, word: str) -> int:
    """The latent that a word of the address names. Raises NotFoundError for other words and latents out of range."""
    # not int(word) alone: Python accepts underscores, signs, spaces and digits of other scripts
    if not (word.isascii() and word.isdigit() and len(word) <= 10):
        raise NotFoundError(f"a latent is a number from 0 to {sae.d_sae - 1}, got {word[:40]!r}")
    return sae.check_latent(int(word))


def _error_handler(status: int) -> Any:
    async def handle(request: Request, error: Exception) -> Response:
        return answer({"error": str(error)}, status)

    return handle


async def _http_error(request: Request, error: Exception) -> Response:
    """Answers requests that the framework itself refuses, such as a method that an address lacks."""
    assert isinstance(error, HTTPException)
    return answer({"error": str(error.detail)}, error.status_code)


async def _nobody(request: Request, error: Exception) -> Response:
    """Ends a request whose client left before sending all of it; the answer reaches nobody."""
    return Response(status_code=400)


async def _fault(request: Request, error: Exception) -> Response:
    """Answers any other exception with its type alone; the details are in the server's terminal."""
    return answer({"error": f"a fault of the server: {type(error).__name__}; its terminal says more"}, 500)


def _add_run(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """Routes for the overview of the run and the state of its model."""

    @app.get("/api/run", **described("The run: its SAEs, its evaluation, what it allows", answers=schema.RunInfo))
    async def run() -> Response:
        saes = [sae.entry() for sae in catalogue.refresh()]
        evaluation, clean_loss = catalogue.evaluation()
        architectures = {entry["architecture"] for entry in [*saes, *evaluation]}
        return answer(
            {
                "name": catalogue.folder.resolve().name,
                "path": str(catalogue.folder.resolve()),
                "unit": "rows" if catalogue.of_rows else "tokens",
                "n_rows": catalogue.provenance.get("rows", {}).get("n_rows"),
                "row_texts": any(
                    sae.database is not None and bool(sae.database.info.get("rows", {}).get("text"))
                    for sae in catalogue.saes()
                ),
                "version": __version__,
                "saes": saes,
                "evaluation": evaluation,
                "styles": {name: asdict(style) for name, style in page_styles(architectures).items()},
                "clean_loss": clean_loss,
                "model": model.status(),
                "build_command": catalogue.build_command,
                "has_report": catalogue.files.report.exists(),
                "has_graphs": catalogue.has_graphs,
                "clear": pages.clear_filter(of_rows=catalogue.of_rows),
                "limits": {
                    "text_characters": MAX_TEXT,
                    "note_characters": notes.MAX_CHARACTERS,
                    "new_tokens": live.MAX_NEW_TOKENS,
                    "edits": live.MAX_EDITS,
                    "sweep_values": live.MAX_SWEEP,
                    "page_rows": lists.PAGE_ROWS,
                },
            }
        )

    @app.get("/api/model", **described("Whether the model is loaded", answers=schema.ModelStatus))
    async def model_state() -> Response:
        return answer(model.status())

    @app.post("/api/model/load", **described("Begins to load the model", answers=schema.ModelStatus))
    async def load_model() -> Response:
        model.start()
        return answer(model.status())


def _add_latents(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """Routes for the features of one SAE: its info, columns, lists, latent pages and searches."""

    @app.get("/api/f/{site}/{name}/info", **described("How an SAE's features were built", answers=schema.FeatureInfo))
    async def info(site: str, name: str) -> Response:
        return answer(catalogue.features(site, name)[1].info)

    @app.get(
        "/api/f/{site}/{name}/columns",
        **described(
            "Whole columns of numbers, a value per latent",
            query={"names": "their names, with commas"},
            answers="float32, [d_sae] each, little-endian",
            media_type="application/octet-stream",
        ),
    )
    async def columns(site: str, name: str, names: str = "") -> Response:
        return Response(lists.column_bytes(catalogue.sae(site, name), names), media_type="application/octet-stream")

    @app.get(
        "/api/f/{site}/{name}/latents",
        **described("Latents, sorted and filtered", query=LIST_QUERY, answers=schema.LatentList),
    )
    async def latents(request: Request, site: str, name: str) -> Response:
        return answer(lists.latent_list(catalogue.sae(site, name), request.query_params))

    @app.get(
        "/api/f/{site}/{name}/latent/{latent}",
        **described("One latent", query={"window": "tokens around a peak"}, answers=schema.LatentPage),
    )
    async def latent(request: Request, site: str, name: str, latent: str) -> Response:
        sae, _ = catalogue.features(site, name)
        window = lists.whole_number(request.query_params, "window", pages.WINDOW)
        return answer(pages.latent_page(sae, latent_number(sae, latent), window))

    @app.get("/api/f/{site}/{name}/highlights", **described("A handful of clear latents", answers=schema.Highlights))
    async def highlights(site: str, name: str) -> Response:
        return answer(await asyncio.to_thread(pages.highlight_cards, catalogue.features(site, name)[0]))

    @app.get(
        "/api/f/{site}/{name}/picture/{context}",
        **described("The picture of a row", answers="PNG or JPEG", media_type="image/*"),
    )
    async def picture(site: str, name: str, context: str) -> Response:
        _, database = catalogue.features(site, name)
        is_number = context.isascii() and context.isdigit() and len(context) <= 10
        data = database.picture(int(context)) if is_number else None
        if data is None:
            raise NotFoundError("no such picture")
        return Response(data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg")

    @app.get(
        "/api/f/{site}/{name}/search",
        **described(
            "Latents whose labels have some words", query={"q": "the words", "limit": LIMIT}, answers=schema.LabelSearch
        ),
    )
    async def search(request: Request, site: str, name: str, q: str = "") -> Response:
        sae, _ = catalogue.features(site, name)
        return answer(lists.search_labels(sae, q, _limit(request)))

    @app.get(
        "/api/f/{site}/{name}/token",
        **described(
            "Latents that fire on a token", query={"text": "the token", "limit": LIMIT}, answers=schema.TokenSearch
        ),
    )
    async def token(request: Request, site: str, name: str, text: str = "") -> Response:
        sae, _ = catalogue.features(site, name)
        search = lists.search_rows if catalogue.of_rows else lists.search_token
        return answer(search(sae, text, _limit(request)))


def _add_meaning(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """The route that searches latents by meaning, with the model's embedding."""
    meanings = Meanings(model)

    @app.post(
        "/api/f/{site}/{name}/meaning",
        **described("Latents near some words in the model's embedding", body=MeaningBody, answers=schema.MeaningSearch),
    )
    async def meaning(request: Request, site: str, name: str) -> Response:
        (sae, database), body = catalogue.features(site, name), await body_of(MeaningBody, request)
        limit = min(max(body.limit, 1), lists.PAGE_ROWS)
        return answer(await asyncio.to_thread(meanings.search, sae, database, text=body.q, limit=limit))


def _limit(request: Request) -> int:
    return max(1, lists.whole_number(request.query_params, "limit", _LIST_LIMIT, lists.PAGE_ROWS))


def _add_text(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """The routes that encode the user's own text: one, two compared, and the evidence as a file."""

    @app.post(
        "/api/f/{site}/{name}/text",
        **described("Which latents fire in a text", body=TextBody, answers=schema.TextResult),
    )
    async def text(request: Request, site: str, name: str) -> Response:
        sae, body = catalogue.sae(site, name), await body_of(TextBody, request)
        return answer(await asyncio.to_thread(text_answers.text_result, model, sae, body))

    @app.post(
        "/api/f/{site}/{name}/text-difference",
        **described("In which latents two texts differ", body=DifferenceBody, answers=schema.TextDifference),
    )
    async def difference(request: Request, site: str, name: str) -> Response:
        sae, body = catalogue.sae(site, name), await body_of(DifferenceBody, request)
        return answer(await asyncio.to_thread(text_answers.text_difference, model, sae, body))

    @app.post(
        "/api/f/{site}/{name}/evidence",
        **described(
            "Every firing in a text, or what differs between two, as a file",
            body=EvidenceBody,
            answers="CSV, JSON or HTML",
            media_type="text/*",
        ),
    )
    async def evidence(request: Request, site: str, name: str) -> Response:
        sae, body = catalogue.sae(site, name), await body_of(EvidenceBody, request)
        content = await asyncio.to_thread(text_answers.evidence_file, model, sae, body)
        return Response(content, media_type=WRITERS[body.format][1])


def _add_compare(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """The route that compares two SAEs."""
    comparisons = Comparisons()

    @app.get(
        "/api/compare",
        **described("Two SAEs compared, latent by latent", query=COMPARE_QUERY, answers=schema.Comparison),
    )
    async def compare(request: Request, *, a: str = "", b: str = "", by: str = "", view: str = "matched") -> Response:
        query, pair = request.query_params, (catalogue.sae_of(a), catalogue.sae_of(b))
        threshold = lists.number("threshold", query["threshold"]) if query.get("threshold") else None
        offset = lists.whole_number(query, "offset", 0)
        return answer(
            await comparisons.page(*pair, by, view, threshold=threshold, offset=offset, limit=_limit(request))
        )


def _add_steering(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """Routes that stream a steered generation, or a sweep of strengths."""

    def sae_of(body: SaeBody) -> Dictionary:
        return catalogue.sae(body.site, body.name)

    @app.post(
        "/api/steer",
        **described(
            "A steered answer beside its controls, an event a line",
            body=(SaeBody, SteeringRequest),
            answers=schema.SteerEvent,
            media_type=LINES.media_type,
        ),
    )
    async def steer(request: Request) -> Response:
        body = await json_body(request)
        sae = sae_of(parse_body(SaeBody, body))
        steering = live.steering_request(catalogue, sae, body)
        return await stream_events(model, lambda: live.steer_events(model, sae, steering))

    @app.post(
        "/api/f/{site}/{name}/steer-examples",
        **described("Latents that make the model say their words", answers=schema.SteerExamples),
    )
    async def examples(site: str, name: str) -> Response:
        sae, database = catalogue.features(site, name)
        return answer(await asyncio.to_thread(steer_examples, model, sae, database))

    @app.post(
        "/api/sweep",
        **described(
            "A steered answer at several strengths, an event a line",
            body=(SweepValues, SteeringRequest),
            answers=schema.SweepEvent,
            media_type=LINES.media_type,
        ),
    )
    async def sweep(request: Request) -> Response:
        body = await json_body(request)
        sweep_of = parse_body(SweepValues, body)
        sae = sae_of(sweep_of)
        steering = live.steering_request(catalogue, sae, body)
        return await stream_events(model, lambda: live.sweep_events(model, sae, steering, sweep_of.values))


def _add_notes(app: FastAPI, catalogue: Catalogue, model: LiveModel) -> None:
    """Routes that read and change notes and bookmarks."""

    def answer_notes(all_notes: list[notes.Note]) -> Response:
        return answer({"notes": [vars(note) | {"label": label(note)} for note in all_notes]})

    def label(note: notes.Note) -> str:
        try:
            sae = catalogue.sae(note.site, note.name)
            return sae.labels([sae.check_latent(note.latent)])[0]
        except NotFoundError:  # a note may outlive its SAE
            return ""

    @app.get("/api/notes", **described("Bookmarks and notes", answers=schema.Notes))
    async def read_notes() -> Response:
        return answer_notes(notes.read_notes(catalogue.folder))

    @app.put("/api/notes", **described("Changes a bookmark or a note", body=NoteChange, answers=schema.Notes))
    async def put_note(request: Request) -> Response:
        body = await body_of(NoteChange, request)
        sae = catalogue.sae(body.site, body.name)
        latent = sae.check_latent(body.latent)
        # fields that the request leaves out must not reach `put_note` as their defaults, which would erase the note
        change = body.model_dump(include={"bookmark", "text", "before"}, exclude_unset=True)
        return answer_notes(notes.put_note(catalogue.folder, sae.site, sae.name, latent, **change))


def _add_pages(app: FastAPI, catalogue: Catalogue) -> None:
    """Routes for the report, the built files, and the page itself at every other address."""
    assets = load_assets()

    def serve(request: Request, asset: Asset) -> Response:
        # "no-cache" lets the browser keep the file but makes it ask each time whether the tag is still current
        headers = {"Cache-Control": "no-cache", "ETag": asset.tag}
        if matches_tag(request.headers.get("if-none-match", ""), asset.tag):
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    @app.get("/report", **described("The run's report", answers="HTML", media_type="text/html"))
    async def report() -> Response:
        path = catalogue.files.report
        if not path.exists():
            raise NotFoundError(f"this run has no report yet; write it: monosemy report {catalogue.folder}")
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return Response(path.read_bytes(), media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        if name not in assets:
            raise NotFoundError("no such file")
        return serve(request, assets[name])

    @app.get("/{place:path}", include_in_schema=False)
    async def page(request: Request, place: str) -> Response:
        # every other address is a place within the page, whose script reads it
        if place.startswith("api/"):
            raise NotFoundError("no such address in the API")
        return serve(request, assets["index.html"])


ROUTES: list[Callable[[FastAPI, Catalogue, LiveModel], None]] = [
    _add_run,
    _add_latents,
    _add_meaning,
    _add_text,
    _add_compare,
    _add_steering,
    recipes.add_routes,
    _add_notes,
    graphs.add_routes,
]
"""Functions that add routes to the application. The routes of a new page go into their own file, with a line here."""
