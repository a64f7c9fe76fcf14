"""Compiles every kernel of the fused engine for an H100, which takes no GPU, and prints of each
what it needs: name, bytes of its stack (where registers spill) and of shared memory.

Run without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saebook.models import SAE, SAEConfig
from saebook.models.sparse.gpu import largest, launching, sums
from saebook.models.sparse.gpu.searching import Search
from saebook.training import TrainConfig
from saebook.training.updating import FusedUpdate

H100 = GPUTarget("cuda", 90, 32)
INSPECT = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
compiled: set[str] = set()


def compile_for_gpu(
    kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int, warps: int = 4, **constants: Any
) -> None:
    """What `launch` would have compiled, without the start."""
    del grid
    types: dict[str, str] = dict.fromkeys(constants, "constexpr")
    known, aligned = dict(constants), {}
    for i, (name, argument) in enumerate(zip(kernel.arg_names, arguments)):
        if isinstance(argument, Tensor):
            types[name] = TYPES[argument.dtype]
        elif argument == 1:
            types[name], known[name] = "constexpr", 1
        else:
            types[name] = "i32" if argument < 2**31 else "i64"
        if isinstance(argument, Tensor) or argument % 16 == 0:
            aligned[(i,)] = [["tt.divisibility", 16]]
    types = {name: types[name] for name in kernel.arg_names}
    # Steps of one search differ in constants alone.
    key = str((kernel.fn.__name__, types, known, warps))
    if key in compiled:
        return
    compiled.add(key)
    source = ASTSource(fn=kernel, signature=types, constexprs=known, attrs=aligned)
    made = triton.compile(source, target=H100, options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        found = subprocess.run(
            [str(INSPECT), "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    stack = re.search(r"STACK:(\d+)", found.stdout + found.stderr)
    assert stack is not None, found.stdout + found.stderr
    print(kernel.fn.__name__, stack[1], made.metadata.shared)


def update(d: int, d_sae: int) -> None:
    """Take a model's matrices from their gradients to new weights."""
    sae = SAE(SAEConfig(d_in=d, d_sae=1, k=1)).to("meta")
    for matrix in (sae.encoder_rows, sae.W_dec):
        matrix.data = torch.empty(d_sae, d, device="meta")
    for parameter in sae.parameters():
        parameter.grad = torch.empty_like(parameter)
    taken = FusedUpdate(sae, TrainConfig(), [1.0])
    # What is left to it is no kernel of ours.
    taken.optimizer.step = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    taken([0.01])


def main() -> None:
    """A small stack in single precision, and a large SAE in bf16."""
    for module in (launching, largest, sums):
        vars(module)["launch"] = compile_for_gpu
    made = torch.device("meta")
    for members, n, d, d_sae, k, dtype in (
        (64, 1024, 128, 1024, 16, torch.float32),
        (1, 8192, 4096, 65536, 64, torch.bfloat16),
    ):
        update(d, d_sae)
        x = torch.empty(members, n, d, dtype=dtype, device=made)
        rows = torch.empty(members, d_sae, d, dtype=dtype, device=made)
        bias = torch.empty(members, d_sae, device=made)
        for by_row in (True, False):
            wanted = (largest.Wanted(k, d_sae, by_row),)
            found = Search.apply(x, rows, bias, None, wanted, True)
            assert isinstance(found, tuple)
            values, columns, row_of, starts, order, column_starts = found
        sums.sums_of_rows(values, columns, starts, rows)
        sums.sums_of_columns(values, row_of, order, column_starts, x)
        sums.products_with_rows(values, columns, starts, x, rows)
        sums.values_of_columns(values, order, column_starts)


if __name__ == "__main__":
    main()
