"""Predictors and detectors, trained run by run."""
