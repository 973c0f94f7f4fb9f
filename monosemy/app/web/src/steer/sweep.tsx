/** The steered answer at several strengths of the first change: where it says more of the concept, and where it breaks. */
import { useRef, useState } from "preact/hooks";
import { api } from "../api";
import type { SaeEntry, SweepEvent } from "../api";
import { Lines } from "../charts/lines";
import { num } from "../format";
import { Message } from "../parts/bits";
import { Term } from "../parts/term";
import { setQuery, useRoute } from "../router";
import { sentence, useShared } from "../state";
import { patient } from "./patient";
import { OPERATIONS, UNITS, hasUnit, request } from "./settings";
import type { Settings } from "./settings";

type Strength = Extract<SweepEvent, { kind: "strength" }>;

export function Sweep({ settings, sae, busy, onBusy }: { settings: Settings; sae: SaeEntry; busy: boolean; onBusy: (busy: boolean) => void }) {
  const { run, watchModel } = useShared();
  const { query } = useRoute();
  const [first] = settings.edits;
  const text = query.get("sweep") ?? (first?.unit === "norm" ? "0, 0.1, 0.2, 0.4, 0.6, 0.8" : "0, 0.5, 1, 1.5, 2, 3, 4");
  const [strengths, setStrengths] = useState<Strength[]>([]);
  const [progress, setProgress] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [running, setRunning] = useState(false);
  const abort = useRef<AbortController | null>(null);
  const values = text.split(/[\s,;]+/).filter(Boolean).map(Number);
  const wrong = !values.length || values.some((value) => !Number.isFinite(value));
  const many = values.length > run.limits.sweep_values;
  const start = async () => {
    abort.current = new AbortController();
    setStrengths([]);
    setProgress("");
    setError(null);
    setRunning(true);
    onBusy(true);
    watchModel();
    try {
      const sweep = { ...request(settings, sae), columns: ["steered" as const], values };
      const { signal } = abort.current;
      const on = (event: SweepEvent) => {
        if (event.kind === "strength") setStrengths((old) => [...old, event].sort((a, b) => a.value - b.value));
        else if (event.kind === "progress") setProgress(`, token ${event.step} of ${event.n_tokens}`);
        else if (event.kind === "error") setError(event.error);
      };
      await patient(() => api.sweep(sweep, on, signal), signal);
    } catch (reason) {
      if (!abort.current.signal.aborted) setError(sentence(reason));
    }
    setRunning(false);
    onBusy(false);
    watchModel();
  };
  if (!first || first.operation === "ablate") return null;
  const operation = OPERATIONS.find((option) => option.value === first.operation)?.text.toLowerCase() ?? "";
  const unit = hasUnit(first.operation) ? (UNITS.find((option) => option.value === first.unit)?.text ?? "") : "";
  const x = strengths.map((strength) => strength.value);
  return (
    <section class="card stack" aria-labelledby="sweep">
      <header>
        <h2 id="sweep">Strength sweep</h2>
        <span class="sub">latent {first.latent}{first.sae && ` of ${first.sae}`}, {operation}, {unit}</span>
      </header>
      <div class="row end">
        <label class="field wide">
          <span>Strengths, at most {run.limits.sweep_values}</span>
          <input value={text} onInput={(event) => setQuery({ sweep: event.currentTarget.value })} />
        </label>
        {running ? (
          <button type="button" onClick={() => abort.current?.abort()}>Stop</button>
        ) : (
          <button type="button" disabled={busy || wrong || many} onClick={() => void start()}>Run sweep</button>
        )}
        <span class={`small muted${running ? " busy" : ""}`} role="status">{running ? `${strengths.length} of ${values.length}${progress}` : ""}</span>
      </div>
      {wrong && <Message bad>Strengths must be numbers, separated by commas.</Message>}
      {many && <Message bad>At most {run.limits.sweep_values} strengths at a time.</Message>}
      {error && <Message bad>{error}</Message>}
      {strengths.length > 0 && (
        <>
          <div class="two">
            <Lines title="Perplexity under the unsteered model" xName="Strength" yName="Perplexity, log scale" log x={x} series={[{ name: "Perplexity", tone: "tone-accent", values: strengths.map((strength) => strength.perplexity) }]} />
            <Lines title="KL from the unsteered model" xName="Strength" yName="KL, nats per token" zero x={x} series={[{ name: "KL", tone: "tone-mark", values: strengths.map((strength) => strength.mean_kl) }]} />
          </div>
          <div class="scroll">
            <table>
              <thead>
                <tr>
                  <th scope="col" class="n">Strength</th>
                  <th scope="col">Answer</th>
                  <th scope="col" class="n"><Term word="perplexity">Perplexity</Term></th>
                  <th scope="col" class="n"><Term word="KL" /></th>
                  <th scope="col" class="n"><Term word="distinct pairs">Distinct pairs</Term></th>
                </tr>
              </thead>
              <tbody>
                {strengths.map((strength) => (
                  <tr key={strength.value}>
                    <td class="n">{num(strength.value)}</td>
                    <td class="w answer">{strength.text}</td>
                    <td class="n">{num(strength.perplexity)}</td>
                    <td class="n">{num(strength.mean_kl)}</td>
                    <td class="n">{num(strength.distinct[1], 2)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </section>
  );
}
