"""What can be refused before anything is loaded or started: settings, memory, disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from monosemy.config import RunConfig, positive
from monosemy.errors import UserError, unknown

if TYPE_CHECKING:
    from monosemy.run import Run


def check_config(config: RunConfig) -> None:
    """Refuses settings that cannot work together. Raises UserError; opens nothing."""
    text, training, evaluation = config.text, config.training, config.evaluation
    positive(d_sae=config.d_sae, batch_tokens=training.batch_tokens, n_passes=training.n_passes)
    positive(log_tokens=training.log_tokens, checkpoint_tokens=training.checkpoint_tokens)
    positive(n_tokens=text.n_tokens, n_validation_tokens=text.n_validation_tokens, context_length=text.context_length)
    positive(n_loss_tokens=evaluation.n_loss_tokens, n_bootstrap=evaluation.n_bootstrap)
    positive(batch_sequences=config.activations.batch_sequences)
    if training.outlier_error != 0 and not training.outlier_error > 1:
        raise UserError(
            f"training.outlier_error must be above 1 (a multiple of the median error) or 0 to keep all rows, "
            f"got {training.outlier_error:g}"
        )
    check_context(config)
    if text.seed < 0:
        raise UserError(f"text.seed must be 0 or more, got {text.seed}")
    named = {"architectures": config.architectures, "l0": config.l0, "seeds": config.seeds}
    if config.jacobian.lambdas and not config.architectures:
        named.pop("architectures")
    for name, values in {**named, "activations.sites": config.activations.sites}.items():
        _distinct(name, values)
    if config.activations.storage == "stream" and training.n_passes > 1:
        raise UserError(
            f"training.n_passes {training.n_passes} needs activations kept on disk; set it to 1, or storage to disk"
        )
    _check_architectures(config)
    if config.jacobian.lambdas:
        _check_jacobian(config)


def check_context(config: RunConfig, *, starts_with_bos: bool = False) -> None:
    """Refuses sequences of which no position counts and predicts a token. Raises UserError."""
    settings, length = config.activations, config.text.context_length
    n_left_out = max(settings.drop_first_positions, int(starts_with_bos and settings.drop_special_tokens))
    if length < n_left_out + 2:
        reasons = "activations.drop_first_positions" + (", BOS" if starts_with_bos else "")
        raise UserError(
            f"text.context_length {length} leaves no position that counts and predicts a token, for the first "
            f"{n_left_out} are left out ({reasons}); set --text.context-length to {n_left_out + 2} or more"
        )


def _check_jacobian(config: RunConfig) -> None:
    """Settings of pairs; that the MLP is one the formula covers shows when the model is there."""
    from monosemy.jacobian.pair import pair_sites
    from monosemy.models.sites import parse_site

    settings = config.jacobian
    _distinct("jacobian.lambdas", settings.lambdas)
    for value in settings.lambdas:
        if not 0 <= value < float("inf"):
            raise UserError(f"jacobian.lambdas must be 0 or more, got {value:g}; 0 trains the pair without penalty")
    positive(**{"jacobian.max_memory_mb": settings.max_memory_mb})
    if not 0 < settings.token_share <= 1:
        raise UserError(
            f"jacobian.token_share must be above 0 and at most 1, got {settings.token_share:g}; 1 takes every token"
        )
    if not 0 <= settings.warmup_fraction <= 1:
        raise UserError(f"jacobian.warmup_fraction must lie between 0 and 1, got {settings.warmup_fraction:g}")
    sites = [str(parse_site(name, 1_000_000, post_norms=False)) for name in config.activations.sites]
    pair_sites(sites, settings.layer)


def _distinct(name: str, values: Iterable[Any]) -> None:
    listed = list(values)
    if not listed:
        raise UserError(f"{name} is empty; give at least one")
    for value in listed:
        if listed.count(value) > 1:
            raise UserError(f"{name} holds {value} twice; give each once")


def _check_architectures(config: RunConfig) -> None:
    from monosemy.saes.base import SaeConfig
    from monosemy.saes.registry import ARCHITECTURES, build_sae

    for key in config.options:
        if key.split(".")[0] not in ARCHITECTURES:
            raise unknown("architecture in options", key, [f"{name}.…" for name in ARCHITECTURES])
    paired = (config.jacobian.architecture,) if config.jacobian.lambdas else ()
    for architecture in dict.fromkeys((*config.architectures, *paired)):
        if architecture not in ARCHITECTURES:
            raise unknown("architecture", architecture, ARCHITECTURES)
        options = options_of(config, architecture)
        for l0 in config.l0:
            if not 0 < l0 <= config.d_sae:
                raise UserError(f"l0 {l0:g} must be above 0 and at most d_sae {config.d_sae}; lower it or raise d_sae")
            build_sae(SaeConfig(architecture, 1, config.d_sae, float(l0), options=options))
    if config.evaluation.frozen_random or config.evaluation.pca:
        for l0 in config.l0:
            if l0 != round(l0):
                raise UserError(
                    f"l0 {l0:g} is no whole number, which evaluation.frozen_random and evaluation.pca need; "
                    f"choose {max(1, round(l0))} or turn both off"
                )


def options_of(config: RunConfig, architecture: str) -> dict[str, Any]:
    """The overrides meant for one architecture, without its prefix."""
    prefix = architecture + "."
    return {key.removeprefix(prefix): value for key, value in config.options.items() if key.startswith(prefix)}


def check_resources(run: Run) -> None:
    """Memory of the plan against what is free, and disk too where nothing has been written yet. Raises UserError."""
    from monosemy.estimates import Plan, estimate, require_resources
    from monosemy.models.sources import choose_device, model_size

    config = run.config
    size, d_heads = model_size(config.model.source, config.model.revision)
    plan = estimate(config, _widths(config, size.d_model, d_heads), size)
    if not run.created:  # what it writes is partly there already, and would be counted twice
        plan = Plan(plan.memory, {}, {})
    device = choose_device(config.model.device)
    if device.type == "cuda":
        import torch

        on_device = {name: n for name, n in plan.memory.items() if name not in ("libraries", "shuffle buffer")}
        free = torch.cuda.mem_get_info(device)[0]
        require_resources(Plan(on_device, {}, {}), run.folder, memory_available=free, kind="GPU memory")
        plan = Plan({k: n for k, n in plan.memory.items() if k not in on_device}, plan.cache_disk, plan.run_disk)
    require_resources(plan, run.folder)


def _widths(config: RunConfig, d_model: int, d_heads: int) -> Mapping[str, int]:
    heads = ("attn_heads", "hook_z")
    return {site: d_heads if site.split(".")[-1] in heads else d_model for site in config.activations.sites}
