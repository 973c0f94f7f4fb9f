"""What every latent responds to: the feature database, labels, explanations and exports."""
