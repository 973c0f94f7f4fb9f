/** Edits of latents, and what they do to the next token in the real model. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { GraphIntervention } from "../types";
import { num, share, signed } from "../format";
import { Choice, Message } from "../parts/bits";
import { NumberField } from "../parts/number";
import { Explained } from "../parts/term";
import { Token } from "../parts/token";
import { sentence } from "../state";
import { nodePlace, nodeTitle } from "./names";
import type { GraphSource } from "./source";
import type { GraphView } from "./view";

interface EditsProps {
  view: GraphView;
  source: GraphSource;
  onView: (change: Partial<GraphView>) => void;
}

interface Outcome {
  of: string;
  result: GraphIntervention | null;
  error: string | null;
}

export function Edits({ view, source, onView }: EditsProps) {
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const [busy, setBusy] = useState(false);
  const running = useRef<AbortController | null>(null);
  useEffect(() => () => running.current?.abort(), []);
  const request = `${view.edits.map((edit) => `${edit.node.id}*${edit.factor}`)};${view.held}`;
  const run = (event: Event) => {
    event.preventDefault();
    if (!source.edit || !view.edits.length) return;
    running.current?.abort();
    const abort = new AbortController();
    running.current = abort;
    setBusy(true);
    source.edit(view.edits, view.held, abort.signal).then(
      (result) => {
        setOutcome({ of: request, result, error: null });
        setBusy(false);
      },
      (reason: unknown) => {
        if (abort.signal.aborted) return;
        setOutcome({ of: request, result: null, error: sentence(reason) });
        setBusy(false);
      },
    );
  };
  const change = (place: number, factor: number) =>
    onView({ edits: view.edits.map((edit, i) => (i === place ? { ...edit, factor } : edit)) });
  return (
    <section class="card stack tight" aria-labelledby="edits">
      <header>
        <h2 id="edits">Edit and see the logits</h2>
        <span class="sub">The real model runs with these latents changed at their positions</span>
      </header>
      {!source.edit && <Message>{source.noEdits}</Message>}
      {source.edit && !view.edits.length && <p class="small muted">Select a latent and press Edit, or edit pinned nodes and groups together. 0 ablates a latent, 2 doubles it, −1 turns it round.</p>}
      {view.edits.length > 0 && (
        <form class="stack tight" onSubmit={run}>
          <ul class="list graph-edits">
            {view.edits.map((edit, i) => (
              <li key={edit.node.id}>
                <span class="name">
                  <i class="sign latent" /> {nodeTitle(edit.node)} <span class="muted">{nodePlace(edit.node)}, now {num(edit.node.activation)}</span>
                </span>
                <span class="row">
                  <button type="button" aria-pressed={edit.factor === 0} onClick={() => change(i, 0)}>Ablate</button>
                  <label class="row">
                    × <NumberField live step="any" min={-100} max={100} value={edit.factor} aria-label={`Factor of ${nodeTitle(edit.node)}`} onNumber={(factor) => factor !== null && change(i, factor)} />
                  </label>
                  <button type="button" class="quiet" aria-label={`Leave ${nodeTitle(edit.node)} as it is`} onClick={() => onView({ edits: view.edits.filter((other) => other !== edit) })}>Remove</button>
                </span>
              </li>
            ))}
          </ul>
          {source.edit && (
            <p class="row">
              <button type="submit" class="primary" disabled={busy}>{busy ? "Running…" : "Run the model"}</button>
              <Choice
                name="Attention"
                value={view.held ? "held" : "free"}
                options={[
                  { value: "free", text: "Attention answers", help: "Patterns follow the edit, as in the model" },
                  { value: "held", text: "Attention held", help: "Patterns stay as they are on the prompt, as the graph assumes" },
                ]}
                onPick={(value) => onView({ held: value === "held" })}
              />
            </p>
          )}
        </form>
      )}
      {outcome?.error && <Message bad>{outcome.error}</Message>}
      {outcome?.result && <Result result={outcome.result} stale={outcome.of !== request} />}
    </section>
  );
}

function Result({ result, stale }: { result: GraphIntervention; stale: boolean }) {
  const most = Math.max(...result.tokens.map((token) => Math.max(token.before, token.after)), 1e-9);
  const bar = (value: number) => ({ width: `${(100 * value) / most}%` });
  return (
    <div class={stale ? "stale" : undefined} aria-live="polite">
      {stale && <p class="small">The edits changed since: run the model again.</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label="Next token with the edits">
        <table class="graph-result">
          <thead>
            <tr>
              <th scope="col">Next token</th>
              <th scope="col" class="n">Before</th>
              <th scope="col" class="n">After</th>
              <th scope="col" class="n"><Explained text="Change of the logit, less the mean change over the vocabulary">Δ logit</Explained></th>
              <th scope="col" class="bars" aria-hidden="true" />
            </tr>
          </thead>
          <tbody>
            {result.tokens.slice(0, 16).map((token) => (
              <tr key={token.id}>
                <td><Token text={token.text} /></td>
                <td class="n">{share(token.before)}</td>
                <td class="n">{share(token.after)}</td>
                <td class={`n ${token.change < 0 ? "tone-down" : "tone-up"}`}>{signed(token.change)}</td>
                <td class="bars" aria-hidden="true"><i style={bar(token.before)} /><i class="after" style={bar(token.after)} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="small muted">The prediction moved by {num(result.kl)} nats (KL divergence from before to after).</p>
    </div>
  );
}
