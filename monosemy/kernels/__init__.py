"""Sparse kernels: `reference` defines them, `cpu` compiles them, `dispatch` chooses, `ops` differentiates them."""
