/** Draws a graph on three canvases: rows and columns, everything in them, and over it what belongs to the node at hand. */
import type { Graph, GraphNode, Pruning } from "./model";
import { BOTTOM, LEFT } from "./layout";
import type { Layout, Place } from "./layout";
import { tokenText } from "./names";

interface Colours {
  ink: string;
  muted: string;
  edge: string;
  line: string;
  surface: string;
  sunken: string;
  accent: string;
  up: string;
  down: string;
  sans: string;
  mono: string;
}

export interface Scene {
  graph: Graph;
  pruning: Pruning;
  layout: Layout;
  /** Nodes with a ring: pinned ones and members of groups. */
  ringed: ReadonlySet<number>;
  edited: ReadonlySet<number>;
}

function colours(): Colours {
  const css = getComputedStyle(document.documentElement);
  const of = (name: string) => css.getPropertyValue(name).trim();
  return {
    ink: of("--ink"), muted: of("--muted"), edge: of("--edge"), line: of("--line"), surface: of("--surface"), sunken: of("--sunken"),
    accent: of("--accent"), up: of("--mark"), down: of("--accent"), sans: of("--sans"), mono: of("--mono"),
  };
}

function penOf(canvas: HTMLCanvasElement, layout: Layout): CanvasRenderingContext2D | null {
  const density = devicePixelRatio || 1;
  canvas.width = Math.round(layout.width * density);
  canvas.height = Math.round(layout.height * density);
  const pen = canvas.getContext("2d");
  pen?.scale(density, density);
  return pen;
}

export function paintAll(canvas: HTMLCanvasElement, scene: Scene): void {
  const pen = penOf(canvas, scene.layout);
  if (!pen) return;
  const colour = colours();
  pen.lineWidth = 1;
  pen.strokeStyle = colour.edge;
  const { graph, pruning } = scene;
  for (let link = 0; link < pruning.links.length; link++) {
    const ends = pruning.links[link] ? linkEnds(scene, link) : null;
    if (!ends) continue;
    pen.globalAlpha = 0.05 + 0.75 * Math.min(1, Math.abs(graph.strength(link).share) * 2);
    curve(pen, ends[0], ends[1]);
  }
  pen.globalAlpha = 1;
  for (const place of scene.layout.places) paintNode(pen, place, scene, colour);
}

/** Rows, columns and their names. */
export function paintFrame(canvas: HTMLCanvasElement, { graph, layout }: Scene): void {
  const pen = penOf(canvas, layout);
  if (!pen) return;
  const colour = colours();
  const { page } = graph;
  const foot = layout.height - BOTTOM;
  pen.fillStyle = colour.sunken;
  layout.columns.forEach((column, i) => i % 2 === 0 && pen.fillRect(column.left, 0, column.width, foot));
  pen.fillStyle = colour.muted;
  pen.font = `11px ${colour.sans}`;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const stride = layout.rowHeight < 15 ? 4 : layout.rowHeight < 22 ? 2 : 1;
  layout.rows.forEach((y, row) => {
    if (row === 0) pen.fillText("Tokens", LEFT - 6, y);
    else if (row === layout.rows.length - 1) pen.fillText("Logits", LEFT - 6, y);
    else if ((row - 1) % stride === 0) pen.fillText(`L${row - 1}`, LEFT - 6, y);
  });
  pen.font = `11.5px ${colour.mono}`;
  pen.fillStyle = colour.ink;
  const texts = page.tokens.map((token) => tokenText(token, 12));
  const slanted = texts.some((text, i) => pen.measureText(text).width > (layout.columns[i]?.width ?? 0) - 4);
  texts.forEach((text, i) => {
    const column = layout.columns[i];
    if (!column) return;
    pen.save();
    pen.translate(column.left + column.width / 2 + (slanted ? 4 : 0), foot + 12);
    if (slanted) pen.rotate(-Math.PI / 4.5);
    pen.textAlign = slanted ? "right" : "center";
    pen.fillText(text, 0, 0);
    pen.restore();
  });
}

function linkEnds({ graph, layout }: Scene, link: number): [Place, Place] | null {
  const from = layout.at[graph.source[link]!];
  const to = layout.at[graph.target[link]!];
  return from && to ? [from, to] : null;
}

function curve(pen: CanvasRenderingContext2D, from: Place, to: Place): void {
  const bend = (from.y - to.y) * 0.45;
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.bezierCurveTo(from.x, from.y - bend, to.x, to.y + bend, to.x, to.y);
  pen.stroke();
}

