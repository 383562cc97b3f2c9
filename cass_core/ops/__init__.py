"""The GPU path: Triton kernels, and the torch operators over them.

Imported by the first call that needs torch. The kernels themselves need Triton, which CUDA
builds of torch bring, and are imported when the first CUDA tensor is seen.
"""
