/** Pinned nodes and groups of them (supernodes): a list to name them by, and the graph between them. */
import { useState } from "preact/hooks";
import { useWidth } from "../state";
import type { Graph, GraphNode } from "./model";
import { nodePlace, nodeTitle, signedShare } from "./names";
import { groupName } from "./view";
import type { GraphView, Group } from "./view";

interface GroupsProps {
  graph: Graph;
  view: GraphView;
  onView: (change: Partial<GraphView>) => void;
  onHover: (node: GraphNode | null) => void;
  onSelect: (node: GraphNode) => void;
  /** Absent where nothing can be edited. */
  onEdit?: (nodes: GraphNode[]) => void;
}

export function Groups({ graph, view, onView, onHover, onSelect, onEdit }: GroupsProps) {
  const [name, setName] = useState("");
  const [left, setLeft] = useState<ReadonlySet<string>>(new Set());
  const members = view.pins.filter((node) => !left.has(node.id));
  const group = (event: Event) => {
    event.preventDefault();
    if (!members.length) return;
    const title = groupName(name) || nodeTitle(members[0]!).slice(0, 60).replace(/[:;,*]/g, " ");
    onView({ groups: [...view.groups, { name: title, members }], pins: view.pins.filter((node) => left.has(node.id)) });
    setName("");
    setLeft(new Set());
  };
  const toggle = (node: GraphNode) => {
    const next = new Set(left);
    if (!next.delete(node.id)) next.add(node.id);
    setLeft(next);
  };
  const ungroup = (old: Group) =>
    onView({ groups: view.groups.filter((entry) => entry !== old), pins: [...view.pins, ...old.members.filter((node) => !view.pins.includes(node))] });
  if (!view.pins.length && !view.groups.length) {
    return (
      <section class="card" aria-labelledby="pinned">
        <h2 id="pinned">Pinned nodes</h2>
        <p class="small muted">Nothing is pinned. Pin nodes (p, or Shift and a click) to group them under a name, to edit several together, and to see the graph between them.</p>
      </section>
    );
  }
  return (
    <section class="card stack tight" aria-labelledby="pinned">
      <h2 id="pinned">Pinned nodes and groups</h2>
      <Subgraph graph={graph} view={view} onHover={onHover} onSelect={onSelect} />
      {view.groups.map((entry) => (
        <details class="graph-group" key={entry.name + entry.members.map((node) => node.id)}>
          <summary>
            <b>{entry.name}</b> <span class="muted">{entry.members.length} {entry.members.length === 1 ? "node" : "nodes"}</span>
          </summary>
          <ul class="list">
            {entry.members.map((node) => (
              <li key={node.id}>
                <button type="button" class="quiet pick" onClick={() => onSelect(node)} onPointerEnter={() => onHover(node)} onPointerLeave={() => onHover(null)}>
                  <i class={`sign ${node.kind}`} /> <span class="name">{nodeTitle(node)} <span class="muted">{nodePlace(node)}</span></span>
                </button>
              </li>
            ))}
          </ul>
          <p class="row">
            <button type="button" onClick={() => ungroup(entry)}>Ungroup</button>
            {onEdit && <button type="button" onClick={() => onEdit(entry.members)} disabled={!entry.members.some((node) => node.kind === "latent")}>Edit together</button>}
          </p>
        </details>
      ))}
      {view.pins.length > 0 && (
        <form class="stack tight" onSubmit={group}>
          <ul class="list graph-pins">
            {view.pins.map((node) => (
              <li key={node.id}>
                <label class="check">
                  <input type="checkbox" checked={!left.has(node.id)} onChange={() => toggle(node)} />
                  <i class={`sign ${node.kind}`} />
                  <span class="name">{nodeTitle(node)} <span class="muted">{nodePlace(node)}</span></span>
                </label>
                <button type="button" class="quiet" aria-label={`Unpin ${nodeTitle(node)}`} onClick={() => onView({ pins: view.pins.filter((pin) => pin !== node) })}>Unpin</button>
              </li>
            ))}
          </ul>
          <p class="row end">
            <label class="field wide">
              <span>Name of the group</span>
              <input value={name} maxLength={60} placeholder="e.g. capital cities" onInput={(event) => setName(event.currentTarget.value)} />
            </label>
            <button type="submit" class="primary" disabled={!members.length}>Group {members.length} checked</button>
            {onEdit && <button type="button" disabled={!members.some((node) => node.kind === "latent")} onClick={() => onEdit(members)}>Edit checked</button>}
          </p>
        </form>
      )}
    </section>
  );
}

interface Box {
  title: string;
  members: GraphNode[];
  group: boolean;
  layer: number;
  position: number;
  x: number;
  y: number;
}

