"""What a plan counts for kernels that XLA's text does not describe."""

import pytest

from selfadapt.plan.hlo import Program

HEADS, TIME, BLOCKS, FEATURES = 7, 2048, 4, 128
LINE = """HloModule jit_f

ENTRY %main (a: s8[1,4,4], b: s8[1,4,4], q: bf16[7,2048,128], k: bf16[2048,128]) -> bf16[7,2048,128] {{
  %a = s8[1,4,4]{{2,1,0}} parameter(0)
  %b = s8[1,4,4]{{2,1,0}} parameter(1)
  %q = bf16[7,2048,128]{{2,1,0}} parameter(2)
  %k = bf16[2048,128]{{1,0}} parameter(3)
  ROOT %{name}.1 = bf16[7,2048,128]{{2,1,0}} custom-call(%a, %b, %q, %k), custom_call_target="tpu_custom_call"
}}
"""


@pytest.mark.parametrize(
    ("name", "products"),
    [
        ("splash_mqa_fwd_segmented_residuals", 2),
        ("splash_mqa_dq_segmented_no_residuals", 3),
        ("splash_mqa_dkv_segmented_no_residuals", 4),
    ],
)
def test_splash_attention_counts_the_blocks_that_a_causal_mask_leaves(name, products):
    program = Program(LINE.format(name=name))
    block = TIME // BLOCKS
    visited = sum(HEADS for queries in range(BLOCKS) for keys in range(BLOCKS) if keys <= queries)
    assert program.flops() == visited * products * 2 * block * block * FEATURES
    once = 2 * BLOCKS**2 + 2 * (2 * HEADS + 1) * TIME * FEATURES
    assert program.bytes() == once + visited * 2 * block * FEATURES * 2  # two arrays of bfloat16 for each block


def test_a_kernel_of_unknown_cost_is_refused():
    with pytest.raises(ValueError, match="the cost of the kernel mine.1 is unknown"):
        Program(LINE.format(name="mine")).flops()
