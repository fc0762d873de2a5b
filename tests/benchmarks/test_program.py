"""What is read from compiled programs, against what is known of small ones; those of GPUs are written by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops, inputs, program
from benchmarks.accelerator.sizes import SIZES
from pini_jax.clip import prompts


def read(function, *arguments):
    return program.read(jax.jit(function).lower(*arguments).compile().as_text())


def test_a_product_in_a_loop_counts_as_often_as_the_loop_turns():
    x, weights = jnp.ones((7, 16)), jnp.ones((5, 16, 16))
    found = read(lambda x, weights: jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0], x, weights)
    assert found.flops == 5 * 2 * 7 * 16 * 16 and not found.unknown


def test_a_loop_whose_turns_nobody_knows_is_told():
    found = read(lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x), jnp.ones((3, 3)))
    assert found.flops == 2 * 3**3 and found.unknown == {"while": 1}


def test_what_is_moved_is_named_with_its_size():
    found = read(lambda x: x.T.astype(jnp.bfloat16), jnp.ones((8, 4)))
    assert sum(found.moves.values()) == 2 * 8 * 4
    assert all(move.endswith("bf16[4,8]") for move in found.moves)
    assert found.num_bytes == 8 * 4 * (4 + 2)


# ------------------------------------------------------------------------------------------------ written by hand


def call(target, result, operands, more):
    """An entry that calls it with these arrays."""
    lines = [f"  %x.{i} = {shape}{{}} parameter({i})" for i, shape in enumerate(operands)]
    given = ", ".join(f"%x.{i}" for i in range(len(operands)))
    last = f'  ROOT %called = {result} custom-call({given}), custom_call_target="{target}", {more}'
    return "\n".join(["HloModule jit_call", "", "ENTRY %main (x: f32[]) -> f32[] {", *lines, last, "}"])


def gemm(left, batch="", more=""):
    numbers = (
        f'"lhs_contracting_dimensions":["{left}"],"rhs_contracting_dimensions":["0"],{batch}{more}"epilogue":"X"'
    )
    return f'backend_config={{"gemm_backend_config":{{"alpha_real":1,"dot_dimension_numbers":{{{numbers}}}}}}}'


FMHA = (
    'backend_config={"cudnn_fmha_backend_config":{"algorithm":{"algo_id":"0"},"intermediate_tensor_shape":'
    '{"element_type":"BF16","dimensions":["2","3","5","7"],"tuple_shapes":[]},"mask_type":"CAUSAL"}}'
)
QUERY, KEY = "bf16[2,5,3,8]", "bf16[2,7,3,8]"
CALLS = {
    "a product, and its workspace": (
        ("__cublas$gemm", "(f32[7,5]{1,0}, s8[4194304]{0})", ["f32[7,16]", "f32[16,5]"], gemm(1)),
        2 * 7 * 16 * 5,
    ),
    "the left one transposed": (
        ("__cublas$lt$matmul", "bf16[7,5]{1,0}", ["bf16[16,7]", "bf16[16,5]"], gemm(0)),
        2 * 7 * 16 * 5,
    ),
    "several": (
        (
            *("__cublas$gemm", "f32[3,7,5]{2,1,0:T(8,128)}", ["f32[3,7,16]", "f32[3,16,5]"]),
            gemm(2, '"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"],'),
        ),
        3 * 2 * 7 * 16 * 5,
    ),
    "oneDNN": (
        (
            "__onednn$matmul",
            "f32[7,5]{1,0}",
            ["f32[7,16]", "f32[16,5]"],
            'backend_config={"onednn_matmul_config":{}}',
        ),
        2 * 7 * 16 * 5,
    ),
    "oneDNN, transposed": (
        (
            *("__onednn$matmul", "f32[7,5]{1,0}", ["f32[16,7]", "f32[16,5]"]),
            'backend_config={"onednn_matmul_config":{"transpose_a":true}}',
        ),
        2 * 7 * 16 * 5,
    ),
    "patches": (
        (
            *("__cudnn$convForward", "(f32[2,32,4,4]{3,2,1,0}, u8[0]{0})", ["f32[2,3,12,12]", "f32[32,3,3,3]"]),
            "window={size=3x3 stride=3x3}, dim_labels=bf01_oi01->bf01",
        ),
        2 * (2 * 4 * 4) * 32 * (3 * 3 * 3),
    ),
    "attention": (("__cudnn$fmhaSoftmax", f"({QUERY}{{3,2,1,0}}, u8[0]{{0}})", [QUERY, KEY, KEY], FMHA), 2 * 3360),
    "attention, back": (
        (
            *("__cudnn$fmhaSoftmaxBackward", f"({QUERY}{{3,2,1,0}}, {KEY}{{3,2,1,0}})"),
            *([QUERY, KEY, KEY, "f32[2,3,5]", QUERY], FMHA),
        ),
        5 * 3360,
    ),
}  # 3360: 2 x scores of [2, 3, 5, 7] with 8 channels


@pytest.mark.parametrize("written, expected", CALLS.values(), ids=CALLS)
def test_products_that_are_calls_are_counted_from_their_shapes(written, expected):
    found = program.read(call(*written))
    assert found.flops == expected and not found.unknown


def test_a_call_moves_its_arrays_and_not_the_room_that_it_works_in():
    written, _ = CALLS["a product, and its workspace"]
    assert program.read(call(*written)).num_bytes == 4 * (7 * 16 + 16 * 5 + 7 * 5)


def test_a_call_that_is_in_no_table_is_told():
    found = program.read(call("__cublas$new", "f32[7,5]{1,0}", ["f32[7,16]", "f32[16,5]"], gemm(1)))
    assert found.flops == 0 and found.unknown == {"__cublas$new": 1}


FUSED = """
HloModule jit_step

