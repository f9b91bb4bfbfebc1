"""MLflow: runs, registry, provenance."""
