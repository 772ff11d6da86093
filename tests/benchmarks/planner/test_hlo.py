"""Collectives are counted as often as they run: those in loops times the loop's length."""

from benchmarks.planner.hlo import collectives

PROGRAM = """\
HloModule jit_step, entry_computation_layout={()->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (carry: (s32[], f32[8])) -> pred[] {
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%index, %five), direction=LT
}

%inner_body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %one = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %two = (f32[8]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}
  %done = f32[8]{0} all-gather-done(%two)
}

%outer_condition (carry: (s32[], f32[8])) -> pred[] {
  %ten = s32[]{:T(128)} constant(10)
  ROOT %less = pred[] compare(%index, %ten), direction=LT
}

%outer_body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]) while(%carry), condition=%inner_condition, body=%inner_body
  %after = f32[8]{0} all-reduce(%y), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%start), condition=%outer_condition, body=%outer_body
  %last = f32[8]{0} reduce-scatter(%z), dimensions={0}, to_apply=%add
}
"""


def test_loops_multiply() -> None:
    assert collectives(PROGRAM) == {
        "all-reduce": 10 * (5 + 1),
        "all-gather": 10 * 5,
        "reduce-scatter": 1,
        "collective-permute": 0,
        "all-to-all": 0,
    }
