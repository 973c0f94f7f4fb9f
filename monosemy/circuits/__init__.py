"""Which heads and edges of a model carry a behaviour: tasks, ground truths, methods and scores."""