const HIGH = 34;
const GAP = 74;
const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Boxes row by row from low layers up, those of one row from left to right by position. */
function boxesOf(view: GraphView, width: number): { boxes: Box[]; wide: number; height: number } {
  const sets = [...view.groups.map((group) => ({ title: group.name, members: group.members, group: true })), ...view.pins.map((node) => ({ title: nodeTitle(node), members: [node], group: false }))];
  const boxes = sets.map((set): Box => ({ ...set, layer: mean(set.members.map((node) => node.layer)), position: mean(set.members.map((node) => node.position)), x: 0, y: 0 }));
  boxes.sort((a, b) => a.layer - b.layer);
  const inRow = Math.max(1, Math.floor(width / 150));
  const rows: Box[][] = [];
  for (const box of boxes) {
    const row = rows.at(-1);
    // Of one layer, so that no link runs along a row; a full row goes on in the next.
    if (row && row.length < inRow && Math.abs(row[0]!.layer - box.layer) < 0.5) row.push(box);
    else rows.push([box]);
  }
  const wide = Math.min(170, width / Math.max(...rows.map((row) => row.length), 1) - 10);
  const positions = boxes.map((box) => box.position);
  const [first, last] = [Math.min(...positions), Math.max(...positions)];
  rows.forEach((row, i) => {
    row.sort((a, b) => a.position - b.position);
    // A row of a single box leans to where its tokens are, so that links do not lie on one another.
    row.forEach((box, j) => {
      const alone = last > first ? (box.position - first) / (last - first) : 0.5;
      box.x = (width - wide) * (row.length > 1 ? j / (row.length - 1) : alone);
      box.y = (rows.length - 1 - i) * GAP + 4;
    });
  });
  return { boxes, wide, height: (rows.length - 1) * GAP + HIGH + 8 };
}

function Subgraph({ graph, view, onHover, onSelect }: Pick<GroupsProps, "graph" | "view" | "onHover" | "onSelect">) {
  const [ref, width] = useWidth<HTMLDivElement>();
  const { boxes, wide, height } = boxesOf(view, Math.max(width, 200));
  const links = boxes.flatMap((from) =>
    boxes.flatMap((to) => {
      if (from === to) return [];
      const value = graph.between(new Set(from.members.map((node) => node.index)), new Set(to.members.map((node) => node.index)));
      return Math.abs(value) >= 0.001 ? [{ from, to, value }] : [];
    }),
  );
  const fits = Math.max(4, Math.floor((wide - 14) / 6.6));
  const short = (text: string) => ([...text].length > fits ? `${[...text].slice(0, fits - 1).join("")}…` : text);
  return (
    <div ref={ref} class="subgraph">
      {width > 0 && (
        <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`The graph between ${boxes.length} pinned nodes and groups. ${links.map((link) => `${link.from.title} to ${link.to.title}: ${signedShare(link.value)}`).join("; ")}`}>
          {links.map(({ from, to, value }) => {
            const [x1, y1, x2, y2] = [from.x + wide / 2, from.y, to.x + wide / 2, to.y + HIGH];
            return (
              <g key={`${boxes.indexOf(from)}-${boxes.indexOf(to)}`}>
                <path class={value < 0 ? "down" : "up"} stroke-width={1 + 6 * Math.sqrt(Math.min(1, Math.abs(value)))} d={`M${x1},${y1}C${x1},${y1 - 26} ${x2},${y2 + 26} ${x2},${y2}`} />
                <text class="amount" x={(x1 + x2) / 2} y={(y1 + y2) / 2 + 4}>{signedShare(value)}</text>
              </g>
            );
          })}
          {boxes.map((box) => (
            <g key={box.title + box.members.map((node) => node.id)} class={box.group ? "box group" : `box ${box.members[0]!.kind}`} onClick={() => onSelect(box.members[0]!)} onPointerEnter={() => onHover(box.members[0]!)} onPointerLeave={() => onHover(null)}>
              <title>{box.group ? `${box.title}: ${box.members.length} nodes` : `${box.title}, ${nodePlace(box.members[0]!)}`}</title>
              <rect x={box.x} y={box.y} width={wide} height={HIGH} rx={box.group ? 9 : 4} />
              <text x={box.x + wide / 2} y={box.y + HIGH / 2 + 4}>{short(box.title)}</text>
            </g>
          ))}
        </svg>
      )}
      {links.length > 0 && <p class="small muted">On a link: the share of the upper box's whole input that comes from the lower, by direct effect; of a group the mean over its members, weighted by influence.</p>}
    </div>
  );
}
