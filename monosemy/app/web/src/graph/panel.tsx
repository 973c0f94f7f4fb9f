/** The node at hand: what it is, what was computed and what was measured, its links, its contexts. */
import { useState } from "preact/hooks";
import type { GraphContexts } from "../types";
import { num, share } from "../format";
import { Message } from "../parts/bits";
import { Context } from "../parts/context";
import { Explained, Term } from "../parts/term";
import { dense, quoted } from "../parts/tokens";
import { useLoad } from "../state";
import type { Graph, GraphNode, Neighbour, Pruning } from "./model";
import { nodePlace, nodeTitle, signedShare } from "./names";
import type { GraphSource } from "./source";

interface PanelProps {
  graph: Graph;
  pruning: Pruning;
  node: GraphNode | null;
  source: GraphSource;
  pinned: boolean;
  edited: boolean;
  onHover: (node: GraphNode | null) => void;
  onSelect: (node: GraphNode) => void;
  onPin: (node: GraphNode) => void;
  onEdit: (node: GraphNode) => void;
}

export function Panel({ graph, pruning, node, source, pinned, edited, onHover, onSelect, onPin, onEdit }: PanelProps) {
  if (!node) {
    return (
      <section class="card graph-panel" aria-label="Node">
        <h2>No node is selected</h2>
        <p class="small muted">
          Click a node, or give the graph the focus and press an arrow key. Its strongest links light up, orange where the source
          raises the target and blue where it lowers it, and its inputs, outputs and contexts stand here.
        </p>
        <h3>Largest <Term word="influence" /></h3>
        <Strongest graph={graph} pruning={pruning} onHover={onHover} onSelect={onSelect} />
      </section>
    );
  }
  const { inputs, outputs } = graph.neighbours(node, pruning.links);
  const href = source.latentHref?.(node);
  return (
    <section class="card graph-panel" aria-labelledby="node">
      <div>
        <p class="small muted">{node.kind === "latent" ? `Latent ${node.number}, ${nodePlace(node)}` : nodePlace(node)}</p>
        <h2 id="node">{nodeTitle(node)}</h2>
      </div>
      <div class="row">
        <button type="button" aria-pressed={pinned} title="Pin (p)" onClick={() => onPin(node)}>
          {pinned ? "Pinned" : "Pin"}
        </button>
        {node.kind === "latent" && source.edit && (
          <button type="button" aria-pressed={edited} onClick={() => onEdit(node)}>
            {edited ? "Edited" : "Edit"}
          </button>
        )}
        {href && <a class="button" href={href}>Open latent</a>}
      </div>
      <Facts node={node} drawn={pruning.nodes[node.index] === 1} />
      {node.kind !== "token" && node.kind !== "error" && <Links title="Inputs" about="Share of everything that reaches it" links={inputs} onHover={onHover} onSelect={onSelect} />}
      {node.kind !== "logit" && <Links title="Outputs" about="Share of everything that reaches the other node" links={outputs} onHover={onHover} onSelect={onSelect} />}
      {node.kind === "latent" && <NodeContexts node={node} source={source} key={node.id} />}
    </section>
  );
}

function Strongest({ graph, pruning, onHover, onSelect }: Pick<PanelProps, "graph" | "pruning" | "onHover" | "onSelect">) {
  const nodes = graph.nodes
    .filter((node) => node.kind === "latent" && pruning.nodes[node.index])
    .sort((a, b) => (b.influence ?? 0) - (a.influence ?? 0))
    .slice(0, 12);
  return (
    <ul class="list graph-links">
      {nodes.map((node) => (
        <NodeRow key={node.id} node={node} value={share(node.influence)} onHover={onHover} onSelect={onSelect} />
      ))}
    </ul>
  );
}

