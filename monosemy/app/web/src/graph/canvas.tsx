/** The drawing of a graph: pointer, keys, and three canvases. */
import { useEffect, useMemo, useRef } from "preact/hooks";
import { share } from "../format";
import { hideTip, showTip, speak } from "../parts/tip";
import { useScheme, useWidth } from "../state";
import { layOut, nearestPlace, stepFrom } from "./layout";
import type { Graph, GraphNode, Pruning } from "./model";
import { nodePlace, nodeTitle, spoken } from "./names";
import { paintAll, paintFocus, paintFrame } from "./paint";
import type { Scene } from "./paint";
import type { GraphView } from "./view";

interface GraphCanvasProps {
  graph: Graph;
  pruning: Pruning;
  view: GraphView;
  /** The node under the pointer, here or in a list. */
  hovered: GraphNode | null;
  onHover: (node: GraphNode | null) => void;
  onSelect: (node: GraphNode | null) => void;
  onPin: (node: GraphNode) => void;
}

export function GraphCanvas({ graph, pruning, view, hovered, onHover, onSelect, onPin }: GraphCanvasProps) {
  const [ref, room] = useWidth<HTMLDivElement>();
  const frame = useRef<HTMLCanvasElement>(null);
  const below = useRef<HTMLCanvasElement>(null);
  const above = useRef<HTMLCanvasElement>(null);
  const scheme = useScheme();
  const { page } = graph;
  const layout = useMemo(() => {
    const drawn = graph.nodes.filter((node) => pruning.nodes[node.index] && (view.errors || node.kind !== "error"));
    return layOut(drawn, graph.nodes.length, page.tokens.length, page.n_layers, Math.max(room, 280));
  }, [graph, pruning, view.errors, room]);
  const marks = `${view.pins.map((node) => node.id)};${view.groups.map((group) => group.members.map((node) => node.id))};${view.edits.map((edit) => edit.node.id)}`;
  const scene = useMemo<Scene>(() => {
    const ringed = new Set([...view.pins, ...view.groups.flatMap((group) => group.members)].map((node) => node.index));
    return { graph, pruning, layout, ringed, edited: new Set(view.edits.map((edit) => edit.node.index)) };
  }, [graph, pruning, layout, marks]);
  const focus = hovered ?? view.selected;
  useEffect(() => {
    if (!below.current || !frame.current || !room) return;
    paintFrame(frame.current, scene);
    paintAll(below.current, scene);
  }, [scene, room, scheme]);
  useEffect(() => {
    if (above.current && room) paintFocus(above.current, scene, focus);
  }, [scene, room, scheme, focus]);
  useEffect(() => {
    if (below.current) below.current.style.opacity = focus && layout.at[focus.index] ? "0.3" : "1";
  }, [focus, layout]);

  const under = (event: PointerEvent | MouseEvent) => {
    const box = above.current?.getBoundingClientRect();
    const coarse = "pointerType" in event && event.pointerType === "touch";
    return box ? (nearestPlace(layout, event.clientX - box.left, event.clientY - box.top, coarse ? 18 : 9)?.node ?? null) : null;
  };
  const tip = (node: GraphNode) => {
    const box = above.current?.getBoundingClientRect();
    const place = layout.at[node.index];
    if (!box || !place) return;
    const rect = new DOMRect(box.left + place.x, box.top + place.y - 6, 0, 12);
    const anchor = { getClientRects: () => [rect], getBoundingClientRect: () => rect } as unknown as Element;
    const influence = node.influence === null ? "" : ` · influence ${share(node.influence)}`;
    showTip(anchor, node.kind === "latent" && node.label ? `${node.number}` : "", nodeTitle(node), nodePlace(node) + influence);
  };
  const move = (event: PointerEvent) => {
    if (event.pointerType === "touch") return;
    const node = under(event);
    if (node === hovered) return;
    onHover(node);
    if (node) tip(node);
    else hideTip();
  };
  const press = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = view.selected && layout.at[view.selected.index];
    if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      const next = from ? stepFrom(layout, from, event.key) : layout.places.find((place) => place.node.kind === "logit");
      if (!next) return;
      onSelect(next.node);
      speak(spoken(next.node));
      reveal(ref.current, next.x);
    } else if (event.key === "Escape" && view.selected) {
      onSelect(null);
      hideTip();
    } else if (event.key === "p" && view.selected) {
      event.preventDefault();
      onPin(view.selected);
    }
  };
  return (
    <div
      ref={ref}
      class="graph-canvas"
      data-arrows
      tabIndex={0}
      role="group"
      aria-label="The graph: arrow keys go from node to node, p pins one, Escape leaves it. The lists beside it hold the same links."
      onKeyDown={press}
    >
      <div
        class="graph-layers"
        style={{ width: `${layout.width}px`, height: `${layout.height}px` }}
        onPointerMove={move}
        onPointerLeave={() => {
          onHover(null);
          hideTip();
        }}
        onClick={(event) => {
          const node = under(event);
          if (node && (event.shiftKey || event.ctrlKey || event.metaKey)) onPin(node);
          else onSelect(node === view.selected ? null : node);
        }}
      >
        <canvas ref={frame} />
        <canvas ref={below} />
        <canvas ref={above} />
      </div>
    </div>
  );
}

/** Scrolls the drawing sideways until a place is in sight. */
function reveal(box: HTMLDivElement | null, x: number): void {
  if (!box) return;
  if (x < box.scrollLeft + 40) box.scrollLeft = x - 60;
  else if (x > box.scrollLeft + box.clientWidth - 20) box.scrollLeft = x - box.clientWidth + 60;
}

/** What the signs of the drawing mean. */
export function Legend() {
  return (
    <p class="graph-legend small muted">
      <span><i class="sign latent" /> latent, darker with influence</span>
      <span><i class="sign error" /> error</span>
      <span><i class="sign token" /> token</span>
      <span><i class="sign logit" /> logit</span>
      <span><i class="sign up" /> raises</span>
      <span><i class="sign down" /> lowers</span>
    </p>
  );
}
