"""What a device waits for its links, of programs written by hand: a second for a collective, or for a unit of work."""

import pytest

from selfadapt.plan import hlo

HEAD = "HloModule m, is_scheduled=true, num_partitions=4\n\n"
GROUPS = "replica_groups={{0,1,2,3}}"
BODY = (
    "%add (x: f32[], y: f32[]) -> f32[] {\n  %x = f32[] parameter(0)\n  %y = f32[] parameter(1)\n"
    "  ROOT %s = f32[] add(%x, %y)\n}\n\n"
)


def waits(text, link=5.0, work=1.0):
    """Seconds that a program waits if every collective takes `link` and every copy `work`.

    Each pair of devices of a permutation has a link, in one direction; other collectives use all.
    """

    def used(collective):
        return collective.groups if collective.kind == "collective-permute" else ()

    program = hlo.Program(HEAD + text)
    found = hlo.exposed_seconds(program, lambda _: link, lambda each: work if each.bytes else 0.0, used)
    return pytest.approx(found)


def main(*lines):
    return (
        "ENTRY %main (a: f32[8]) -> f32[8] {\n  %a = f32[8]{0} parameter(0)\n"
        + "".join(f"  {x}\n" for x in lines)
        + "}\n"
    )


def test_a_synchronous_collective_is_waited_for_each_time():
    loop = (
        "%body (b: f32[8]) -> f32[8] {\n  %b = f32[8]{0} parameter(0)\n  %c = f32[8]{0} copy(%b)\n"
        f"  ROOT %r = f32[8]{{0}} all-reduce(%c), {GROUPS}, channel_id=1, to_apply=%add\n}}\n\n"
        "%until (b: f32[8]) -> pred[] {\n  %b = f32[8]{0} parameter(0)\n  ROOT %t = pred[] constant(true)\n}\n\n"
    )
    known = 'backend_config={"known_trip_count":{"n":"7"}}'
    once = main(
        f"%r = f32[8]{{0}} all-reduce(%a), {GROUPS}, channel_id=1, to_apply=%add",
        f"ROOT %w = f32[8]{{0}} while(%r), condition=%until, body=%body, {known}",
    )
    assert waits(BODY + loop + once) == 8 * 5.0  # though they share a channel


@pytest.mark.parametrize(("copies", "left"), [(0, 5.0), (2, 3.0), (9, 0.0)])
def test_work_between_start_and_end_hides_a_collective(copies, left):
    work = [f"%c{n} = f32[8]{{0}} copy(%a)" for n in range(copies)]
    text = main(
        f"%s = (f32[8]{{0}}, f32[32]{{0}}) all-gather-start(%a), {GROUPS}, channel_id=1, dimensions={{0}}",
        *work,
        "%d = f32[32]{0} all-gather-done(%s)",
        "ROOT %e = f32[8]{0} copy(%a)",
    )
    assert waits(text) == left


AHEAD, BACK = "{{0,1},{1,2},{2,3},{3,0}}", "{{1,0},{2,1},{3,2},{0,3}}"


def permutation(n, pairs):
    return (
        f"%s{n} = (f32[8]{{0}}, f32[8]{{0}}) collective-permute-start(%a), channel_id={n}, source_target_pairs={pairs}"
    )


@pytest.mark.parametrize(("second", "left"), [(AHEAD, 2 * 5.0 - 1.0), (BACK, 5.0 - 1.0)])
def test_collectives_in_flight_share_the_links_that_both_use(second, left):
    text = main(
        permutation(1, AHEAD),
        permutation(2, second),
        "%c = f32[8]{0} copy(%a)",
        "%d1 = f32[8]{0} collective-permute-done(%s1)",
        "ROOT %d2 = f32[8]{0} collective-permute-done(%s2)",
    )
    assert waits(text) == left


def test_a_synchronous_collective_begins_when_those_in_flight_are_done():
    text = main(
        permutation(1, AHEAD),
        permutation(2, BACK),
        "%c = f32[8]{0} copy(%a)",
        f"%r = f32[8]{{0}} all-reduce(%c), {GROUPS}, channel_id=3, to_apply=%add",
        permutation(4, BACK),
        "%d1 = f32[8]{0} collective-permute-done(%s1)",
        "%d2 = f32[8]{0} collective-permute-done(%s2)",
        "ROOT %d4 = f32[8]{0} collective-permute-done(%s4)",
    )
    assert waits(BODY + text) == 4.0 + 5.0 + 5.0


def test_steps_inside_of_a_tpu_s_fusions_are_one_collective():
    step = f'all-gather(%p), channel_id=1, {GROUPS}, dimensions={{0}}, frontend_attributes={{chain_id="0"}}'

    def fused(name):
        return (
            f"%{name} (p: f32[8]) -> f32[32] {{\n  %p = f32[8]{{0}} parameter(0)\n"
            f"  ROOT %{name}.g = f32[32]{{0}} {step}\n}}\n\n"
        )

    def fusion(name, calls):
        return f"%{name} = f32[32]{{0}} fusion(%a), kind=kOutput, calls=%{calls}"

    text = "".join(fused(name) for name in ("first", "second", "last")) + main(
        fusion("async-collective-start", "first"),
        fusion("fusion.1", "second"),
        "%c = f32[8]{0} copy(%a)",
        fusion("async-collective-done", "last"),
        "ROOT %e = f32[8]{0} copy(%a)",
    )
    program = hlo.Program(HEAD + text)
    assert [each.times for each in program.collectives()] == [1]
    assert waits(text) == 5.0 - 1.0
