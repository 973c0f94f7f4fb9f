"""SAEs of activations that people bring along: embeddings, pixels, proteins, activations of their own model.

Place on the data's path: a table of rows (`activations.tables`) takes the place of model, text and harvest; training,
calibration, evaluation and report are those of every run. `dictionary.Dictionary` and `fitting.fit` are for Python,
`monosemy train --activations FILE` is for the command line.
"""
