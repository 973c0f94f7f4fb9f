"""monosemy: sparse autoencoders of language models, from text to a compared dictionary."""

__version__ = "0.1.0"
