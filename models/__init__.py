"""One TOML file per model; adding a model is adding a file."""
