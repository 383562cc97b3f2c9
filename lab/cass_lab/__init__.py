"""Ablation and tuning of CASS targets and losses on a user's own data: `cass ablate`, `cass tune`.

A small patch-importance predictor is trained once for each variant and seed, and measured by what a
token-pruning detector lives on: which objects keep their patches when most patches are dropped.
Needs the extra ``lab``.
"""
