"""Masks and losses in plain torch operations, for tensors in an accelerator's memory."""
