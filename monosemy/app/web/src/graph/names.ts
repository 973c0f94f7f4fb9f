/** What nodes are called on the page. */
import { num, share } from "../format";
import { pieces, quoted } from "../parts/tokens";
import type { GraphNode } from "./model";

/** Short: for lists and boxes. */
export function nodeTitle(node: GraphNode): string {
  if (node.kind === "latent") return node.label || `Latent ${node.number}`;
  if (node.kind === "error") return "Error";
  return quoted(node.piece);
}

/** Where it is: "layer 12, at “ France”". */
export function nodePlace(node: GraphNode): string {
  if (node.kind === "token") return `token ${node.position}`;
  if (node.kind === "logit") return `logit, ${share(node.probability)}`;
  return `layer ${node.layer}, at ${quoted(node.piece)}`;
}

/** Said of it to those who can't see the graph. */
export function spoken(node: GraphNode): string {
  const influence = node.influence === null ? "" : `, influence ${share(node.influence)}`;
  const number = node.kind === "latent" && node.label ? `, latent ${node.number}` : "";
  return `${nodeTitle(node)}${number}, ${nodePlace(node)}${influence}`;
}

/** A token's text with signs for what is invisible, cut to a length. */
export function tokenText(text: string, length: number): string {
  const visible = pieces(text, true).map((piece) => piece.text).join("").replace(/^·/, "");
  return [...visible].length > length ? `${[...visible].slice(0, length - 1).join("")}…` : visible || "·";
}

export const signedShare = (value: number): string => `${value < 0 ? "−" : "+"}${share(Math.abs(value))}`;
export const activation = (value: number | null): string => num(value);
