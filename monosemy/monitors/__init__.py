"""What flags a text: thresholds on latents, and probes trained on labelled texts."""
