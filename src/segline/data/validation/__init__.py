"""Validation of raw data: rules, expectations, drift, contact sheet."""
