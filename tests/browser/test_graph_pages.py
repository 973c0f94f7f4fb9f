"""The page of an attribution graph, served and exported: pruning, links, pins, groups, edits, keys, phone, dark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_pages import Server, axe_findings, findings, wait_for_answers, wait_until
from graph_cases import TEXT
from graph_runs import GRAPH, graph_run
from playwright.sync_api import expect

import monosemy
from monosemy.circuits.graphs.influence import prune

PAGE = f"/graph/{GRAPH}"
FIT = "document.documentElement.scrollWidth <= innerWidth"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "graphs"
    return graph_run(folder, "--html", str(folder / "page.html"))


@pytest.fixture(scope="module")
def graphs(run: Path) -> Iterator[Server]:
    running = Server(run)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def graph(run: Path):
    model = monosemy.load_model(str(run / "model"), device="cpu")
    return monosemy.attribute(model, run, TEXT, max_latents=60)


def opened(new_page, graphs, query: str = "", **size):
    page = new_page(**size)
    page.goto(graphs.address + PAGE + query)
    page.locator(".graph-canvas canvas").first.wait_for()
    return page


def inked(page) -> int:
    """Pixels that the canvas of the node at hand has painted."""
    return page.evaluate(
        """() => {
            const canvas = document.querySelectorAll(".graph-canvas canvas")[2];
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
        }"""
    )


def test_the_list_leads_to_the_graph(graphs, new_page):
    page = new_page()
    page.goto(graphs.address)
    page.get_by_role("link", name="Graphs").click()
    page.get_by_role("link", name=TEXT).click()
    expect(page).to_have_url(graphs.address + PAGE)
    expect(page.get_by_role("heading", name=TEXT)).to_be_visible()


@pytest.mark.parametrize(("nodes", "links"), [(0.8, 0.98), (0.5, 0.9), (0.95, 0.6), (0.3, 0.999)])
def test_the_page_prunes_as_the_library_does(graphs, new_page, graph, nodes, links):
    page = opened(new_page, graphs, f"?n={nodes}&e={links}")
    pruned = prune(graph.effects, graph.probabilities, n_tokens=graph.n_tokens, node_share=nodes, edge_share=links)
    text = page.locator(".graph-controls p").inner_text()
    assert text == f"{pruned.n_latents(graph.n_latents)} of 60 latents, {int(pruned.edges.sum()):,} links"


def test_sliders_prune_at_once_and_the_address_keeps_them(graphs, new_page):
    page = opened(new_page, graphs)
    before = page.locator(".graph-controls p").inner_text()
    page.get_by_label("Nodes that carry").fill("0.3")
    expect(page.locator(".graph-controls p")).not_to_have_text(before)
    assert "n=0.3" in page.url
    again = new_page()
    again.goto(page.url)
    expect(again.locator(".graph-controls p")).to_have_text(page.locator(".graph-controls p").inner_text())


def test_a_node_lights_its_links_and_shows_what_it_is(graphs, new_page):
    page = opened(new_page, graphs)
    assert inked(page) == 0
    page.locator(".graph-panel .pick").first.hover()
    wait_until(page, "document.querySelectorAll('.graph-canvas canvas')[1].style.opacity === '0.3'")
    assert inked(page) > 100
    page.locator(".graph-panel .pick").first.click()
    panel = page.locator(".graph-panel")
    expect(panel.get_by_role("heading", name="Inputs")).to_be_visible()
    for name in ("Activation", "Influence", "Ablation", "Attention held"):
        expect(panel.get_by_text(name, exact=True)).to_be_visible()
    node = panel.locator(".graph-links .pick").first
    name = node.locator(".name").inner_text()
    node.click()
    expect(panel.locator("h2")).to_have_text(name.split(" layer")[0].split(" token")[0])


def test_latents_with_features_show_label_and_contexts_and_lead_to_their_page(graphs, new_page):
    page = opened(new_page, graphs)
    data = page.request.get(f"{graphs.address}/api/graph/{GRAPH}").json()["nodes"]
    i = next(
        i
        for i, kind in enumerate(data["kind"])
        if kind == "latent" and data["layer"][i] == 2 and data["number"][i] == 0
    )
    page.goto(f"{graphs.address}{PAGE}?sel=2.0.{data['position'][i]}")
    panel = page.locator(".graph-panel")
    expect(panel.locator("h2")).to_have_text(data["label"][i])
    expect(panel.locator(".graph-contexts li").first).to_be_visible()
    panel.get_by_role("link", name="Open latent").click()
    expect(page).to_have_url(re.compile("/latent/layers.2.mlp_out/.*/0"))


def test_keys_go_from_node_to_node_pin_and_leave(graphs, new_page):
    page = opened(new_page, graphs)
    page.locator(".graph-canvas").focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".graph-panel")).to_contain_text("logit")
    page.keyboard.press("ArrowDown")
    selected = page.locator(".graph-panel h2").inner_text()
    assert selected in page.locator(".sr[aria-live]").inner_text()
    page.keyboard.press("p")
    expect(page.locator(".graph-pins li")).to_have_count(1)
    expect(page.locator(".graph-pins")).to_contain_text(selected)
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="No node is selected")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("pin the node of a graph")


def test_pinned_nodes_become_a_named_group_that_the_address_keeps(graphs, new_page):
    page = opened(new_page, graphs, "?pin=t1,t2,o97")
    pins = page.locator(".graph-pins li")
    n_pins = pins.count()
    assert n_pins >= 2
    page.get_by_label("Name of the group").fill("first: words; here")
    page.get_by_role("button", name=re.compile("Group .* checked")).click()
    expect(pins).to_have_count(0)
    expect(page.locator(".subgraph .box.group")).to_have_count(1)
    again = new_page()
    again.goto(page.url)
    expect(again.locator(".graph-group summary")).to_contain_text("first  words  here")
    again.locator(".graph-group summary").click()
    again.get_by_role("button", name="Ungroup").click()
    expect(again.locator(".graph-pins li")).to_have_count(n_pins)


def test_shift_and_a_click_pin_a_node(graphs, new_page):
    page = opened(new_page, graphs)
    box = page.locator(".graph-canvas canvas").last.bounding_box()
    height = page.evaluate("document.querySelector('.graph-layers').clientHeight")
    # The token of the first column stands in the lowest row, a little above the tokens' names.
    width = page.evaluate("document.querySelector('.graph-layers').clientWidth")
    for x in range(44, int(width), 4):
        page.keyboard.down("Shift")
        page.mouse.click(box["x"] + x, box["y"] + height - 62 - 17)
        page.keyboard.up("Shift")
        if page.locator(".graph-pins li").count():
            break
    expect(page.locator(".graph-pins li")).to_have_count(1)


def test_edits_move_the_logits_of_the_real_model(graphs, new_page):
    page = opened(new_page, graphs)
    page.locator(".graph-panel .pick").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    assert "x=" in page.url
    page.get_by_role("button", name="Run the model").click()
    result = page.locator(".graph-result tbody tr")
    expect(result.first).to_be_visible(timeout=120_000)
    before = result.first.inner_text()
    page.get_by_label(re.compile("Factor of")).fill("3")
    expect(page.get_by_text("The edits changed since")).to_be_visible()
    page.get_by_role("group", name="Attention").get_by_role("button", name="Attention held").click()
    page.get_by_role("button", name="Run the model").click()
    expect(page.get_by_text("The edits changed since")).to_have_count(0)
    assert result.first.inner_text() != before
    assert "held=1" in page.url


def test_a_refused_edit_is_said(graphs, new_page):
    page = opened(new_page, graphs, expected="400")
    page.locator(".graph-panel .pick").first.click()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.goto(re.sub(r"\*0", "*1000", page.url.replace("%2A", "*")))
    page.get_by_role("button", name="Run the model").evaluate("button => button.form.noValidate = true")
    page.get_by_role("button", name="Run the model").click()
    expect(page.get_by_role("alert")).to_have_text("factor must be a number from −100 to 100, got 1000")


def test_an_unknown_graph_is_one_line(graphs, new_page):
    page = new_page(expected="404")
    page.goto(graphs.address + "/graph/none")
    expect(page.get_by_role("alert")).to_contain_text(f"this run has no graph 'none'; it has: {GRAPH}")


@pytest.mark.parametrize("width", [320, 390, 820])
@pytest.mark.parametrize("address", ["/graphs", PAGE, f"{PAGE}?pin=t1,t2,t3&sel=t2&g=words:t4,t5"])
def test_nothing_is_wider_than_the_screen(graphs, new_page, width, address):
    page = new_page(width=width, height=844)
    page.goto(graphs.address + address)
    wait_for_answers(page)
    page.wait_for_timeout(100)
    assert page.evaluate(FIT)


def test_the_dark_scheme_redraws_the_graph(graphs, new_page):
    light, dark = opened(new_page, graphs), opened(new_page, graphs, dark=True)
    pixels = "(() => document.querySelectorAll('.graph-canvas canvas')[1].toDataURL())()"
    assert light.evaluate(pixels) != dark.evaluate(pixels)


def test_the_download_is_neuronpedias_json(graphs, new_page):
    page = opened(new_page, graphs)
    with page.expect_download() as download:
        page.get_by_role("link", name="Neuronpedia JSON").click()
    document = json.loads(Path(download.value.path()).read_text())
    assert document["metadata"]["prompt"] == TEXT
    assert {"metadata", "qParams", "nodes", "links"} == document.keys()


@pytest.mark.parametrize("width", [390, 1440])
def test_the_exported_page_works_from_a_file(run, chromium, graph, width):
    context = chromium.new_context(viewport={"width": width, "height": 900}, offline=True)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("request", lambda request: request.url.startswith("file:") or wrong.append(request.url))
    page.goto((run / "page.html").as_uri())
    text = page.locator(".graph-controls p").inner_text()
    assert text.startswith(f"{graph.pruned.n_latents(graph.n_latents)} of 60 latents")
    page.locator(".graph-panel .pick").first.click()
    page.get_by_role("button", name="Pin", exact=True).click()
    assert "pin=" in page.url
    assert "sel=" in page.url
    expect(page.get_by_text("Editing nodes runs the model, which this file does not hold")).to_be_visible()
    expect(page.get_by_role("button", name="Run the model")).to_have_count(0)
    assert page.evaluate(FIT)
    again = context.new_page()
    again.goto(page.url)
    expect(again.locator(".graph-pins li")).to_have_count(1)
    if width == 1440:
        page.locator("main .term, #app .term").first.click()
        expect(page.get_by_role("tooltip")).to_be_visible()
        page.keyboard.press("Escape")
        wrong += findings(page, "exported graph")
    context.close()
    assert wrong == []


def test_two_thousand_nodes_stay_smooth(graphs, new_page):
    """Pruning and drawing a graph of 2,000 latents and 100,000 links: each move of a slider under half a second."""
    page = new_page()
    address = f"{graphs.address}/api/graph/{GRAPH}"
    large = grown(page.request.get(address).json())
    page.route(f"**/api/graph/{GRAPH}", lambda route: route.fulfill(json=large))
    page.goto(graphs.address + PAGE)
    page.locator(".graph-canvas canvas").first.wait_for()
    expect(page.locator(".graph-controls p")).to_contain_text("of 2,000 latents")
    opened_with = page.locator(".graph-controls p").inner_text().split(", ")[1].split()[0].replace(",", "")
    assert 0 < int(opened_with) <= 1200, "more links than these cover each other"
    page.goto(f"{graphs.address}{PAGE}?e=0.98")
    expect(page.locator(".graph-controls p")).to_contain_text("of 2,000 latents")
    seconds = page.evaluate(
        """async () => {
            const slider = document.querySelector(".graph-controls input[type=range]");
            const times = [];
            for (const value of ["0.9", "0.7", "0.85", "0.6", "0.95"]) {
                const start = performance.now();
                slider.value = value;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                times.push(performance.now() - start);
            }
            return Math.min(...times) / 1000;
        }"""
    )
    assert seconds < 0.5


def grown(data: dict) -> dict:
    """The graph's answer with 2,000 latents in its layers and 100,000 links between them, drawn at random."""
    import numpy as np

    generator = np.random.default_rng(0)
    n, n_layers, n_tokens = 2000, data["n_layers"], len(data["tokens"])
    layers, positions = np.sort(generator.integers(0, n_layers, n)), generator.integers(1, n_tokens, n)
    share = np.sort(generator.pareto(2, n))[::-1]
    share /= share.sum()
    tokens = [i for i, kind in enumerate(data["nodes"]["kind"]) if kind in ("token", "logit")]
    rest = {name: [column[i] for i in tokens] for name, column in data["nodes"].items()}
    blank = [None] * n
    latents = {
        "kind": ["latent"] * n, "layer": layers.tolist(), "position": positions.tolist(), "number": list(range(n)),
        "piece": ["x"] * n, "label": ["a label"] * n, "activation": [1.0] * n, "influence": share.tolist(),
        "before": (share.cumsum() - share).clip(0).tolist(), "size": [10.0] * n, "probability": blank,
        "free": blank, "frozen": blank,
    }  # fmt: skip
    nodes = {name: latents[name] + rest[name] for name in rest}
    n_nodes, depth = len(nodes["kind"]), np.array(nodes["layer"])
    pairs = generator.integers(0, n_nodes, (400_000, 2))
    pairs = pairs[depth[pairs[:, 0]] < depth[pairs[:, 1]]][:100_000]
    links = {
        "source": pairs[:, 0].tolist(),
        "target": pairs[:, 1].tolist(),
        "effect": generator.normal(size=len(pairs)).tolist(),
    }
    return data | {"nodes": nodes, "links": links, "n_latents": n}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 375])
def test_the_pages_are_accessible(graphs, new_page, width, dark):
    page = new_page(width=width, dark=dark)
    data = page.request.get(f"{graphs.address}/api/graph/{GRAPH}").json()["nodes"]
    i = data["kind"].index("latent")
    latent = f"{data['layer'][i]}.{data['number'][i]}.{data['position'][i]}"
    problems = []
    for address in ("/graphs", PAGE, f"{PAGE}?sel={latent}&pin=t1,{latent}&g=words:t4,t5&x={latent}*0"):
        page.goto(graphs.address + address)
        wait_for_answers(page)
        assert page.locator("main .term").count() > 0, address
        problems += axe_findings(page, address)
    assert problems == []
