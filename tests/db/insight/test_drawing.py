"""Any graph can be drawn and told, also one that a damaged database makes of itself."""

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from fl_main.db.insight.drawing import as_dot, as_list, as_svg, as_tree
from fl_main.db.insight.lineage import Edge, Lineage, Node, Origin

IDS = "abcdef"
A_MODEL = re.compile(r"([a-f])  (?:global|local|initial) model")
text = st.text(max_size=8)
shares = st.none() | st.floats(0, 1)


@st.composite
def lineages(draw: st.DrawFn) -> Lineage:
    """A few models, with edges from any to any: circles and repeats as well."""
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, unique=True))
    kinds, tags = st.sampled_from(["global", "local", "initial"]), st.lists(text, max_size=2).map(tuple)
    rest = (kinds, st.just(1), text, text, st.booleans(), text, tags, st.just(False))
    nodes = [draw(st.builds(Node, st.just(model_id), *rest)) for model_id in ids]
    some = st.builds(Edge, st.sampled_from(ids), st.sampled_from(ids), shares)
    origin = Origin("r", draw(text), draw(text), "sha256:0", (draw(text),), {draw(text): 2})
    return Lineage(nodes, draw(st.lists(some, max_size=12)), draw(st.integers(0, 3)), [origin])


def below(start: str, edges: list[Edge]) -> set[str]:
    """What can be reached upward."""
    found = {start}
    while more := {edge.parent for edge in edges if edge.child in found} - found:
        found |= more
    return found


@given(lineages())
def test_a_tree_names_everything_that_a_model_was_made_from_once(lineage: Lineage) -> None:
    start = lineage.nodes[0].model_id
    lines = list(as_tree(lineage, start))
    assert lines[0].startswith(f"{start}  ")
    begin = lines.index("\nmade from") if "\nmade from" in lines else len(lines)
    end = lines.index("\nbecame part of") if "\nbecame part of" in lines else len(lines)
    told = [found[1] for line in lines[begin:end] if (found := A_MODEL.search(line))]
    assert sorted(told) == sorted(below(start, lineage.edges) - {start})


@given(lineages())
def test_a_list_tells_of_all_that_came_from_no_agent(lineage: Lineage) -> None:
    lines = "\n".join(as_list(lineage))
    for node in lineage.nodes:
        if not node.agent:
            assert f"{node.model_id}  {node.kind} model" in lines


def test_models_of_other_runs_say_which() -> None:
    node = Node("a", "initial", 0, "lungs", "", is_stored=True, why_not="", tags=(), has_more=False)
    for home, said in [("lungs", "round 0"), ("hearts", "lungs:0")]:
        assert f">{said}</text>" in as_svg(Lineage([node], [], 0, []), "a title", home)


@given(lineages(), text, text)
def test_drawings_are_well_formed(lineage: Lineage, title: str, home: str) -> None:
    root = ElementTree.fromstring(as_svg(lineage, title, home))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == len(lineage.nodes)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) == len(lineage.edges)
    dot = as_dot(lineage)
    # Within quotes nothing ends a text but a quote that is not escaped.
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", dot, flags=re.S)
    assert re.fullmatch(r"[\w\s{};=,\[\]>-]*", outside)
    assert len(re.findall(r" -> ", outside)) == len(lineage.edges)
