/** Where the page of a graph gets what the graph itself does not hold: from the server, or from the exported file. */
import type { GraphContexts, GraphIntervention } from "../types";
import type { GraphNode } from "./model";
import type { LatentEdit } from "./view";

export interface GraphSource {
  contexts: (node: GraphNode, signal: AbortSignal) => Promise<GraphContexts | null>;
  /** Said where a latent has no contexts. */
  noContexts: (node: GraphNode) => string;
  /** Runs the model with edits; absent where there is no server. */
  edit?: (edits: LatentEdit[], held: boolean, signal: AbortSignal) => Promise<GraphIntervention>;
  /** Said where nodes cannot be edited. */
  noEdits?: string;
  latentHref?: (node: GraphNode) => string | undefined;
  /** Addresses of the graph's files. */
  downloads?: { neuronpedia: string; html: string };
}
