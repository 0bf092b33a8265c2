"""The architecture: model files, the table of parameters, memory laid out by it, memory needed."""
