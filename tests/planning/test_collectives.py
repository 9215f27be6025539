"""Collectives are counted in HLO text, with all rounds of loops."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cxr_diffusion_jax.parallel import mesh as mesh_lib
from cxr_diffusion_jax.planning import collectives

# In the form of XLA's own text, shortened.
TEXT = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (state: (s32[], f32[8,128], f32[5,16])) -> (s32[], f32[8,128], f32[5,16]) {
  %state = (s32[], f32[8,128]{1,0}, f32[5,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %rows = f32[5,16]{1,0} get-tuple-element(%state), index=2
  %all = f32[8,128]{1,0} all-reduce(%w), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  %row = f32[16]{0} fusion(%rows, %i), kind=kLoop, calls=%add
  ROOT %out = (s32[], f32[8,128]{1,0}, f32[5,16]{1,0}) tuple(%i, %all, %rows)
}

%condition (state: (s32[], f32[8,128], f32[5,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %state.1 = (s32[], f32[8,128]{1,0}, f32[5,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (w: bf16[4,64]) -> bf16[16,64] {
  %w.1 = bf16[4,64]{1,0} parameter(0)
  %gather = (bf16[4,64]{1,0}, bf16[16,64]{1,0}) all-gather-start(%w.1), replica_groups=[2,4]<=[8], dimensions={0}
  %done = bf16[16,64]{1,0} all-gather-done(%gather)
  %loop = (s32[], f32[8,128]{1,0}, f32[5,16]{1,0}) while(%start), condition=%condition, body=%body
  %moved = bf16[16,64]{1,0} collective-permute(%done), source_target_pairs={{0,1}}
  ROOT %part = f32[2,64]{1,0} reduce-scatter(%moved), replica_groups={{0,1}}, to_apply=%add
}
"""  # noqa: E501


def test_parse_counts_rounds_of_loops_and_bytes_of_a_ring():
  kinds = collectives.parse(TEXT)
  assert set(kinds) == {
    *("all-gather", "all-reduce", "collective-permute", "reduce-scatter")
  }
  assert kinds["all-reduce"].count == 5
  assert kinds["all-reduce"].sent == 5 * 2 * 3 / 4 * 8 * 128 * 4
  assert kinds["all-gather"].sent == 3 / 4 * 16 * 64 * 2
  assert kinds["collective-permute"].sent == 16 * 64 * 2
  assert kinds["reduce-scatter"].sent == 2 * 64 * 4


def test_parse_counts_asynchronous_collectives_once():
  twice = TEXT.replace("collective-permute(", "collective-permute-done(")
  start = "  %m = bf16[2]{0} collective-permute(%w.1), channel_id=9\n"
  twice = twice.replace("  %gather", start + start.replace("%m", "%n") + "  %gather")
  assert collectives.parse(twice)["collective-permute"].count == 1


def test_rounds_are_read_from_a_mark_too():
  mark = ', body=%body, backend_config={"known_trip_count":{"n":"7"}}'
  marked = TEXT.replace(", body=%body", mark)
  assert collectives.parse(marked)["all-reduce"].count == 7


def test_repeated_traffic_counts_rounds_after_the_first():
  reduced = 2 * 8 * 128 * 4
  # One of five rows, the index, and what is computed from them.
  row = 16 * 4 + 4 + 16 * 4
  assert collectives.repeated_traffic(TEXT) == 4 * (reduced + row)


def test_longest_square_is_of_the_last_two_axes():
  assert collectives.longest_square("f32[4096,2,64]{2,1,0} bf16[8,96,80]") == 80


def test_parse_reads_a_compiled_program():
  mesh = mesh_lib.make_mesh(data=2, fsdp=4)
  split = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
  whole = NamedSharding(mesh, PartitionSpec())
  product = jax.jit(lambda a, b: a @ b.T, out_shardings=whole)
  shape = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=split)
  kinds = collectives.parse(product.lower(shape, shape).compile().as_text())
  assert set(kinds) == {"all-reduce"}
  assert kinds["all-reduce"].sent == 2 * 3 / 4 * 32 * 32 * 4


def test_memory_traffic_leaves_out_what_stays_on_the_chip():
  # A loop of 3 rounds over the rows of a stack, and a copy of one array to the chip.
  text = """
HloModule step

%body (p: (s32[], f32[3,256], f32[8,128])) -> (s32[], f32[3,256], f32[8,128]) {
  %p = (s32[], f32[3,256]{1,0}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %stack = f32[3,256]{1,0} get-tuple-element(%p), index=1
  %chip = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=2
  %next = f32[8,128]{1,0:T(8,128)S(1)} fusion(%stack, %chip), kind=kLoop, calls=%f
  ROOT %t = (s32[], f32[3,256]{1,0}, f32[8,128]{1,0:T(8,128)S(1)}) tuple(%i, %stack, %next)
}

ENTRY %main (x: f32[8,128], y: bf16[3,256]) -> bf16[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %s = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %d = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%s)
  %w = (s32[], f32[3,256]{1,0}, f32[8,128]{1,0:T(8,128)S(1)}) while(%i), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %g = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%w), index=2
  ROOT %r = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%g), kind=kLoop, calls=%h
}
"""  # noqa: E501
  copied, rows, result = 8 * 128 * 4, 3 * 256 * 4, 8 * 128 * 2
  assert collectives.memory_traffic(text) == copied + rows + result