function outline(pen: CanvasRenderingContext2D, { node, x, y }: Place, size: number): void {
  pen.beginPath();
  if (node.kind === "latent") pen.arc(x, y, size, 0, 2 * Math.PI);
  else if (node.kind === "error") {
    pen.moveTo(x, y - size - 0.5);
    pen.lineTo(x + size + 0.5, y);
    pen.lineTo(x, y + size + 0.5);
    pen.lineTo(x - size - 0.5, y);
    pen.closePath();
  } else pen.roundRect(x - size, y - size, 2 * size, 2 * size, node.kind === "logit" ? 2.5 : 0.5);
}

const SIZE = 4;

function paintNode(pen: CanvasRenderingContext2D, place: Place, scene: Scene, colour: Colours, fill?: string): void {
  const { node } = place;
  outline(pen, place, SIZE);
  pen.fillStyle = colour.surface;
  pen.fill();
  if (fill) {
    pen.fillStyle = fill;
    pen.fill();
  } else if (node.kind === "latent") {
    // The darker, the more influence; a share of 2% is as dark as it gets.
    pen.globalAlpha = 0.12 + 0.78 * Math.min(1, Math.sqrt((node.influence ?? 0) / 0.02));
    pen.fillStyle = colour.ink;
    pen.fill();
    pen.globalAlpha = 1;
  } else if (node.kind === "token") {
    pen.fillStyle = colour.muted;
    pen.fill();
  } else if (node.kind === "logit") {
    pen.globalAlpha = 0.25 + 0.75 * (node.probability ?? 0);
    pen.fillStyle = colour.accent;
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.lineWidth = 1;
  pen.strokeStyle = node.kind === "error" ? colour.muted : node.kind === "logit" ? colour.accent : colour.ink;
  pen.setLineDash(node.kind === "error" ? [1.5, 1.5] : []);
  pen.stroke();
  pen.setLineDash([]);
  if (scene.ringed.has(node.index)) ring(pen, place, SIZE + 3, colour.ink, 1.5);
  if (scene.edited.has(node.index)) cross(pen, place, colour);
}

function ring(pen: CanvasRenderingContext2D, place: Place, size: number, colour: string, width: number): void {
  outline(pen, place, size);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.stroke();
}

function cross(pen: CanvasRenderingContext2D, { x, y }: Place, colour: Colours): void {
  pen.strokeStyle = colour.up;
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(x - 6, y + 6);
  pen.lineTo(x + 6, y - 6);
  pen.stroke();
}

/** Over everything, the node at hand with its links and their other ends. */
export function paintFocus(canvas: HTMLCanvasElement, scene: Scene, focus: GraphNode | null): void {
  const pen = penOf(canvas, scene.layout);
  const place = focus && scene.layout.at[focus.index];
  if (!pen || !focus || !place) return;
  const colour = colours();
  const { graph, pruning } = scene;
  const links: { ends: [Place, Place]; share: number; other: Place }[] = [];
  for (let link = 0; link < pruning.links.length; link++) {
    if (!pruning.links[link] || (graph.source[link] !== focus.index && graph.target[link] !== focus.index)) continue;
    const ends = linkEnds(scene, link);
    if (ends) links.push({ ends, share: graph.strength(link).share, other: ends[0] === place ? ends[1] : ends[0] });
  }
  links.sort((a, b) => Math.abs(a.share) - Math.abs(b.share));
  const most = Math.max(...links.map((link) => Math.abs(link.share)), 1e-9);
  for (const { ends, share } of links) {
    const size = Math.sqrt(Math.abs(share) / most);
    pen.strokeStyle = share < 0 ? colour.down : colour.up;
    pen.lineWidth = 0.75 + 3 * size;
    pen.globalAlpha = 0.35 + 0.6 * size;
    curve(pen, ends[0], ends[1]);
  }
  pen.globalAlpha = 1;
  for (const { other, share } of links) {
    paintNode(pen, other, scene, colour, share < 0 ? colour.down : colour.up);
  }
  for (const marked of scene.layout.places) {
    if (scene.ringed.has(marked.node.index)) ring(pen, marked, SIZE + 3, colour.ink, 1.5);
  }
  paintNode(pen, place, scene, colour, colour.ink);
  ring(pen, place, SIZE + 4.5, colour.ink, 2);
}
