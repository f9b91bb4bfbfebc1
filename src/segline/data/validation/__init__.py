"""The checks of raw data: rules, expectations, drift."""
