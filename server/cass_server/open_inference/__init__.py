"""The Open Inference Protocol, version 2: its requests as checked inputs, and their answers."""
