/** The attribution graphs of a run, and one of them. */
import { useEffect, useMemo } from "preact/hooks";
import { api } from "../api";
import type { GraphPage } from "../api";
import { count, num, shellQuoted } from "../format";
import { GraphBody, Lead } from "../graph/graph-view";
import { Graph } from "../graph/model";
import type { GraphSource } from "../graph/source";
import { readView } from "../graph/view";
import { ROW_KEYS, useKeys } from "../keys";
import { Await, Message } from "../parts/bits";
import { Term } from "../parts/term";
import { setQuery, to } from "../router";
import { useLoad, useShared } from "../state";

export function GraphsPage() {
  const graphs = useLoad((signal) => api.graphs(signal), []);
  useKeys(ROW_KEYS);
  useEffect(() => {
    document.title = "Graphs · monosemy";
  }, []);
  return (
    <>
      <div class="head">
        <div>
          <h1>Attribution graphs</h1>
          <p class="lead">What computes what on a prompt: from its tokens, over the <Term word="latent">latents</Term> of <Term word="transcoder">transcoders</Term>, to the next token.</p>
        </div>
      </div>
      <Await of={graphs}>
        {({ graphs: entries }) => (
          <section class="card" aria-label="Graphs">
            {entries.length === 0 ? (
              <NoGraphs />
            ) : (
              <div class="scroll" tabIndex={0} role="region" aria-label="Graphs, table">
                <table>
                  <thead>
                    <tr>
                      <th scope="col">Prompt</th>
                      <th scope="col" class="n">Tokens</th>
                      <th scope="col" class="n">Latents</th>
                      <th scope="col" class="n"><Term word="replacement">Replacement</Term></th>
                      <th scope="col" class="n"><Term word="completeness">Completeness</Term></th>
                    </tr>
                  </thead>
                  <tbody>
                    {entries.map((entry) => (
                      <tr key={entry.name}>
                        <td class="w">
                          <a data-row href={to.graph(entry.name)}>{entry.prompt}</a>
                          {entry.problem && <span class="small muted"> {entry.problem}</span>}
                        </td>
                        <td class="n">{count(entry.n_tokens)}</td>
                        <td class="n">{count(entry.n_latents)}</td>
                        <td class="n">{num(entry.replacement)}</td>
                        <td class="n">{num(entry.completeness)}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            )}
          </section>
        )}
      </Await>
    </>
  );
}

/** Which commands make a graph: of this run where it has transcoders, else of a run that has. */
function NoGraphs() {
  const { run } = useShared();
  const graph = (folder: string) => `monosemy graph "The capital of France is" --run ${folder}`;
  if (run.saes.some((sae) => sae.source_site)) {
    return (
      <p class="empty">
        This run has no graphs yet. Make one in a terminal, then load this page again: <code>{graph(shellQuoted(run.path))}</code>
      </p>
    );
  }
  if (run.unit === "rows") return <p class="empty">A graph follows a language model through a prompt, and this run read rows of your own.</p>;
  return (
    <div class="stack tight">
      <p>
        A graph needs <Term word="transcoder">transcoders</Term>, which stand in for the model's MLPs, and this run has none. The recipe
        “transcoders” trains one for every MLP of SmolLM2-135M, in a run of its own:
      </p>
      <ol class="steps">
        <li><code>monosemy train transcoders --run runs/transcoders</code></li>
        <li><code>{graph("runs/transcoders")}</code></li>
        <li><code>monosemy browse runs/transcoders</code>, and then Graphs, at the top of its pages</li>
      </ol>
    </div>
  );
}

export function GraphPageView({ name, query }: { name: string; query: URLSearchParams }) {
  const page = useLoad((signal) => api.graph(name, signal), [name]);
  return <Await of={page}>{(value) => <Loaded page={value} query={query} />}</Await>;
}

function Loaded({ page, query }: { page: GraphPage; query: URLSearchParams }) {
  const { run, watchModel } = useShared();
  const graph = useMemo(() => new Graph(page), [page]);
  const view = readView(graph, query);
  const source = useMemo<GraphSource>(
    () => ({
      contexts: (node, signal) => api.graphContexts(page.name, node.index, signal),
      noContexts: (node) => {
        const place = page.transcoders.find((entry) => entry.layer === node.layer);
        const sae = place && run.saes.find((entry) => entry.site === place.site && entry.name === place.name);
        return `No contexts: no features were built for the transcoder of this layer.${sae ? ` Build them: ${sae.build_command}` : ""}`;
      },
      edit: (edits, held, signal) => {
        watchModel();
        return api.editGraph(page.name, { edits: edits.map((edit) => ({ node: edit.node.index, factor: edit.factor })), frozen: held }, signal);
      },
      latentHref: (node) => {
        const sae = node.kind === "latent" && page.with_features.includes(node.layer) && page.transcoders.find((entry) => entry.layer === node.layer);
        return sae ? to.latent(sae.site, sae.name, node.number) : undefined;
      },
    }),
    [page],
  );
  useEffect(() => {
    document.title = `${page.prompt} · monosemy`;
  }, [page]);
  return (
    <>
      <div class="head">
        <div>
          <p class="small muted">
            <a href={to.graphs()}>Graphs</a> · {page.model}, {count(page.tokens.length)} tokens
          </p>
          <h1>{page.prompt}</h1>
          <Lead graph={graph} />
        </div>
        <div class="row">
          <a class="button" href={`/api/graph/${encodeURIComponent(page.name)}/neuronpedia`} download>Neuronpedia JSON</a>
          <a class="button" href={`/api/graph/${encodeURIComponent(page.name)}/html`} download>HTML page</a>
        </div>
      </div>
      {page.transcoders.length === 0 && <Message>This graph was made with transcoders from elsewhere, so it has no contexts here and cannot be edited.</Message>}
      <GraphBody graph={graph} view={view} source={source} onQuery={(values) => setQuery(values)} />
    </>
  );
}
