/** What a graph's page shows, all of it in the address. */
import type { Graph, GraphNode } from "./model";

export interface Group {
  name: string;
  members: GraphNode[];
}

export interface LatentEdit {
  node: GraphNode;
  factor: number;
}

export interface GraphView {
  nodeShare: number;
  linkShare: number;
  selected: GraphNode | null;
  pins: GraphNode[];
  groups: Group[];
  edits: LatentEdit[];
  /** Whether attention is held as it is on the prompt while nodes are edited. */
  held: boolean;
  errors: boolean;
}

export function readView(graph: Graph, query: URLSearchParams): GraphView {
  const { node_share, wide_share } = graph.page;
  const nodes = (text: string | null) => (text ?? "").split(",").flatMap((id) => graph.node(id) ?? []);
  return {
    nodeShare: bounded(query.get("n"), node_share, wide_share),
    linkShare: bounded(query.get("e"), graph.usualLinkShare, 1),
    selected: graph.node(query.get("sel") ?? "") ?? null,
    pins: nodes(query.get("pin")),
    groups: (query.get("g") ?? "").split(";").flatMap((text) => {
      const [name = "", ids = ""] = text.split(":");
      const members = nodes(ids);
      return members.length ? [{ name, members }] : [];
    }),
    edits: (query.get("x") ?? "").split(",").flatMap((text) => {
      const [id = "", factor = ""] = text.split("*");
      const node = graph.node(id);
      return node?.kind === "latent" && factor !== "" && Number.isFinite(Number(factor)) ? [{ node, factor: Number(factor) }] : [];
    }),
    held: query.get("held") === "1",
    errors: query.get("errors") !== "0",
  };
}

/** The values of the query that say the view; null where it is the usual one. */
export function viewQuery(graph: Graph, view: GraphView): Record<string, string | null> {
  const { node_share } = graph.page;
  const ids = (nodes: GraphNode[]) => nodes.map((node) => node.id).join(",");
  return {
    n: view.nodeShare === node_share ? null : `${view.nodeShare}`,
    e: view.linkShare === graph.usualLinkShare ? null : `${view.linkShare}`,
    sel: view.selected?.id ?? null,
    pin: ids(view.pins) || null,
    g: view.groups.map((group) => `${group.name}:${ids(group.members)}`).join(";") || null,
    x: view.edits.map((edit) => `${edit.node.id}*${edit.factor}`).join(",") || null,
    held: view.held ? "1" : null,
    errors: view.errors ? null : "0",
  };
}

/** A group's name without the signs that part names in an address. */
export const groupName = (text: string): string => text.replace(/[:;,*]/g, " ").trim().slice(0, 60);

function bounded(text: string | null, usual: number, most: number): number {
  const value = Number(text);
  return text !== null && value > 0 && value <= most ? value : usual;
}