function Facts({ node, drawn }: { node: GraphNode; drawn: boolean }) {
  const facts: [string, string, string][] = [];
  if (node.activation !== null) facts.push(["Activation", num(node.activation), "On this prompt, at this position"]);
  if (node.influence !== null) facts.push(["Influence", share(node.influence), "Computed: its share of all influence on the logits"]);
  if (node.free !== null) facts.push(["Ablation", `${num(node.free)} logits`, "Measured: change of the logits, weighted by probability, without it; attention answers"]);
  if (node.frozen !== null) facts.push(["Attention held", `${num(node.frozen)} logits`, "Measured: the same with attention patterns held"]);
  if (node.probability !== null) facts.push(["Probability", share(node.probability), "As the next token"]);
  return (
    <div>
      <dl class="facts">
        {facts.map(([name, value, help]) => (
          <div key={name}>
            <dt><Explained text={help}>{name}</Explained></dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {node.kind === "latent" && node.free === null && <p class="small muted">It was not ablated when the graph was made.</p>}
      {node.kind === "error" && <p class="small muted">What the transcoder leaves out of this MLP's output here. It has no inputs: nothing explains it.</p>}
      {!drawn && <p class="small muted">Pruned at these settings.</p>}
    </div>
  );
}

const FIRST = 8;

function Links({ title, about, links, onHover, onSelect }: { title: string; about: string; links: Neighbour[] } & Pick<PanelProps, "onHover" | "onSelect">) {
  const [all, setAll] = useState(false);
  if (!links.length) return <h3 class="muted">No {title.toLowerCase()} at these settings</h3>;
  return (
    <div>
      <h3>
        <Explained text={about}>{title}</Explained> <span class="muted">{links.length}</span>
      </h3>
      <ul class="list graph-links">
        {links.slice(0, all ? 200 : FIRST).map(({ node, share: value, effect }) => (
          <NodeRow key={node.id} node={node} value={signedShare(value)} tone={effect < 0 ? "down" : "up"} onHover={onHover} onSelect={onSelect} />
        ))}
      </ul>
      {links.length > FIRST && (
        <button type="button" class="quiet" onClick={() => setAll(!all)}>
          {all ? "Fewer" : `All ${Math.min(200, links.length)}`}
        </button>
      )}
    </div>
  );
}

export function NodeRow({ node, value, tone, onHover, onSelect }: { node: GraphNode; value: string; tone?: "up" | "down" } & Pick<PanelProps, "onHover" | "onSelect">) {
  return (
    <li>
      <button type="button" class="quiet pick" onClick={() => onSelect(node)} onPointerEnter={() => onHover(node)} onPointerLeave={() => onHover(null)} onFocus={() => onHover(node)} onBlur={() => onHover(null)}>
        <i class={`sign ${node.kind}`} />
        <span class="name">
          {nodeTitle(node)} <span class="muted">{nodePlace(node)}</span>
        </span>
      </button>
      <span class={tone ? `tone-${tone}` : undefined}>{value}</span>
    </li>
  );
}

function NodeContexts({ node, source }: { node: GraphNode; source: GraphSource }) {
  const contexts = useLoad<GraphContexts | null>((signal) => source.contexts(node, signal), [node]);
  if (contexts.error) return <Message bad>{contexts.error}</Message>;
  if (!contexts.value) return contexts.busy ? <p class="small muted busy">Loading contexts…</p> : <p class="small muted">{source.noContexts(node)}</p>;
  const { examples, max } = contexts.value;
  if (!examples.length) return <p class="small muted">{source.noContexts(node)}</p>;
  const most = max ?? Math.max(...examples.map((example) => example.value), 1e-9);
  return (
    <div>
      <h3>Strongest contexts</h3>
      <ul class="contexts graph-contexts">
        {examples.map((example, i) => (
          <li key={`${example.context}-${i}`}>
            <span class="value" title={example.source}>{num(example.value)}</span>
            <Context
              run={example}
              values={dense(example.tokens.length, example.activations)}
              max={most}
              peak={example.peak}
              name={`Context ${i + 1}, ${num(example.value)} at ${quoted(example.tokens[example.peak] ?? "")}`}
            />
          </li>
        ))}
      </ul>
    </div>
  );
}
