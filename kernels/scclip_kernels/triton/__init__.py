"""The operations of SC-CLIP as Triton kernels: same names and results as the torch functions of `scclip_kernels`.

Each is a triple: `_x_kernel` (Triton), `x()` (checks, allocates, launches) and `x_reference()` (plain torch
with the same arguments). Importing this package needs Triton; launching needs an NVIDIA GPU, or
TRITON_INTERPRET=1 set before Triton is imported, which runs the kernels on the CPU, slowly, for tests.

Nothing of size N × N (or queries × pixels) is ever written to device memory: similarities are computed
again for each block of keys. All of them work inside `torch.compile` (`torch.library.triton_op`); none has
a backward.
"""
