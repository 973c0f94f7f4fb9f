/** A graph as its page works with it: nodes, links by either end, and pruning, as circuits/graphs/influence.py does it. */
import type { GraphPage } from "../types";

export type NodeKind = GraphPage["nodes"]["kind"][number];

export interface GraphNode {
  /** Its place in the graph's columns. */
  index: number;
  /** Its name in addresses: `12.345.7` (layer, latent, position), `e12.7`, `t3`, `o262`. */
  id: string;
  kind: NodeKind;
  layer: number;
  position: number;
  number: number;
  piece: string;
  label: string;
  activation: number | null;
  influence: number | null;
  before: number | null;
  size: number | null;
  probability: number | null;
  free: number | null;
  frozen: number | null;
}

export interface Pruning {
  /** Whether each node, and each link, is kept. */
  nodes: Uint8Array;
  links: Uint8Array;
  n_latents: number;
  n_links: number;
}

export interface Neighbour {
  node: GraphNode;
  effect: number;
  /** The effect over the sum of sizes of everything that reaches the target, with its sign. */
  share: number;
}

/** Links that a page opens with at most: more of them cover each other. */
const MOST_LINKS = 1200;

export class Graph {
  readonly nodes: GraphNode[];
  readonly source: Int32Array;
  readonly target: Int32Array;
  readonly effect: Float64Array;
  private readonly byId = new Map<string, GraphNode>();
  /** Links in the order in which influence flows: targets of higher layers first. */
  private readonly downward: Int32Array;
  private openingShare: number | null = null;

  constructor(readonly page: GraphPage) {
    const { nodes, links } = page;
    this.nodes = nodes.kind.map((kind, index) => {
      const node = {
        index,
        kind,
        layer: nodes.layer[index]!,
        position: nodes.position[index]!,
        number: nodes.number[index]!,
        piece: nodes.piece[index]!,
        label: nodes.label[index]!,
        activation: nodes.activation[index]!,
        influence: nodes.influence[index]!,
        before: nodes.before[index]!,
        size: nodes.size[index]!,
        probability: nodes.probability[index]!,
        free: nodes.free[index]!,
        frozen: nodes.frozen[index]!,
      };
      return { ...node, id: idOf(node) };
    });
    for (const node of this.nodes) this.byId.set(node.id, node);
    this.source = Int32Array.from(links.source);
    this.target = Int32Array.from(links.target);
    this.effect = Float64Array.from(links.effect);
    const layer = (link: number) => this.nodes[this.target[link]!]!.layer;
    this.downward = Int32Array.from(links.source.keys()).sort((a, b) => layer(b) - layer(a));
  }

  node(id: string): GraphNode | undefined {
    return this.byId.get(id);
  }

  /** The share of links that the page opens with: that of the command, or less where so many links could not be told apart. */
  get usualLinkShare(): number {
    this.openingShare ??= Math.min(this.page.edge_share, shareOf(this.flow(this.page.node_share).ofLink, MOST_LINKS));
    return this.openingShare;
  }

  /** What the nodes that carry `nodeShare` of all influence, and the links that carry `linkShare` of it between them, leave. */
  prune(nodeShare: number, linkShare: number): Pruning {
    const { nodes } = this;
    const { keep, ofLink } = this.flow(nodeShare);
    const links = largest(ofLink, linkShare);
    this.dropLoose(keep, links);
    return {
      nodes: keep,
      links,
      n_latents: nodes.filter((node) => node.kind === "latent" && keep[node.index]).length,
      n_links: links.reduce((sum, on) => sum + on, 0),
    };
  }

  /** The nodes that carry `nodeShare` of all influence, and the influence that each link carries between them. */
  private flow(nodeShare: number): { keep: Uint8Array; ofLink: Float64Array } {
    const { nodes, source, target, effect, downward } = this;
    const keep = Uint8Array.from(nodes, (node) => Number(isEnd(node) || (node.before ?? 1) < nodeShare));
    const sums = new Float64Array(nodes.length);
    for (let link = 0; link < effect.length; link++) {
      if (keep[source[link]!] && keep[target[link]!]) sums[target[link]!]! += Math.abs(effect[link]!);
    }
    const influence = Float64Array.from(nodes, (node) => node.probability ?? 0);
    const ofLink = new Float64Array(effect.length);
    for (const link of downward) {
      const to = target[link]!;
      if (!keep[source[link]!] || !keep[to] || !sums[to]) continue;
      ofLink[link] = (Math.abs(effect[link]!) / sums[to]!) * influence[to]!;
      influence[source[link]!]! += ofLink[link]!;
    }
    return { keep, ofLink };
  }

