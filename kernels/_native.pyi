from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

ternary_gemm: Any  # ternary_gemm/bindings.cpp

def cast(out: Buffer, out_dtype: str, a: Buffer, a_dtype: str, /) -> int: ...
def difference(
    out: Buffer, out_dtype: str, a: Buffer, a_dtype: str, b: Buffer, b_dtype: str, /
) -> int: ...
def axpy(
    out: Buffer, out_dtype: str, a: Buffer, a_dtype: str, scale: float, x: Buffer, x_dtype: str, /
) -> int: ...
def graft(
    out: Buffer,
    out_dtype: str,
    instruct: Buffer,
    instruct_dtype: str,
    scale: float,
    tuned: Buffer,
    tuned_dtype: str,
    base: Buffer,
    base_dtype: str,
    /,
) -> int: ...
def lerp(
    out: Buffer,
    out_dtype: str,
    weight_a: float,
    a: Buffer,
    a_dtype: str,
    weight_b: float,
    b: Buffer,
    b_dtype: str,
    /,
) -> int: ...
def products(a: Buffer, a_dtype: str, b: Buffer, b_dtype: str, /) -> list[float]: ...
def xor(out: Buffer, a: Buffer, b: Buffer, /) -> None: ...
def count_nonfinite(a: Buffer, dtype: str, /) -> tuple[int, int]: ...
def isas() -> list[str]: ...
def use_isa(name: str, /) -> None: ...

class draws:  # a submodule  # noqa: N801
    @staticmethod
    def draw_bits(out: NDArray[np.uint32], key: int, first_row: int, /) -> None: ...
    @staticmethod
    def draw_normals(out: NDArray[np.float32], key: int, first_row: int, /) -> None: ...
    @staticmethod
    def isas() -> list[str]: ...
    @staticmethod
    def use_isa(name: str, /) -> None: ...

class low_rank:  # a submodule  # noqa: N801
    @staticmethod
    def product(
        out: NDArray[np.float32],
        left: NDArray[np.float32],
        right: NDArray[np.float32],
        scale: float,
        /,
    ) -> None: ...
    @staticmethod
    def isas() -> list[str]: ...
    @staticmethod
    def use_isa(name: str, /) -> None: ...

class sliced_gram:  # a submodule  # noqa: N801
    @staticmethod
    def available() -> bool: ...
    @staticmethod
    def add(
        gram: NDArray[np.float64], block: NDArray[np.float32], by_rows: bool, threads: int, /
    ) -> float: ...

class task_vectors:  # a submodule  # noqa: N801
    @staticmethod
    def count(bins: NDArray[np.int64], vector: NDArray[np.float32], upper: int, /) -> None: ...
    @staticmethod
    def trim(vector: NDArray[np.float32], threshold: int, equal: int, /) -> int: ...
    @staticmethod
    def combine(
        out: NDArray[np.float32],
        vectors: NDArray[np.float32],
        weights: NDArray[np.float32],
        elect: bool,
        normalize: bool,
        /,
    ) -> int: ...
    @staticmethod
    def isas() -> list[str]: ...
    @staticmethod
    def use_isa(name: str, /) -> None: ...