%gemm_fusion_dot_computation (p0: bf16[7,16], p1: bf16[16,5]) -> bf16[7,5] {
  %p0 = bf16[7,16]{1,0} parameter(0)
  %p1 = bf16[16,5]{1,0} parameter(1)
  ROOT %dot.1 = bf16[7,5]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (arguments: (s32[], bf16[7,16], bf16[16,5])) -> (s32[], bf16[7,16], bf16[16,5]) {
  %arguments = (s32[], bf16[7,16]{1,0}, bf16[16,5]{1,0}) parameter(0)
  %x = bf16[7,16]{1,0} get-tuple-element(%arguments), index=1
  %w = bf16[16,5]{1,0} get-tuple-element(%arguments), index=2
  %gemm_fusion_dot = bf16[7,5]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm_fusion_dot_computation, \
backend_config={"fusion_backend_config":{"kind":"__triton_gemm","triton_gemm_config":{"block_m":"64"}}}
  %i = s32[] get-tuple-element(%arguments), index=0
  ROOT %tuple.1 = (s32[], bf16[7,16]{1,0}, bf16[16,5]{1,0}) tuple(%i, %x, %w)
}

ENTRY %main (x: bf16[7,16]) -> bf16[7,16] {
  %start = (s32[], bf16[7,16]{1,0}, bf16[16,5]{1,0}) parameter(0)
  %loop = (s32[], bf16[7,16]{1,0}, bf16[16,5]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
  ROOT %end = bf16[7,16]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_fused_product_counts_with_what_goes_in_and_out():
    found = program.read(FUSED)
    assert found.flops == 12 * 2 * 7 * 16 * 5 and not found.unknown
    assert found.num_bytes == 12 * 2 * (7 * 16 + 16 * 5 + 7 * 5)


SLICED = """
HloModule jit_layer

%fused (all: f32[12,8,8], kept: f32[12,3,8], x: f32[3,8], i: s32[]) -> (f32[8,8], f32[12,3,8]) {
  %all = f32[12,8,8]{2,1,0} parameter(0)
  %kept = f32[12,3,8]{2,1,0} parameter(1)
  %x = f32[3,8]{1,0} parameter(2)
  %i = s32[] parameter(3)
  %one = f32[1,8,8]{2,1,0} dynamic-slice(%all, %i, %i, %i), dynamic_slice_sizes={1,8,8}
  %row = f32[1,3,8]{2,1,0} bitcast(%x)
  %now = f32[12,3,8]{2,1,0} dynamic-update-slice(%kept, %row, %i, %i, %i)
  ROOT %both = (f32[1,8,8]{2,1,0}, f32[12,3,8]{2,1,0}) tuple(%one, %now)
}

ENTRY %main (all: f32[12,8,8], kept: f32[12,3,8], x: f32[3,8], i: s32[]) -> f32[12,3,8] {
  %all.1 = f32[12,8,8]{2,1,0} parameter(0)
  %kept.1 = f32[12,3,8]{2,1,0} parameter(1)
  %x.1 = f32[3,8]{1,0} parameter(2)
  %i.1 = s32[] parameter(3)
  %done = (f32[1,8,8]{2,1,0}, f32[12,3,8]{2,1,0}) fusion(%all.1, %kept.1, %x.1, %i.1), kind=kLoop, calls=%fused
  ROOT %new = f32[12,3,8]{2,1,0} get-tuple-element(%done), index=1
}
"""


def test_of_stacked_arrays_only_the_layer_at_hand_is_moved():
    assert program.read(SLICED).num_bytes == 4 * (8 * 8 + 8 * 8 + 3 * 8 + 3 * 8 + 1)


# ------------------------------------------------------------------------------------------------ the step


def test_a_step_needs_bytes_of_its_weights_twice_and_of_its_tokens():
    few, many = (prompts.pack(inputs.make_prompts(inputs.LENGTHS[n], 700)) for n in (10, 100))
    sizes, weights = SIZES["tiny"], 2 * (4 * 16 * 16 + 2 * 16 * 48)
    tokens = [len(x.start) + len(x.prefix) + x.suffix.size for x in (few, many)]
    needed = [flops.step_bytes(sizes, x, itemsize=4) / 4 for x in (few, many)]
    assert needed == [2 * weights + 2 * n * (27 * 16 + 5 * 48) for n in tokens]


@pytest.mark.long
def test_the_compiled_step_computes_little_more_than_it_needs():
    step, found = program.measure("tiny", 10, remat=False)
    assert 1 <= found.flops / step.flops < 1.3  # tiny, the noise of images tells
    assert found.num_bytes > step.num_bytes
    told = program.lines(step, found)
    assert "of them computed" in told[0] and "of them read and written" in told[1]
