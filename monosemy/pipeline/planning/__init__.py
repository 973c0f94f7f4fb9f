"""What a run will need and how long it will take, before anything of it is done.

`sizes` counts bytes, `work` what every stage does, `costs` what a unit of work takes (as measured here, or assumed of
other hardware), `plan` puts them together, and `text` prints it.
"""
