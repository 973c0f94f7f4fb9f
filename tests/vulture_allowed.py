"""What vulture finds unused and is not: every name here is used where vulture cannot see it. Read by `make check`.

Remove a name together with what it stands for; add one only with its reason.
"""

# ruff: noqa: B018, F821

# Commands: their functions are named as text, `monosemy.features.commands:run_show`, so that none is imported early.
(
    run_bias,
    run_browse,
    run_catalogue,
    run_circuits,
    run_demo,
    run_evaluate,
    run_explain,
    run_export_circuit_tracer,
    run_export_html,
)
run_export, run_import, run_export_neuronpedia, run_export_parquet, run_push
latent_names, nearest_latents, run_features, run_graph, run_info, run_jacobian, run_plan, run_probe, run_report
run_serve, run_show, run_steer, run_trace, run_try

# What a room registers, likewise as text (rooms.py).
(
    REQUIREMENTS,
    build_pairs,
    build_transcoders,
    planned_pairs,
    planned_transcoders,
    prepare_run_rows,
    read_section,
    row_source,
)
run_of_sae  # of support/subjects.py, likewise
export_graph  # of circuits/graphs/command.py, likewise

# Called by Python or by a library, by name.
__getattr__, __dir__  # of the package: public names are imported at first use
inverse_transform, get_feature_names_out, input_features, preserves_dtype  # of scikit-learn's estimators
firing_rates_, n_features_in_  # of a fitted Dictionary, for its users
saes, _repr_html_  # of runs and other objects, for their users and notebooks
handle_starttag, handle_startendtag, handle_endtag, handle_data  # HTMLParser
redirect_request  # urllib's redirect handler
no_wrap  # of a column of rich's tables
_negative_number_matcher, _metavar_formatter, _get_help_string, default_metavar  # of argparse's help formatter
completions, model_state, static  # FastAPI routes, registered by their decorators
__pydantic_config__, core_schema  # pydantic
showwarning  # of the module `warnings`
pre_tokenizer  # of tokenizers.Tokenizer
base_model, dead_feature_threshold, dummy_inputs  # read by the libraries that research/peers trains with

# Fields of records that are written whole (asdict), read by name from evaluation.json and studies, or by users.
correlation, full_shuffle_cosine, neighbour_cosine
delta_loss, delta_loss_interval, kl_interval, loss_recovered, loss_recovered_interval
dead_fraction_interval, fvu_interval, gamma, gamma_interval, l0_interval
over_1pct_fraction, over_1pct_fraction_interval, over_10pct_fraction, over_10pct_fraction_interval
incompleteness, n_curves, n_members, off_target
loss_change, perplexity_after, perplexity_before

# For users of the library and for tests of it.
WideSae  # an SAE used from its files (docs/many-gpus.md)
head_outputs  # what every head writes: circuits are checked against it
meaning  # of a site kind: the legend of models/sites.py
n_asked  # of a journal: how many questions went to the language model
open_documents  # every document of a text, without packing
steer  # docs/steering.md
to_networkx  # docs/graphs.md

# Hooks of pytest, called by name (research/mutation/run.py).
pytest_runtest_logstart, pytest_runtest_call, pytest_runtest_logreport

# The legend of shapes.py.
Activations, DecoderMatrix, EncoderMatrix, PerInput, PerLatent, PerToken, PreActs
