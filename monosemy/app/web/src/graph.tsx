/** The exported page of one graph: the same view as in the browser, from data inside the file. */
import { render } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import type { GraphContexts, GraphPage } from "./types";
import { GraphBody, Lead } from "./graph/graph-view";
import { Graph } from "./graph/model";
import type { GraphSource } from "./graph/source";
import { readView } from "./graph/view";
import { ExplanationLayer } from "./parts/term";
import { TipLayer } from "./parts/tip";

type Exported = GraphPage & { contexts: Record<string, GraphContexts> };

// A file has no addresses of its own but what is behind the "#".
const readHash = (): URLSearchParams => new URLSearchParams(location.hash.slice(1));

function Exported({ page }: { page: Exported }) {
  const graph = useMemo(() => new Graph(page), [page]);
  const [query, setQuery] = useState(readHash);
  useEffect(() => {
    const update = () => setQuery(readHash());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  const source = useMemo<GraphSource>(
    () => ({
      contexts: (node) => Promise.resolve(page.contexts[node.index] ?? null),
      noContexts: () => "This file holds no contexts of this latent.",
      noEdits: "Editing nodes runs the model, which this file does not hold. Open the graph in monosemy browse to see the logits move.",
    }),
    [page],
  );
  const change = (values: Record<string, string | null>) => {
    const next = new URLSearchParams(query);
    for (const [key, value] of Object.entries(values)) {
      if (value === null) next.delete(key);
      else next.set(key, value);
    }
    history.replaceState(null, "", `#${next}`);
    setQuery(next);
  };
  return (
    <>
      <Lead graph={graph} />
      <GraphBody graph={graph} view={readView(graph, query)} source={source} onQuery={change} />
      <TipLayer />
      <ExplanationLayer />
    </>
  );
}

const root = document.getElementById("app");
const data = document.getElementById("graph")?.textContent;
if (root && data) render(<Exported page={JSON.parse(data) as Exported} />, root);
