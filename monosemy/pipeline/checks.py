"""Checks settings, memory and disk, and refuses a run before anything is loaded or started."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, from_json, options_of
from monosemy.errors import UserError, unknown
from monosemy.pipeline.planning.fit import require_fit, this_machine
from monosemy.pipeline.planning.line import MANY_SITES, plan_text
from monosemy.pipeline.planning.sizes import bytes_of_run
from monosemy.pipeline.planning.work import Sizes
from monosemy.pipeline.requirements import requirements_of
from monosemy.ranges import check_ranges, number_name
from monosemy.support import files, progress, ranks
from monosemy.support.flags import flag_of
from monosemy.support.numbers import setting_text

if TYPE_CHECKING:
    from monosemy.run import Run


def check_config(config: RunConfig) -> None:
    """Raises UserError for settings that are out of range or cannot work together. Opens no file."""
    from monosemy.models.engine import require_backend

    check_ranges(config, flag_of)
    require_backend(config.model, ranks.n_ranks())
    training = config.training
    if training.warmup_fraction + training.decay_fraction > 1:
        raise UserError(
            f"--training.warmup-fraction {setting_text(training.warmup_fraction)} and --training.decay-fraction "
            f"{setting_text(training.decay_fraction)} must add up to at most 1; e.g. 0.05 and 0.2"
        )
    check_context(config)
    requirements = requirements_of(config)
    named = {"architectures": config.architectures, "l0": config.l0, "seeds": config.seeds}
    # A room may bring all the SAEs of a run; the list of the run's own may then be empty.
    if not config.architectures and any(needs.architectures(config) for needs in requirements):
        named.pop("architectures")
    for name, values in {**named, "activations.sites": config.activations.sites}.items():
        require_distinct(flag_of(name), values)
    if config.activations.storage == "stream" and training.n_passes > 1:
        raise UserError(
            f"training.n_passes {training.n_passes} needs activations kept on disk; set it to 1, or storage to disk or "
            "windows"
        )
    if config.activations.disk_budget and config.activations.storage != "windows":
        raise UserError(
            f"--activations.disk-budget {config.activations.disk_budget} bounds the windows of --activations.storage "
            f"windows, and the storage is {config.activations.storage}; add that, or leave the budget out"
        )
    _check_architectures(config, [name for needs in requirements for name in needs.architectures(config)])
    for needs in requirements:
        needs.check(config)


def check_context(config: RunConfig, *, starts_with_bos: bool = False) -> None:
    """Raises UserError for sequences so short that no position is kept and predicts a token."""
    settings, length = config.activations, config.text.context_length
    n_left_out = max(settings.drop_first_positions, int(starts_with_bos and settings.drop_special_tokens))
    # One position to keep, and one after it to predict.
    if length < n_left_out + 2:
        reasons = "activations.drop_first_positions" + (", BOS" if starts_with_bos else "")
        raise UserError(
            f"text.context_length {length} leaves no position that counts and predicts a token, for the first "
            f"{n_left_out} are left out ({reasons}); set --text.context-length to {n_left_out + 2} or more"
        )


def require_distinct(name: str, values: Iterable[Any]) -> None:
    """Raises UserError, naming the flag, for an empty list and for one that holds a value twice."""
    value_list = list(values)
    if not value_list:
        raise UserError(f"{name} is empty; give at least one")
    for value in value_list:
        if value_list.count(value) > 1:
            raise UserError(f"{name} holds {value} twice; give each once")


def _check_architectures(config: RunConfig, of_rooms: Sequence[str]) -> None:
    """Checks the architectures, their options and the L0s; `of_rooms` are architectures that rooms train as well."""
    import torch

    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import ARCHITECTURES, architecture, build_sae

    named = [key.split(".")[0] for key in config.options]
    for key, name in zip(config.options, named, strict=True):
        if name not in ARCHITECTURES:
            raise unknown("architecture in options", key, [f"{name}.…" for name in ARCHITECTURES])
    trained = [*config.architectures, *of_rooms]
    for name in dict.fromkeys((*trained, *named)):
        options: Any = from_json(architecture(name).Options, options_of(config, name), f"--{name}")
        check_ranges(options, functools.partial(_option_flag, name))
    for l0 in config.l0:
        if l0 > config.d_sae:
            raise UserError(f"--l0 {number_name(l0)} must be at most d_sae {config.d_sae}; lower it or raise --d-sae")
        for name in dict.fromkeys(trained):
            # Building an SAE runs the architecture's own checks; on the meta device it takes no memory.
            with torch.device("meta"):
                build_sae(SaeConfig(name, 1, config.d_sae, float(l0), options=options_of(config, name)))
    if config.evaluation.frozen_random or config.evaluation.pca:
        for l0 in config.l0:
            if l0 != round(l0):
                raise UserError(
                    f"--l0 {number_name(l0)} is no whole number, which evaluation.frozen_random and evaluation.pca "
                    f"need; choose {max(1, round(l0))} or turn both off"
                )


def _option_flag(architecture: str, option: str) -> str:
    return flag_of(f"{architecture}.{option}")


def check_resources(run: Run) -> None:
    """Raises UserError when the run does not fit into the free memory or, before anything is written, on the disk.

    If lowering a single setting is enough, the message gives a value that fits. The plan of a new run over many sites
    is printed.
    """
    from monosemy.models.sources import choose_device, model_size
    from monosemy.support.estimates import DoesNotFit, value_that_fits

    files.require_cache()
    size, d_heads = model_size(run.source("model"), run.config.model.revision)
    device = choose_device(run.config.model.device)
    choose_device(run.config.training.device)
    n_shards, n_processes = run.n_latent_shards, ranks.n_local_ranks()
    given: dict[str, Any] = {
        "n_latent_shards": n_shards,
        "on_cpu": device.type == "cpu",
        "n_processes": n_processes,
    }
    if run.created and len(run.config.activations.sites) >= MANY_SITES:
        sizes = Sizes(run.config, size, widths_of(run.config, size.d_model, d_heads))
        plan = bytes_of_run(run.config, sizes.widths, size, **given)
        progress.say(plan_text(sizes, plan, device=device))
    machine = this_machine(run.config, device, n_processes)

    def require(config: RunConfig) -> None:
        widths = widths_of(config, size.d_model, d_heads)
        plan = bytes_of_run(config, widths, size, **given)
        # A run that is continued has written part of its files already; they would be counted twice.
        if not run.created:
            plan = dataclasses.replace(plan, cache_disk={}, run_disk={})
        require_fit(plan, machine, run.folder, in_slices=n_shards > 0)

    try:
        require(run.config)
    except DoesNotFit as error:
        raise UserError(f"{error}{value_that_fits(run.config, error, require)}") from None


def widths_of(config: RunConfig, d_model: int, d_heads: int) -> Mapping[str, int]:
    """The width of each site, from its name alone, since no model is loaded yet."""
    heads = ("attn_heads", "hook_z")
    return {site: d_heads if site.split(".")[-1] in heads else d_model for site in config.activations.sites}
