"""The pass over few entries as kernels on a GPU, written in Triton.

Import from its files, where it is used: Triton comes with torch's builds for CUDA, and elsewhere
need not be there.
"""
