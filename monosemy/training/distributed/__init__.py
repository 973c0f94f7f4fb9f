"""A dictionary wider than one device: its latents on one axis of a mesh of processes, tokens on the other.

Place on the path: as the rest of `training`, between the stream and the saved SAEs. `ranks` is a process's place in the
mesh and its sums over an axis, `selection` the exact k-th largest of what several ranks hold, `losses` the loss of a
step, `start` and `restart` what training/trainee.py takes from the SAE itself, `trainee` the step as a whole,
`checkpoint` and `saved` the files. All of it stands on torch.distributed.
"""
