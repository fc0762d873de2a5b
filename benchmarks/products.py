"""Operations of the products of matrices in a program of XLA, counted from shapes.

On a CPU and within fusions (Triton, cuDNN, YNNPACK) a product is an instruction, `dot` or `convolution`; on a GPU
most are custom calls, whose dimensions stand in `backend_config`. An addition and a multiplication are two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from benchmarks.hlo import Computation, Instruction

CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)[}\]]')
KERNEL = re.compile(r"dim_labels=\w+_(\w+)->")
SCORES = re.compile(r'"intermediate_tensor_shape":\{[^}]*?"dimensions":\[([^\]]*)\]')
TRANSPOSED = re.compile(r'"transpose_a":true')
Count = Callable[[Instruction, Sequence[Instruction]], float]


def _product(product: Instruction, operands: Sequence[Instruction]) -> float:
    """2 x numbers of the result x length of what is summed over."""
    axes = CONTRACTED.search(product.rest)
    summed = [operands[0].shape[axis] for axis in _numbers(axes[1] if axes else "")]
    return 2.0 * math.prod(product.shape) * math.prod(summed)


def _onednn_product(product: Instruction, operands: Sequence[Instruction]) -> float:
    """The same of [... m k] or, transposed, [... k m]."""
    left = operands[0].shape
    return 2.0 * math.prod(product.shape) * left[-2 if TRANSPOSED.search(product.rest) else -1]


def _convolution(product: Instruction, operands: Sequence[Instruction]) -> float:
    """2 x numbers of the result x weights of one of its channels."""
    kernel, labels = operands[1].shape, KERNEL.search(product.rest)
    outputs = kernel[labels[1].index("o")] if labels else 1
    return 2.0 * math.prod(product.shape) * math.prod(kernel) / outputs


def _attention(products: int) -> Count:
    """So many products of scores [b h q j] with z channels of a head; masked scores are counted."""

    def count(product: Instruction, operands: Sequence[Instruction]) -> float:
        scores = SCORES.search(product.rest)
        return 2.0 * products * math.prod(_numbers(scores[1] if scores else "")) * operands[0].shape[-1]

    return count


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


# In the backward pass scores are recomputed, and each of the two products has two gradients.
ATTENTIONS = {"": _attention(2), "Backward": _attention(5)}
VARIANTS = ("Softmax", "ScaleBiasSoftmax", "SoftmaxDropout", "ScaleBiasSoftmaxDropout")
COUNTS: dict[str, Count] = {
    "dot": _product,
    "__cublas$gemm": _product,
    "__cublas$lt$matmul": _product,
    "__cublas$lt$matmul$f8": _product,
    "__onednn$matmul": _onednn_product,
    "convolution": _convolution,
    "__cudnn$convForward": _convolution,
    "__cudnn$convForwardGraph": _convolution,
    "__cudnn$convBiasActivationForward": _convolution,
    **{f"__cudnn$fmha{name}{way}": count for name in VARIANTS for way, count in ATTENTIONS.items()},
}


def flops(instruction: Instruction, computation: Computation) -> float:
    """Of an instruction by itself, in the computation that it stands in; what is in no table has none."""
    count = COUNTS.get(instruction.target)
    return count(instruction, [computation[name] for name in instruction.operands]) if count else 0.0
