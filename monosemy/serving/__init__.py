"""A local model behind OpenAI's HTTP interface: steered by recipes, with latents and monitors in its answers."""
