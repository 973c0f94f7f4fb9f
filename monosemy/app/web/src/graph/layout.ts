/** Where nodes stand: layers from the tokens' embeddings up to the logits, one column a token. */
import type { GraphNode } from "./model";

export interface Place {
  node: GraphNode;
  x: number;
  y: number;
}

export interface Column {
  left: number;
  width: number;
}

export interface Layout {
  width: number;
  height: number;
  places: Place[];
  /** By node: its place, null where it is not drawn. */
  at: (Place | null)[];
  columns: Column[];
  /** The height of each row's middle: embeddings first, then layers, then logits. */
  rows: number[];
  rowHeight: number;
}

export const LEFT = 44;
export const BOTTOM = 62;
const TOP = 8;
const RIGHT = 10;
const LEAST_COLUMN = 30;
const STEP = 11;

export const rowOf = (node: GraphNode): number => node.layer + 1;

export function layOut(nodes: GraphNode[], n_nodes: number, n_tokens: number, n_layers: number, room: number): Layout {
  const n_rows = n_layers + 2;
  const rowHeight = Math.min(34, Math.max(17, 600 / n_rows));
  const height = TOP + n_rows * rowHeight + BOTTOM;
  const rows = Array.from({ length: n_rows }, (_, row) => TOP + (n_rows - row - 0.5) * rowHeight);
  const cells = new Map<number, GraphNode[]>();
  const most = new Array<number>(n_tokens).fill(1);
  for (const node of nodes) {
    const key = rowOf(node) * n_tokens + node.position;
    const cell = cells.get(key) ?? [];
    cell.push(node);
    cells.set(key, cell);
    most[node.position] = Math.max(most[node.position] ?? 1, cell.length);
  }
  const columns = columnsOf(most, room - LEFT - RIGHT);
  const at = new Array<Place | null>(n_nodes).fill(null);
  const places: Place[] = [];
  for (const cell of cells.values()) {
    cell.sort((a, b) => Number(a.kind === "error") - Number(b.kind === "error") || (b.influence ?? b.probability ?? 0) - (a.influence ?? a.probability ?? 0));
    const first = cell[0]!;
    const column = columns[first.position]!;
    const step = Math.min(STEP, (column.width - 8) / cell.length);
    cell.forEach((node, i) => {
      const place = { node, x: column.left + column.width / 2 + (i - (cell.length - 1) / 2) * step, y: rows[rowOf(node)]! };
      at[node.index] = place;
      places.push(place);
    });
  }
  const last = columns.at(-1);
  return { width: last ? last.left + last.width + RIGHT : room, height, places, at, columns, rows, rowHeight };
}

/** Columns as wide as their fullest row needs, within the room where that is enough for the least width of all. */
function columnsOf(most: number[], room: number): Column[] {
  const needed = most.map((n) => Math.max(0, n * STEP + 8 - LEAST_COLUMN));
  const spare = Math.max(0, room - most.length * LEAST_COLUMN);
  const total = needed.reduce((sum, width) => sum + width, 0);
  const even = Math.max(0, spare - total) / most.length;
  const factor = total > spare ? spare / total : 1;
  let left = LEFT;
  return needed.map((width) => {
    const column = { left, width: LEAST_COLUMN + width * factor + even };
    left += column.width;
    return column;
  });
}

/** The place nearest to a point, within a few pixels of it. */
export function nearestPlace(layout: Layout, x: number, y: number, reach: number): Place | null {
  let best = reach * reach;
  let nearest: Place | null = null;
  for (const place of layout.places) {
    const distance = (place.x - x) ** 2 + (place.y - y) ** 2;
    if (distance < best) [best, nearest] = [distance, place];
  }
  return nearest;
}

/** The next place in a direction: along the row, or the nearest in the next row that has any. */
export function stepFrom(layout: Layout, from: Place, key: string): Place | null {
  const ahead = layout.places.filter((place) => {
    if (key === "ArrowLeft") return place.y === from.y && place.x < from.x;
    if (key === "ArrowRight") return place.y === from.y && place.x > from.x;
    return key === "ArrowUp" ? place.y < from.y : place.y > from.y;
  });
  const cost = (place: Place) => 10_000 * Math.abs(place.y - from.y) + Math.abs(place.x - from.x);
  return ahead.reduce<Place | null>((best, place) => (!best || cost(place) < cost(best) ? place : best), null);
}
