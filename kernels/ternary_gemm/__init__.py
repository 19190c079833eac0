"""Products with trit planes and with 8-bit rows, without multiplying by weights; see README.md.

Importing this imports torch; the C++ lies in the native module, the GPU's kernels in triton.py.
"""

from weightsmith.kernels.ternary_gemm.native import native
from weightsmith.kernels.ternary_gemm.op import ACTIVATIONS, int8_linear, ternary_linear
from weightsmith.kernels.ternary_gemm.packed import Packed, PackedRows

__all__ = ["ACTIVATIONS", "Packed", "PackedRows", "int8_linear", "native", "ternary_linear"]
