"""Jacobian SAEs: pairs of SAEs around an MLP between whose latents the derivatives are sparse."""
