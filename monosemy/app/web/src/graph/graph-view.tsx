/** The page of one attribution graph, served or exported: drawing, pruning, node, groups, edits. */
import { useMemo, useState } from "preact/hooks";
import { count, num, share } from "../format";
import { useKeys } from "../keys";
import { Message } from "../parts/bits";
import { Explained, Term } from "../parts/term";
import { GraphCanvas, Legend } from "./canvas";
import { Edits } from "./edits";
import { Groups } from "./groups";
import type { Graph, GraphNode } from "./model";
import { Panel } from "./panel";
import type { GraphSource } from "./source";
import { viewQuery } from "./view";
import type { GraphView } from "./view";

interface GraphPageProps {
  graph: Graph;
  view: GraphView;
  source: GraphSource;
  onQuery: (values: Record<string, string | null>) => void;
}

export function GraphBody({ graph, view, source, onQuery }: GraphPageProps) {
  const [hovered, setHovered] = useState<GraphNode | null>(null);
  const pruning = useMemo(() => graph.prune(view.nodeShare, view.linkShare), [graph, view.nodeShare, view.linkShare]);
  const onView = (change: Partial<GraphView>) => onQuery(viewQuery(graph, { ...view, ...change }));
  const select = (node: GraphNode | null) => {
    setHovered(null);
    onView({ selected: node });
  };
  const pin = (node: GraphNode) => onView({ pins: view.pins.includes(node) ? view.pins.filter((other) => other !== node) : [...view.pins, node] });
  const edit = (nodes: GraphNode[]) => {
    const added = nodes.filter((node) => node.kind === "latent" && !view.edits.some((other) => other.node === node));
    onView({ edits: [...view.edits, ...added.map((node) => ({ node, factor: 0 }))].slice(0, 32) });
  };
  useKeys({
    p: () => (view.selected ? pin(view.selected) : false),
    Escape: () => (view.selected ? select(null) : false),
  });
  const selected = view.selected;
  return (
    <div class="stack">
      <div class="graph">
        <section class="card stack tight" aria-label="Graph">
          <Controls graph={graph} view={view} n_latents={pruning.n_latents} n_links={pruning.n_links} onView={onView} />
          <GraphCanvas graph={graph} pruning={pruning} view={view} hovered={hovered} onHover={setHovered} onSelect={select} onPin={pin} />
          <Legend />
        </section>
        <Panel
          graph={graph}
          pruning={pruning}
          node={selected}
          source={source}
          pinned={selected !== null && view.pins.includes(selected)}
          edited={selected !== null && view.edits.some((other) => other.node === selected)}
          onHover={setHovered}
          onSelect={select}
          onPin={pin}
          onEdit={(node) => (view.edits.some((other) => other.node === node) ? onView({ edits: view.edits.filter((other) => other.node !== node) }) : edit([node]))}
        />
      </div>
      <div class="two">
        <Groups graph={graph} view={view} onView={onView} onHover={setHovered} onSelect={select} onEdit={source.edit && edit} />
        <Edits view={view} source={source} onView={onView} />
      </div>
      <About graph={graph} />
    </div>
  );
}

function Controls({ graph, view, n_latents, n_links, onView }: { graph: Graph; view: GraphView; n_latents: number; n_links: number; onView: (change: Partial<GraphView>) => void }) {
  const { page } = graph;
  const slider = (name: string, help: string, value: number, most: number, set: (value: number) => void) => (
    <div class="field">
      <span>
        <Explained text={help}>{name}</Explained> <b>{share(value)}</b>
      </span>
      <input type="range" aria-label={name} min={0.05} max={most} step={0.005} value={value} aria-valuetext={share(value)} onInput={(event) => set(Math.min(most, event.currentTarget.valueAsNumber))} />
    </div>
  );
  return (
    <div class="graph-controls">
      {slider("Nodes that carry", "Share of all influence that the drawn nodes carry", view.nodeShare, page.wide_share, (nodeShare) => onView({ nodeShare }))}
      {slider("Links that carry", "Share of the influence between these nodes that the drawn links carry", view.linkShare, 1, (linkShare) => onView({ linkShare }))}
      <label class="check">
        <input type="checkbox" checked={view.errors} onChange={() => onView({ errors: !view.errors })} /> Errors
      </label>
      <p class="small muted" aria-live="polite">
        <b>{count(n_latents)}</b> of {count(page.n_latents)} latents, <b>{count(n_links)}</b> links
      </p>
    </div>
  );
}

/** The measures of the whole graph, under its prompt. */
export function Lead({ graph }: { graph: Graph }) {
  const { page } = graph;
  return (
    <dl class="facts graph-facts">
      <div><dt><Term word="replacement">Replacement</Term></dt><dd>{num(page.replacement)}</dd></div>
      <div><dt><Term word="completeness">Completeness</Term></dt><dd>{num(page.completeness)}</dd></div>
      {page.agreement && (
        <>
          <Agreement name="Agrees with ablation" help="Rank correlation of influence and measured effect; attention answers" of={page.agreement.free} />
          <Agreement name="… attention held" help="The same with attention patterns held" of={page.agreement.frozen} />
        </>
      )}
    </dl>
  );
}

function Agreement({ name, help, of }: { name: string; help: string; of: NonNullable<Graph["page"]["agreement"]>["free"] }) {
  return (
    <div>
      <dt><Explained text={`${help}; 95% interval over ${of.n} nodes`}>{name}</Explained></dt>
      <dd>
        {num(of.rho, 2)} {of.interval && <small>[{num(of.interval[0], 2)}, {num(of.interval[1], 2)}]</small>}
      </dd>
    </div>
  );
}

function About({ graph }: { graph: Graph }) {
  const { page } = graph;
  return (
    <>
      {page.bare_layers.length > 0 && (
        <Message>
          No transcoder for {page.bare_layers.length === 1 ? "layer" : "layers"} {page.bare_layers.join(", ")}: the whole output of such an MLP is an error.
        </Message>
      )}
      <p class="small muted">
        A link is a direct effect with attention patterns and norm scales held constant; influence adds up the effects over all paths
        to the logits. Both are computed. The effect of ablating a latent is measured in the real model.
        {page.links_share < 0.9995 && ` The links at hand carry ${share(page.links_share)} of the influence between the nodes.`}
      </p>
    </>
  );
}
