/** The reader's own text, read by the model: one latent's trace, or which latents fire at each token. */
import { useState } from "preact/hooks";
import { api } from "../api";
import type { SaeEntry, TextResult } from "../api";
import { count, num } from "../format";
import { setQuery, to, useRoute } from "../router";
import { sentence, useShared } from "../state";
import { DataTable, Message, Named } from "./bits";
import { Context, Ramp } from "./context";
import { quoted, shade } from "./tokens";

interface OwnTextProps {
  sae: SaeEntry;
  latent?: number;
  /** Value of the darkest shade of a trace: the latent's maximum. */
  max?: number | null;
  onResult?: () => void;
}

export function OwnText({ sae, latent, max, onResult }: OwnTextProps) {
  const { run, model, watchModel } = useShared();
  const { query } = useRoute();
  const [text, setText] = useState(query.get("text") ?? "");
  const [result, setResult] = useState<TextResult | null>(null);
  const [tracedLatent, setTracedLatent] = useState(-1);
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const ask = async () => {
    if (!text.trim()) return;
    setBusy(true);
    setError(null);
    watchModel();
    setQuery({ text });
    try {
      setResult(await api.text(sae.site, sae.name, { text, top: 10, ...(latent === undefined ? {} : { latent }) }));
      setTracedLatent(latent ?? -1);
      onResult?.();
    } catch (reason) {
      setError(sentence(reason));
    }
    setBusy(false);
    watchModel();
  };
  const current = result && (latent === undefined || tracedLatent === latent) ? result : null;
  return (
    <div class="stack tight">
      <form
        class="stack tight"
        onSubmit={(event) => {
          event.preventDefault();
          void ask();
        }}
      >
        <textarea
          rows={3}
          aria-label="Your text"
          data-search={latent === undefined ? true : undefined}
          placeholder="Type or paste any text"
          maxLength={run.limits.text_characters}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void ask();
          }}
        />
        <div class="row">
          <button type="submit" class="primary" disabled={busy || !text.trim()}>
            {latent === undefined ? "Show which latents fire" : "Test text"}
          </button>
          <span class={`small muted${busy ? " busy" : ""}`} role="status">
            {busy ? (model.state === "ready" ? "Reading…" : "Loading the model, some seconds…") : ""}
          </span>
        </div>
      </form>
      {error && <Message bad>{error}</Message>}
      {current && (latent === undefined ? <Firing result={current} sae={sae} /> : <Trace result={current} max={max ?? null} />)}
    </div>
  );
}

function Trace({ result, max }: { result: TextResult; max: number | null }) {
  const trace = result.trace ?? [];
  const highest = Math.max(0, ...trace);
  const top = Math.max(max ?? 0, highest);
  const fires = trace.filter((value) => value > 0).length;
  return (
    <div class="stack tight" data-trace>
      <Context run={result} values={trace} max={top} name="Your text" />
      <div class="row between">
        <span class="small muted">
          {fires ? `Fires on ${fires} of ${trace.length} tokens, at most ${num(highest)}` : `Silent on all ${trace.length} tokens`}
          {result.n_dropped > 0 && `; the last ${count(result.n_dropped)} tokens were left out`}
        </span>
        <Ramp max={top} />
      </div>
      <DataTable title="Activations" head={["Token", "Activation"]} rows={result.tokens.map((token, i) => [quoted(token), num(trace[i])])} />
    </div>
  );
}

function Firing({ result, sae }: { result: TextResult; sae: SaeEntry }) {
  const [at, setAt] = useState<number | null>(null);
  const [latent, setLatent] = useState<number | null>(null);
  // Shades: the latent that is pointed at, where it is among a token's strongest; else each token's strongest latent.
  const values = result.top.map((firings) => firings.find((firing) => latent === null || firing.latent === latent)?.value ?? 0);
  const special = new Set(result.special);
  const max = Math.max(1e-9, ...result.top.flatMap((firings, i) => (special.has(i) ? [] : firings.map((firing) => firing.value))));
  const strongest = at === null ? null : (result.top[at] ?? []);
  return (
    <div class="stack">
      <div class="tokens" role="group" aria-label="Tokens: choose one for its latents">
        {result.tokens.map((token, i) =>
          token === "" && i > 0 ? null : (
            <button
              type="button"
              key={i}
              class={`tokbutton u a${shade(Math.min(values[i] ?? 0, max), max)}`}
              aria-pressed={at === i}
              title={`${count(result.l0[i])} latents fire${result.top[i]?.[0] ? `, the strongest: ${result.top[i][0].latent} ${result.top[i][0].label} (${num(result.top[i][0].value)})` : ""}`}
              onClick={() => setAt(at === i ? null : i)}
            >
              <span class="tok">{quoted(token).slice(1, -1)}</span>
            </button>
          ),
        )}
      </div>
      <p class="small muted">
        {at === null
          ? "Strongest latents over the whole text; choose a token above for its own."
          : `Latents at ${quoted(result.tokens[at] ?? "")}, strongest first; ${count(result.l0[at])} fire there.`}
        {result.n_dropped > 0 && ` The last ${count(result.n_dropped)} tokens were left out.`}
      </p>
      <div class="scroll" tabIndex={0} role="region" aria-label="Latents of your text, table">
      <table>
        <thead>
          <tr>
            <th scope="col">Latent</th>
            <th scope="col" class="n">Activation</th>
            {strongest === null && <th scope="col">Strongest at</th>}
            {strongest === null && <th scope="col" class="n">Tokens</th>}
          </tr>
        </thead>
        <tbody>
          {(strongest ?? result.summary).map((row) => (
            <tr key={row.latent} onMouseEnter={() => setLatent(row.latent)} onMouseLeave={() => setLatent(null)} onFocusCapture={() => setLatent(row.latent)} onBlurCapture={() => setLatent(null)}>
              <td class="w">
                <a data-row href={to.latent(sae.site, sae.name, row.latent)}>
                  <Named latent={row.latent} label={row.label} />
                </a>
              </td>
              <td class="n">{num(row.value)}</td>
              {"peak" in row && strongest === null && (
                <>
                  <td class="nowrap"><span class="tok">{quoted(result.tokens[(row as TextResult["summary"][number]).peak] ?? "")}</span></td>
                  <td class="n">{(row as TextResult["summary"][number]).n_tokens}</td>
                </>
              )}
            </tr>
          ))}
        </tbody>
      </table>
      </div>
    </div>
  );
}