  /** Drops latents without an input or an output, and errors without an output, until none is left. */
  private dropLoose(keep: Uint8Array, links: Uint8Array): void {
    for (let changed = true; changed; ) {
      changed = false;
      const hasOutput = new Uint8Array(keep.length);
      const hasInput = new Uint8Array(keep.length);
      for (let link = 0; link < links.length; link++) {
        if (!links[link]) continue;
        hasOutput[this.source[link]!] = 1;
        hasInput[this.target[link]!] = 1;
      }
      for (const node of this.nodes) {
        if (!keep[node.index] || isEnd(node)) continue;
        if (hasOutput[node.index] && (node.kind === "error" || hasInput[node.index])) continue;
        keep[node.index] = 0;
        changed = true;
      }
      for (let link = 0; link < links.length; link++) {
        if (links[link] && !(keep[this.source[link]!] && keep[this.target[link]!])) links[link] = 0;
      }
    }
  }

  /** A node's inputs and outputs among some links, the largest share first. */
  neighbours(node: GraphNode, links: Uint8Array): { inputs: Neighbour[]; outputs: Neighbour[] } {
    const inputs: Neighbour[] = [];
    const outputs: Neighbour[] = [];
    for (let link = 0; link < links.length; link++) {
      if (!links[link]) continue;
      if (this.target[link] === node.index) inputs.push({ node: this.nodes[this.source[link]!]!, ...this.strength(link) });
      else if (this.source[link] === node.index) outputs.push({ node: this.nodes[this.target[link]!]!, ...this.strength(link) });
    }
    for (const list of [inputs, outputs]) list.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
    return { inputs, outputs };
  }

  strength(link: number): { effect: number; share: number } {
    const effect = this.effect[link]!;
    return { effect, share: effect / (this.nodes[this.target[link]!]!.size || Math.abs(effect)) };
  }

  /** The share of a group's input that comes from another: by member, weighted by the members' influence. */
  between(sources: ReadonlySet<number>, targets: ReadonlySet<number>): number {
    let total = 0;
    let weights = 0;
    for (const index of targets) weights += this.weight(index);
    for (let link = 0; link < this.effect.length; link++) {
      if (sources.has(this.source[link]!) && targets.has(this.target[link]!)) {
        total += this.strength(link).share * this.weight(this.target[link]!);
      }
    }
    return weights ? total / weights : 0;
  }

  private weight(index: number): number {
    const node = this.nodes[index]!;
    return node.probability ?? node.influence ?? 0;
  }
}

const isEnd = (node: GraphNode): boolean => node.kind === "token" || node.kind === "logit";

function idOf(node: Pick<GraphNode, "kind" | "layer" | "number" | "position">): string {
  if (node.kind === "latent") return `${node.layer}.${node.number}.${node.position}`;
  if (node.kind === "error") return `e${node.layer}.${node.position}`;
  return node.kind === "token" ? `t${node.position}` : `o${node.number}`;
}

/** The share of the sum that the `most` largest values reach, in whole hundredths; 1 where there are no more. */
function shareOf(values: Float64Array, most: number): number {
  const descending = values.filter((value) => value > 0).sort().reverse();
  const total = descending.reduce((sum, value) => sum + value, 0);
  if (descending.length <= most) return 1;
  return Math.floor((100 * descending.subarray(0, most).reduce((sum, value) => sum + value, 0)) / total) / 100;
}

/** The fewest largest values that reach `share` of the sum of all. */
function largest(values: Float64Array, share: number): Uint8Array {
  const order = Int32Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!);
  const total = values.reduce((sum, value) => sum + value, 0);
  const keep = new Uint8Array(values.length);
  let running = 0;
  for (const place of order) {
    if (values[place]! <= 0 || running >= share * total) break;
    running += values[place]!;
    keep[place] = 1;
  }
  return keep;
}
