"""A first look: one SAE and its features from the start of the text, while everything else is still to be done.

Place on the path: model and tokens → **first look** → the whole run. The SAE is the one that commands choose where none
is named (`saes.listing.default_sae`): JumpReLU at the middle L0. It is trained as in the whole run, on the first shards
of the run's own store of activations, and saved in the place of its full-length self, which replaces it; so are its
features. `config.json` marks it (`record.first_look`). The whole run reads nothing of it and harvests the same shards,
so its weights are, to the last bit, those of a run without a first look.

Kills: the activations are kept shard by shard, the training by checkpoints, the features by the encoding pass; a
finished first look is a stage of the run and is not repeated.
Limits: activations must be kept on disk, and the store must have more shards than the first look reads.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable

from monosemy.config import RunConfig, identity, taking_part
from monosemy.errors import UserError
from monosemy.pipeline.features import build_for_run
from monosemy.pipeline.prepare import Opened, Prepared, open_sources, prepare, source_facts, start_of
from monosemy.pipeline.trainees import NewSae, build_trainee, initial_rows, sae_name
from monosemy.pipeline.training import finish_and_save, train_all, trained
from monosemy.run import Run
from monosemy.support.numbers import count_text

N_TOKENS = 80_000
"""About how many tokens the first look reads; whole shards of the store."""
LEAST_TOKENS = 150_000
"""A run on less text has no first look, which would be nearly all of it."""
STAGE = "first look"


def has_first_look(config: RunConfig) -> bool:
    """Whether runs of this configuration have a first look: they train SAEs on enough text, from disk."""
    return not _why_none(config)


def require_first_look(config: RunConfig) -> None:
    """Raises UserError, with the reason, for a configuration whose runs have no first look."""
    if reason := _why_none(config):
        raise UserError(reason)


def _why_none(config: RunConfig) -> str:
    if any(room.activations for room in taking_part(config)):
        return "rows have no first look, which is one at the start of a text; use monosemy train"
    if not config.architectures:
        return "a first look trains an SAE, and no architecture is named; name one, e.g. --architectures topk"
    if config.activations.storage != "disk":
        return "a first look keeps its activations; leave out --activations.storage, or use monosemy train"
    if config.text.n_tokens < LEAST_TOKENS:
        n_tokens = count_text(config.text.n_tokens)
        return (
            f"a first look needs text of {count_text(LEAST_TOKENS)} tokens or more, got {n_tokens}; give more by "
            "--tokens, or use monosemy train"
        )
    return ""


def wants_first_look(run: Run) -> bool:
    """Whether a first look comes before the rest of this run, which has not had it."""
    done = trained(run) or run.stage_done(STAGE, identity(run.config))
    return has_first_look(run.config) and not done


def after_first_look(run: Run, on_first_look: Callable[[], object]) -> Prepared | None:
    """Takes the first look, unless the run has had it or wants none, and prepares the whole run; None if not needed.

    `on_first_look` is called in between, if there is something to look at.
    """
    if trained(run):
        return None
    opened = open_sources(run) if wants_first_look(run) else None
    if opened is not None:
        take_first_look(run, opened)
    if any(run.files.saes()):
        on_first_look()
    return None if opened is None else prepare(run, opened)


def take_first_look(run: Run, opened: Opened) -> None:
    """Trains the first SAE and builds its features. Raises UserError as `prepare` and `build_features` do."""
    started = time.perf_counter()
    # The pages read these before the whole run's activations are there.
    run.add_provenance(**source_facts(opened))
    prepared = start_of(run, opened, N_TOKENS)
    new = first_sae(run.config, opened.sites[0])
    key = new.site, sae_name(new)
    trainee = build_trainee(prepared, new, initial_rows(prepared)[new.site])
    work = run.files.first_look
    trainer = train_all(run, prepared, {key: trainee}, work=work)
    finish_and_save(run, prepared, {key: trainee}, {key: {"first_look": True}}, n_tokens=trainer.n_tokens)
    if not trainee.stopped:
        build_for_run(run, ["/".join(key)], prepared=prepared)
    run.mark_done(STAGE, identity(run.config), time.perf_counter() - started)
    shutil.rmtree(work.folder, ignore_errors=True)


def first_sae(config: RunConfig, site: str) -> NewSae:
    """The SAE of a run that `saes.listing.default_sae` would choose at this site once all are trained."""
    names = ("jumprelu",) if "jumprelu" in config.architectures else config.architectures
    saes = [NewSae(site, name, float(l0), seed) for name, l0, seed in itertools.product(names, config.l0, config.seeds)]
    ordered = sorted(saes, key=lambda sae: (sae.l0, sae_name(sae)))
    return ordered[(len(ordered) - 1) // 2]
