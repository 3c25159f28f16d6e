"""Compare and evaluate artefacts through one protocol; torch is reached only when a checkpoint is given."""
