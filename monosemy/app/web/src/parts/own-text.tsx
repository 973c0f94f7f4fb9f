/** The reader's own text, read by the model: one latent's trace, which latents fire at each token, or two texts compared. */
import { useState } from "preact/hooks";
import { api } from "../api";
import type { DifferenceBody, SaeEntry, TextDifference, TextResult } from "../api";
import { count, num } from "../format";
import { setQuery, useRoute } from "../router";
import { sentence, useShared } from "../state";
import { DataTable, Message } from "./bits";
import { Context, Ramp } from "./context";
import { Differences } from "./differences";
import { Firing } from "./firing";
import { explain } from "./term";
import { quoted } from "./tokens";

/** Two lines or more that begin with a speaker, as the server reads them (app/transcript.py). */
const SPEAKER = /^\s*[*#]*\s*(user|human|assistant|ai|model|system)\s*[*#]*:/i;
const looksLikeChat = (text: string): boolean => {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  return SPEAKER.test(lines[0] ?? "") && lines.filter((line) => SPEAKER.test(line)).length > 1;
};

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
  const [other, setOther] = useState<string | null>(query.get("other"));
  const chat = query.get("chat") === "1";
  const [result, setResult] = useState<TextResult | null>(null);
  const [difference, setDifference] = useState<{ answer: TextDifference; body: DifferenceBody } | null>(null);
  const [tracedLatent, setTracedLatent] = useState(-1);
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const ask = async () => {
    if (!text.trim()) return;
    setBusy(true);
    setError(null);
    watchModel();
    setQuery({ text: text.length < 2000 ? text : null, other: other && other.length < 2000 ? other : null });
    try {
      if (other?.trim() && latent === undefined) {
        const body = { text, other, chat };
        setDifference({ answer: await api.textDifference(sae.site, sae.name, body), body });
        setResult(null);
      } else {
        setResult(await api.text(sae.site, sae.name, { text, top: 10, chat, ...(latent === undefined ? {} : { latent }) }));
        setDifference(null);
      }
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
        {latent === undefined && other !== null && (
          <label class="field">
            <span>A second text: what fires in one and not in the other?</span>
            <textarea rows={3} maxLength={run.limits.text_characters} value={other} onInput={(event) => setOther(event.currentTarget.value)} />
          </label>
        )}
        {!chat && model.chat !== false && (looksLikeChat(text) || looksLikeChat(other ?? "")) && (
          <div class="row">
            <span class="small">This looks like a chat between speakers.</span>
            <button type="button" onClick={() => setQuery({ chat: true })}>Read as a chat</button>
          </div>
        )}
        <div class="row">
          <button type="submit" class="primary" disabled={busy || !text.trim()}>
            {latent !== undefined ? "Test text" : other?.trim() ? "Compare the texts" : "Show which latents fire"}
          </button>
          {latent === undefined && (
            <button type="button" aria-pressed={other !== null} onClick={() => setOther(other === null ? "" : null)}>
              Compare with a second text
            </button>
          )}
          {model.chat !== false && (
            <label class="check" {...explain("Lines that begin with “User:”, “Assistant:” or “System:” begin a message; or a JSON list of role and content")}>
              <input type="checkbox" checked={chat} onChange={(event) => setQuery({ chat: event.currentTarget.checked })} />
              A chat: lines “User:”, “Assistant:”
            </label>
          )}
          <span class={`small muted${busy ? " busy" : ""}`} role="status">
            {busy ? (model.state === "ready" ? "Reading…" : "Loading the model, some seconds…") : ""}
          </span>
        </div>
      </form>
      {error && <Message bad>{error}</Message>}
      {current && (latent === undefined ? <Firing result={current} sae={sae} body={{ text, chat }} /> : <Trace result={current} max={max ?? null} />)}
      {difference && latent === undefined && <Differences difference={difference.answer} sae={sae} body={difference.body} />}
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
