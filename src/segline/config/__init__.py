"""The parameters: sections of params.yaml, their loader and checks."""
